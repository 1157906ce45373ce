"""One sequence in one slot of llama.cpp, stepped token by token.

1. A prompt is processed in pieces of one batch, so that cancelling waits for a piece and not for a prompt.
2. The engine's own choice is thrown away: a bias makes it a plain letter, because llama.cpp leaves out the
   log-probabilities of a token that ends inside a character. The log-probabilities that it gives are those before any
   bias.
3. A slot is given back when the step that may still run in its thread has ended, never before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from steelyard.engines.llama_server import LlamaServer
from steelyard.engines.port import TOP_CANDIDATES, Candidates
from steelyard.errors import BadRequest, Fault, Unavailable

_FORCING_BIAS = 10_000.0


class LlamaSession:
    """A `Session` on a slot that nobody else uses until `aclose`."""

    def __init__(
        self,
        server: LlamaServer,
        slot: int,
        tokens: Sequence[int],
        cached: int,
        plain_token: int,
        give_back: Callable[[tuple[int, ...]], None],
    ) -> None:
        """Begin on a prompt, of which the slot's cache holds the first `cached` tokens already.

        `plain_token` spells one plain letter; `give_back` takes the slot again, with the tokens that its cache then
        holds.
        """
        self._server = server
        self._slot = slot
        self._tokens = list(tokens)
        self._processed = cached
        self._plain_token = plain_token
        self._give_back = give_back
        self._running: Future[dict[str, Any]] | None = None
        self._is_open = True
        self.prompt_tokens = len(tokens)

    @property
    def room(self) -> int:
        return self._server.options.context_tokens - len(self._tokens)

    async def candidates(self) -> Candidates:
        piece = self._server.options.batch_tokens
        for end in range(self._processed + piece, len(self._tokens), piece):
            await self._call({"prompt": self._tokens[:end], "max_tokens": 0})
            self._processed = end
        answer = await self._call(
            {
                "prompt": self._tokens,
                "max_tokens": 1,
                "logprobs": TOP_CANDIDATES,
                "logit_bias": [[self._plain_token, _FORCING_BIAS]],
            }
        )
        self._processed = len(self._tokens)
        top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return Candidates(tuple(item["id"] for item in top), tuple(item["logprob"] for item in top))

    def push(self, token_id: int) -> None:
        self._tokens.append(token_id)

    async def _call(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self._is_open:
            raise Fault("a closed session was stepped")
        body.update(id_slot=self._slot, cache_prompt=True, temperature=0)
        self._running = self._server.submit("handle_completions", body)
        answer = await asyncio.wrap_future(self._running)
        raise_error(answer, "messages")
        return answer

    async def aclose(self) -> None:
        """Give the slot back; safe to call twice, and from a task that is being cancelled."""
        if not self._is_open:
            return
        self._is_open = False
        held, loop = tuple(self._tokens[: self._processed]), asyncio.get_running_loop()
        if self._running is None or self._running.done():
            self._give_back(held)
            return

        def release(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._give_back, held)

        self._running.add_done_callback(release)


def raise_error(answer: dict[str, Any], param: str) -> None:
    """Raise what llama.cpp answered if it was an error: the caller's fault as BadRequest, else Unavailable."""
    error = answer.get("error")
    if error is None:
        return
    message = str(error.get("message", error))
    if error.get("type") in ("exceed_context_size_error", "invalid_request_error"):
        raise BadRequest(f"the engine refused the prompt: {message}", param=param)
    raise Unavailable(f"the engine failed: {message}", code="engine_failed")
