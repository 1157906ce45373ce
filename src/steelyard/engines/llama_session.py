"""One sequence in one slot of llama.cpp, stepped token by token.

1. A prompt is processed in pieces of one batch, so that cancelling waits for a piece and not for a prompt.
2. The engine's own choice is thrown away: a bias makes it a plain letter, because llama.cpp leaves out the
   log-probabilities of a token that ends inside a character. The log-probabilities that it gives are those before any
   bias.
3. After the prompt, steps go through the gate, where they meet those of other sessions.
4. A slot is given back when the step that may still run in its thread has ended, never before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from steelyard.engines.llama_gate import StepGate, raise_error
from steelyard.engines.llama_server import LlamaServer
from steelyard.engines.port import TOP_CANDIDATES, Candidates
from steelyard.errors import Fault

_FORCING_BIAS = 10_000.0


class LlamaSession:
    """A `Session` on a slot that nobody else uses until `aclose`."""

    def __init__(
        self,
        server: LlamaServer,
        gate: StepGate,
        slot: int,
        tokens: Sequence[int],
        cached: int,
        give_back: Callable[[tuple[int, ...]], None],
    ) -> None:
        """Begin on a prompt, of which the slot's cache holds the first `cached` tokens already.

        `give_back` takes the slot again, with the tokens that its cache then holds.
        """
        self._server = server
        self._gate = gate
        self._slot = slot
        self._tokens = list(tokens)
        self._processed = cached
        self._give_back = give_back
        self._prefill: Future[dict[str, Any]] | None = None
        self._is_prefilled = False
        self._is_open = True
        self.prompt_tokens = len(tokens)

    @property
    def room(self) -> int:
        return self._server.options.context_tokens - len(self._tokens)

    async def candidates(self) -> Candidates:
        if not self._is_open:
            raise Fault("a closed session was stepped")
        if self._is_prefilled:
            choice = await self._gate.step(self._slot, self._tokens)
        else:
            choice = await self._process_prompt()
        self._processed = len(self._tokens)
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        return Candidates(tuple(item["id"] for item in top), tuple(item["logprob"] for item in top))

    def push(self, token_id: int) -> None:
        self._tokens.append(token_id)

    async def _process_prompt(self) -> dict[str, Any]:
        """Bring the prompt into this very slot's cache, piece by piece; the last piece is the first step."""
        piece = self._server.options.batch_tokens
        for end in range(self._processed + piece, len(self._tokens), piece):
            await self._call({"prompt": self._tokens[:end], "max_tokens": 0, "temperature": 0, "cache_prompt": True})
            self._processed = end
        answer = await self._call({**self._gate.request, "prompt": self._tokens})
        self._is_prefilled = True
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    async def _call(self, body: dict[str, Any]) -> dict[str, Any]:
        self._prefill = self._server.submit("handle_completions", {**body, "id_slot": self._slot})
        answer = await asyncio.wrap_future(self._prefill)
        raise_error(answer, "messages")
        return answer

    async def aclose(self) -> None:
        """Give the slot back; safe to call twice, and from a task that is being cancelled."""
        if not self._is_open:
            return
        self._is_open = False
        held, loop = tuple(self._tokens[: self._processed]), asyncio.get_running_loop()
        running = self._gate.leave(self._slot) or self._prefill
        if running is None or running.done():
            self._give_back(held)
            return

        def release(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._give_back, held)

        running.add_done_callback(release)


def step_request(plain_token: int) -> dict[str, Any]:
    """Return what every step asks llama.cpp for, beside its tokens; `plain_token` spells one plain letter."""
    return {
        "max_tokens": 1,
        "logprobs": TOP_CANDIDATES,
        "temperature": 0,
        "cache_prompt": True,
        "logit_bias": [[plain_token, _FORCING_BIAS]],
    }
