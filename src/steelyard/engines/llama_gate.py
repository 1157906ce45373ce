"""The gate where the steps of several sessions meet, so that the engine computes them in one batch.

1. Stepped one by one, sessions would take turns: each step reads all weights for one token. Sent together, they share
   that.
2. After a batch, the sessions that were in it are expected back; the gate waits for them a few milliseconds, never
   longer. One that stays away (its reader is slow) is not waited for again until it has come back.
3. A lone session names its slot. Several in one request can't; the server finds each one's slot by its tokens, of
   which it holds all but the last. A batch computes the same bits as a lone step
   (tests/integration/test_llama_engine.py).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from steelyard.engines.llama_server import LlamaServer
from steelyard.errors import BadRequest, SteelyardError, Unavailable

GRACE_S = 0.003
"""How long a batch waits for sessions that were in the last one; a step of a small model takes 20 ms."""


_Step = tuple[list[int], "asyncio.Future[dict[str, Any]]"]


class StepGate:
    """Collects the steps of one server's sessions."""

    def __init__(self, server: LlamaServer, request: dict[str, Any]) -> None:
        """`request` is what every step asks for, beside its tokens."""
        self._server = server
        self.request = request
        self._waiting: dict[int, _Step] = {}
        self._expected: set[int] = set()
        self._flying: frozenset[int] = frozenset()
        self._flight: Future[dict[str, Any]] | None = None
        self._arrival = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._grace_ends = 0.0

    async def step(self, slot: int, tokens: list[int]) -> dict[str, Any]:
        """Return the completion's choice for the next position of a session whose slot holds all tokens but the last.

        Raises:
            BadRequest, Unavailable: as the server says.
        """
        outcome: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[slot] = (tokens, outcome)
        self._arrival.set()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await outcome

    def leave(self, slot: int) -> Future[dict[str, Any]] | None:
        """Forget a session; return the call that still computes its step, if one does."""
        self._expected.discard(slot)
        self._waiting.pop(slot, None)
        self._arrival.set()
        return self._flight if slot in self._flying else None

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                if self._waiting:
                    await self._fly()
        finally:
            self._runner = None

    async def _gather(self) -> None:
        """Wait until everyone who is expected is here, or the grace is over."""
        loop = asyncio.get_running_loop()
        while not self._expected <= self._waiting.keys() and (left := self._grace_ends - loop.time()) > 0:
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                break

    async def _fly(self) -> None:
        batch, self._waiting = self._waiting, {}
        self._flying, self._expected = frozenset(batch), set(batch)
        try:
            choices = await self._compute(batch)
        except (Exception, asyncio.CancelledError) as error:  # whatever it was, nobody may wait for ever
            failure = (
                error
                if isinstance(error, SteelyardError)
                else Unavailable(f"the engine failed: {type(error).__name__}: {error}", code="engine_failed")
            )
            for _, outcome in batch.values():
                if not outcome.done():
                    outcome.set_exception(failure)
        else:
            for (_, outcome), choice in zip(batch.values(), choices, strict=True):
                if not outcome.done():
                    outcome.set_result(choice)
        finally:
            self._flying, self._flight = frozenset(), None
            self._grace_ends = asyncio.get_running_loop().time() + GRACE_S

    async def _compute(
        self, batch: dict[int, tuple[list[int], asyncio.Future[dict[str, Any]]]]
    ) -> list[dict[str, Any]]:
        prompts = [tokens for tokens, _ in batch.values()]
        if len(batch) == 1:
            body = {**self.request, "prompt": prompts[0], "id_slot": next(iter(batch))}
        else:
            body = {**self.request, "prompt": prompts}
        self._flight = self._server.submit("handle_completions", body)
        answer = await asyncio.wrap_future(self._flight)
        raise_error(answer, "messages")
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        if len(choices) != len(batch):
            raise Unavailable(f"the engine answered {len(choices)} of {len(batch)} steps", code="engine_failed")
        return choices


def raise_error(answer: dict[str, Any], param: str) -> None:
    """Raise what llama.cpp answered if it was an error: the caller's fault as BadRequest, else Unavailable."""
    error = answer.get("error")
    if error is None:
        return
    message = str(error.get("message", error))
    if error.get("type") in ("exceed_context_size_error", "invalid_request_error"):
        raise BadRequest(f"the engine refused the prompt: {message}", param=param)
    raise Unavailable(f"the engine failed: {message}", code="engine_failed")
