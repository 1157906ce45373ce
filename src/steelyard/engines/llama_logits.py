"""One forward pass over prompt and answer: the candidates before every answer token, all at once.

1. A scorer owns its own copy of the model and one sequence; scores are made one after the other, in a thread.
2. The pass goes through in pieces of one batch, so that the logits held at once stay bounded and a scorer that is being
   closed stops at the end of a piece.
3. Logits are those over the whole vocabulary, before any bias; the 64 likeliest and the normaliser are found in C.

Measured (SmolLM2-135M, one thread): bench/verification/overhead.py.
"""

from __future__ import annotations

import array
import asyncio
import ctypes
import math
import threading
from collections.abc import Sequence
from pathlib import Path

from steelyard.engines.llama_library import Batch, LlamaLibrary, TokenDataArray, load_llama_library
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import TOP_CANDIDATES, Candidates, check_scored, check_tokens
from steelyard.errors import ConfigError, Unavailable

_WORDS = 3
"""Words of 4 bytes in a `llama_token_data`: id, logit, probability."""


class LlamaScorer:
    """A `Scorer` over llama.cpp's C API; nothing is loaded before the first score."""

    def __init__(self, path: Path, options: LlamaOptions) -> None:
        """Name the file, whose hash the caller has proven; context, batch and threads are the options'."""
        self._path = path
        self._options = options
        self._model: LlamaLogits | None = None
        self._turn = threading.Lock()
        self._is_closed = False

    async def score(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Candidates]:
        check_scored(prompt, answer, self._options.context_tokens)
        return await asyncio.to_thread(self._score, [*prompt, *answer[:-1]], len(answer))

    async def aclose(self) -> None:
        """Wait for the piece that runs, then unload the model; safe to call twice."""
        self._is_closed = True
        await asyncio.to_thread(self._close)

    def _score(self, tokens: list[int], count: int) -> list[Candidates]:
        found: list[Candidates] = []
        with self._turn:
            for start in range(0, len(tokens) if count else 0, self._options.batch_tokens):
                if self._is_closed:
                    raise Unavailable("the model engine is closed", code="engine_closed")
                if self._model is None:
                    self._model = LlamaLogits(load_llama_library(), self._path, self._options)
                piece = tokens[start : start + self._options.batch_tokens]
                found += self._model.feed(piece, len(tokens) - count - start, is_new=start == 0)
        return found

    def _close(self) -> None:
        with self._turn:
            model, self._model = self._model, None
            if model is not None:
                model.close()


class LlamaLogits:
    """A loaded model and one sequence of it; owned by one thread at a time, closed by its owner."""

    def __init__(self, library: LlamaLibrary, path: Path, options: LlamaOptions) -> None:
        """Load the model.

        Raises:
            ConfigError: the file can't be loaded, or the library did not take the sizes that it was given.
        """
        self._lib = library
        self._context = self._top = None
        self._model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not self._model:
            raise ConfigError(f"llama.cpp can't load {path}: the file is damaged, or of an unknown architecture")
        params = library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = (options.context_tokens, *(options.batch_tokens,) * 2)
        self._context = library.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise ConfigError(f"llama.cpp can't open a context of {options.context_tokens} tokens: not enough memory")
        if library.llama_n_ctx(self._context) < options.context_tokens or (
            library.llama_n_batch(self._context) < options.batch_tokens
        ):
            self.close()
            raise ConfigError("llama.cpp did not take the context that was asked for: install the tested version")
        library.llama_set_n_threads(self._context, options.threads, options.threads)
        self._memory = library.llama_get_memory(self._context)
        self._top = library.llama_sampler_init_top_k(TOP_CANDIDATES)
        self._size = size = int(library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model)))
        self._entries, self._blank = ((ctypes.c_int32 * (_WORDS * size))() for _ in range(2))
        self._scratch = (ctypes.c_float * size)()
        self._ids = memoryview(self._entries).cast("B").cast("i")
        self._logits = memoryview(self._entries).cast("B").cast("f")
        memoryview(self._blank).cast("B").cast("i")[::_WORDS] = memoryview(array.array("i", range(size)))

    def feed(self, tokens: Sequence[int], first: int, *, is_new: bool) -> list[Candidates]:
        """Process the next tokens of the sequence; return the candidates that follow each, from index `first` on.

        Args:
            tokens: at most a batch; untrusted. first: below zero for all.  is_new: forget the sequence before.

        Raises:
            BadRequest: a token is not in the vocabulary.
            Unavailable: the library failed.
        """
        check_tokens(tokens, self._size)
        if is_new:
            self._lib.llama_memory_clear(self._memory, True)
        count = len(tokens)
        first = min(max(first, 0), count)
        ids = (ctypes.c_int32 * count)(*tokens)
        wanted = (ctypes.c_int8 * count)(*(0,) * first, *(1,) * (count - first))
        batch = Batch(n_tokens=count, token=ctypes.addressof(ids), logits=ctypes.addressof(wanted))
        status = self._lib.llama_decode(self._context, batch)
        if status:
            raise Unavailable(f"llama.cpp failed on {count} tokens with status {status}", code="engine_failed")
        return [self._candidates(index) for index in range(first, count)]

    def _candidates(self, index: int) -> Candidates:
        logits = self._lib.llama_get_logits_ith(self._context, index)
        if not logits:
            raise Unavailable(f"llama.cpp gave no logits for token {index}", code="engine_failed")
        whole = (ctypes.c_float * self._size).from_address(logits)
        ctypes.memmove(self._entries, self._blank, ctypes.sizeof(self._blank))
        self._logits[1::_WORDS] = memoryview(whole).cast("B").cast("f")
        ranked = TokenDataArray(ctypes.addressof(self._entries), self._size, -1, False)
        self._lib.llama_sampler_apply(self._top, ctypes.byref(ranked))
        end = _WORDS * ranked.size
        top = self._logits[1:end:_WORDS].tolist()
        total = self._lib.ggml_vec_soft_max_f32(self._size, ctypes.addressof(self._scratch), logits, top[0])
        normaliser = top[0] + math.log(total)
        logprobs = array.array("f", (logit - normaliser for logit in top))
        return Candidates(tuple(self._ids[:end:_WORDS].tolist()), tuple(logprobs))

    def close(self) -> None:
        """Free everything that was loaded; safe to call twice."""
        freed = (("llama_sampler_free", self._top), ("llama_free", self._context), ("llama_model_free", self._model))
        self._top = self._context = self._model = None
        for name, pointer in freed:
            if pointer:
                getattr(self._lib, name)(pointer)
