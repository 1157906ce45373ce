"""One forward pass over prompt and answer: the candidates before every answer token, all at once.

1. A scorer has one sequence in a context of its own; scores are made one after the other, in a thread.
2. The pass goes through in pieces of one batch, so that the logits held at once stay bounded and a scorer that is being
   closed stops at the end of a piece.

Measured (SmolLM2-135M, one thread): bench/verification/overhead.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from steelyard.engines.llama_context import LlamaContext, LlamaModel, Piece
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import Candidates, check_scored, check_tokens
from steelyard.errors import Unavailable


class LlamaScorer:
    """A `Scorer` over a loaded model; its context is opened with the first score."""

    def __init__(self, model: LlamaModel, options: LlamaOptions) -> None:
        """Score with a model that outlives this; context, batch and threads are the options'."""
        self._model = model
        self._options = options
        self._context: LlamaContext | None = None
        self._turn = threading.Lock()
        self._is_closed = False

    async def score(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Candidates]:
        check_scored(prompt, answer, self._options.context_tokens)
        tokens = [*prompt, *answer[:-1]]
        check_tokens(tokens, self._model.vocabulary_size)
        return await asyncio.to_thread(self._score, tokens, len(answer))

    async def aclose(self) -> None:
        """Wait for the piece that runs, then free the context; safe to call twice."""
        self._is_closed = True
        await asyncio.to_thread(self._close)

    def _score(self, tokens: list[int], count: int) -> list[Candidates]:
        found: list[Candidates] = []
        with self._turn:
            for start in range(0, len(tokens) if count else 0, self._options.batch_tokens):
                if self._is_closed:
                    raise Unavailable("the model engine is closed", code="engine_closed")
                if self._context is None:
                    self._context = self._model.open_context(1, self._options)
                piece = tokens[start : start + self._options.batch_tokens]
                wanted = min(len(piece), max(0, start + len(piece) - (len(tokens) - count)))
                found += self._context.decode([Piece(0, start, piece, wanted)])[0]
        return found

    def _close(self) -> None:
        with self._turn:
            context, self._context = self._context, None
            if context is not None:
                context.close()
