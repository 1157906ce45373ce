"""The 64 likeliest tokens after a position, and their log-probabilities over the whole vocabulary, found in C.

1. Logits are those before any bias. The library lines up the candidates and sorts them; a link in its chain of
   samplers, ours, copies the ones that are left. What the chain then chooses is thrown away.
2. The normaliser is the library's sum of exponentials over all logits; only the last steps are Python's.
"""

from __future__ import annotations

import array
import ctypes
import math
from typing import Any

from steelyard.engines.llama_library import LlamaLibrary, SamplerApply, SamplerInterface, TokenDataArray
from steelyard.engines.port import TOP_CANDIDATES, Candidates
from steelyard.errors import Unavailable

_WORDS = 3
"""Words of 4 bytes in a `llama_token_data`: id, logit, probability."""


class TopRanker:
    """Ranks the outputs of contexts over one vocabulary; used by one thread at a time, closed by its owner."""

    def __init__(self, library: LlamaLibrary, vocabulary_size: int) -> None:
        self._lib = library
        self._size = vocabulary_size
        self._scratch = (ctypes.c_float * vocabulary_size)()
        self._top = (ctypes.c_int32 * (_WORDS * TOP_CANDIDATES))()
        self._count = 0
        self._ids = memoryview(self._top).cast("B").cast("i")
        self._logits = memoryview(self._top).cast("B").cast("f")
        # The library keeps a pointer to this structure for as long as the chain lives.
        self._link = SamplerInterface(apply=SamplerApply(self._keep))
        self._chain: Any = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        for link in (
            library.llama_sampler_init_top_k(TOP_CANDIDATES),
            library.llama_sampler_init(ctypes.byref(self._link), None),
            library.llama_sampler_init_greedy(),
        ):
            library.llama_sampler_chain_add(self._chain, link)

    def rank(self, context: Any, index: int) -> Candidates:
        """Return the candidates after the token at this index of the batch that the context decoded last.

        Raises:
            Unavailable: the library failed.
        """
        logits = self._lib.llama_get_logits_ith(context, index)
        if not logits:
            raise Unavailable(f"llama.cpp gave no logits for token {index}", code="engine_failed")
        self._count = 0
        self._lib.llama_sampler_sample(self._chain, context, index)
        end = _WORDS * self._count
        top = self._logits[1:end:_WORDS].tolist()
        if not top:
            raise Unavailable(f"llama.cpp ranked no candidates for token {index}", code="engine_failed")
        total = self._lib.ggml_vec_soft_max_f32(self._size, ctypes.addressof(self._scratch), logits, top[0])
        normaliser = top[0] + math.log(total)
        logprobs = array.array("f", (logit - normaliser for logit in top))
        return Candidates(tuple(self._ids[:end:_WORDS].tolist()), tuple(logprobs))

    def _keep(self, _: int, left: ctypes._Pointer[TokenDataArray]) -> None:
        found = left.contents
        self._count = min(found.size, TOP_CANDIDATES)
        ctypes.memmove(self._top, found.data, 4 * _WORDS * self._count)

    def close(self) -> None:
        """Free the chain; safe to call twice."""
        chain, self._chain = self._chain, None
        if chain:
            self._lib.llama_sampler_free(chain)
