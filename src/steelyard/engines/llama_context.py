"""A model that is loaded once, and the contexts over it: each some sequences side by side, decoded in shared batches.

1. A model outlives its contexts; whoever opened them closes them first.
2. A piece says where it goes: whatever its sequence's cache held from there on is cut before. So nothing that was left
   behind by a failed or forgotten piece is ever read.
3. Sequences don't share cells: what one computes does not depend on what the others hold.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steelyard.engines.llama_library import Batch, LlamaLibrary
from steelyard.engines.llama_ranking import TopRanker
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import Candidates
from steelyard.errors import ConfigError, Unavailable


class Piece(NamedTuple):
    """Tokens that go on with a sequence.

    Attributes:
        sequence: which one.  start: the position of the first of the tokens; the cache holds all before it.
        tokens: ids of the vocabulary, checked.  wanted: after how many of the last ones candidates are asked for.
    """

    sequence: int
    start: int
    tokens: Sequence[int]
    wanted: int


class LlamaModel:
    """Loaded weights."""

    def __init__(self, library: LlamaLibrary, path: Path) -> None:
        """Load them.

        Raises:
            ConfigError: the file can't be loaded.
        """
        self._lib = library
        self._model: Any = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not self._model:
            raise ConfigError(f"llama.cpp can't load {path}: the file is damaged, or of an unknown architecture")
        self.vocabulary_size = int(library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model)))
        # Memory that is a state instead of a cache can only be forgotten as a whole.
        is_state = library.llama_model_is_recurrent, library.llama_model_is_hybrid
        self.can_cut = not any(check(self._model) for check in is_state)

    def open_context(self, sequences: int, options: LlamaOptions) -> LlamaContext:
        """Open a context of this many sequences; batch, threads and tokens per sequence are the options'.

        Raises:
            ConfigError: there is not enough memory, or the library did not take the sizes that it was given.
        """
        return LlamaContext(self._lib, self._model, self.vocabulary_size, sequences, options)

    def close(self) -> None:
        """Free the weights; safe to call twice."""
        model, self._model = self._model, None
        if model:
            self._lib.llama_model_free(model)


class LlamaContext:
    """Sequences and their caches; used by one thread at a time."""

    def __init__(
        self, library: LlamaLibrary, model: Any, vocabulary_size: int, sequences: int, options: LlamaOptions
    ) -> None:
        """Open it over a model; see `LlamaModel.open_context`."""
        self._lib = library
        params = library.llama_context_default_params()
        params.n_seq_max, params.n_ctx = sequences, options.context_tokens * sequences
        params.n_batch = params.n_ubatch = options.batch_tokens
        self._context: Any = library.llama_init_from_model(model, params)
        if not self._context:
            raise ConfigError(
                f"llama.cpp can't open a context of {sequences} x {options.context_tokens} tokens: not enough memory"
            )
        self._ranker = TopRanker(library, vocabulary_size)
        if library.llama_n_ctx(self._context) < params.n_ctx or library.llama_n_batch(self._context) < params.n_batch:
            self.close()
            raise ConfigError("llama.cpp did not take the context that was asked for: install the tested version")
        library.llama_set_n_threads(self._context, options.threads, options.threads)
        self._memory = library.llama_get_memory(self._context)
        size = self._batch_tokens = options.batch_tokens
        self._tokens, self._positions = (ctypes.c_int32 * size)(), (ctypes.c_int32 * size)()
        self._wanted, self._ones = (ctypes.c_int8 * size)(), (ctypes.c_int32 * size)(*(1,) * size)
        self._cells = (ctypes.c_int32 * sequences)(*range(sequences))
        self._sequences = (ctypes.c_void_p * size)()

    def decode(self, pieces: Sequence[Piece]) -> list[list[Candidates]]:
        """Process pieces in one batch; return the candidates after the wanted tokens of each.

        Args:
            pieces: of different sequences, in their order, so that the library computes them together; no more tokens
                than a batch.

        Raises:
            Unavailable: the library failed; what the caches hold from the pieces on is unknown.
        """
        count, ends = 0, []
        for sequence, start, tokens, wanted in pieces:
            first, count = count, count + len(tokens)
            if count > self._batch_tokens or not self._lib.llama_memory_seq_rm(self._memory, sequence, start, -1):
                raise Unavailable(f"llama.cpp can't go on at token {start} of a sequence", code="engine_failed")
            cell = ctypes.addressof(self._cells) + sequence * ctypes.sizeof(ctypes.c_int32)
            self._tokens[first:count] = [*tokens]
            self._positions[first:count] = [*range(start, start + len(tokens))]
            self._wanted[first:count] = [*(0,) * (len(tokens) - wanted), *(1,) * wanted]
            self._sequences[first:count] = [cell] * len(tokens)
            ends.append((count - wanted, count))
        status = self._lib.llama_decode(self._context, self._batch_of(count))
        if status:
            raise Unavailable(f"llama.cpp failed on {count} tokens with status {status}", code="engine_failed")
        return [[self._ranker.rank(self._context, index) for index in range(*end)] for end in ends]

    def _batch_of(self, count: int) -> Batch:
        return Batch(
            n_tokens=count,
            token=ctypes.addressof(self._tokens),
            pos=ctypes.addressof(self._positions),
            n_seq_id=ctypes.addressof(self._ones),
            seq_id=ctypes.addressof(self._sequences),
            logits=ctypes.addressof(self._wanted),
        )

    def close(self) -> None:
        """Free the caches; safe to call twice."""
        context, self._context = self._context, None
        if context:
            self._ranker.close()
            self._lib.llama_free(context)
