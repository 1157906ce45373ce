"""The one thread that decodes, and the batches in which the steps and prompts of all sessions meet.

1. Stepped one by one, sessions would take turns: each step reads all weights for one token. In one batch they share
   that. A batch computes the same bits as a lone step (tests/integration/test_llama_engine.py).
2. Steps go first, prompts fill what is left, each as much as fits and then behind the others: a long prompt stops
   neither the answers that are being written nor the other prompts.
3. After a batch, the sessions that got their candidates are expected back; they are waited for a few milliseconds,
   never longer. One that stays away (its reader is slow) is not waited for again until it has come back.
4. All state belongs to the event loop; the thread is handed pieces and gives candidates. A slot is given back when the
   batch that may still run in the thread has ended, never before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from steelyard.engines.llama_context import Piece
from steelyard.engines.llama_slots import Slot
from steelyard.engines.port import Candidates
from steelyard.errors import Fault, SteelyardError, Unavailable

GRACE_S = 0.003
"""How long a batch waits for sessions that were in the last one; a step of a small model takes 20 ms."""

_PROMPT_SHARE = 4
"""Where more steps wait than a batch holds, prompts get one in so many of its tokens."""


class _Asked(NamedTuple):
    slot: Slot
    tokens: Sequence[int]
    outcome: asyncio.Future[Candidates]


class Decoding(Protocol):
    """What the thread works on: a `LlamaContext`."""

    def decode(self, pieces: Sequence[Piece]) -> list[list[Candidates]]: ...

    def close(self) -> None: ...


class LlamaDecoder:
    """Decodes for the sessions of one context, which it owns; close it with `aclose`."""

    def __init__(self, context: Decoding, batch_tokens: int) -> None:
        self._context = context
        self._batch_tokens = batch_tokens
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llama-decoder")
        self._waiting: dict[int, _Asked] = {}
        self._expected: set[int] = set()
        self._flying: dict[int, _Asked] = {}
        self._leaving: list[Callable[[], None]] = []
        self._arrival = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._grace_ends = 0.0
        self._is_closed = False

    async def step(self, slot: Slot, tokens: Sequence[int]) -> Candidates:
        """Bring a slot's cache to these tokens, which begin with what it holds; return the candidates that follow.

        Raises:
            Unavailable: the library failed, or this is closed.
        """
        if self._is_closed:
            raise _closed()
        flying = self._flying.get(slot.index)
        if slot.index in self._waiting or (flying is not None and not flying.outcome.done()):
            raise Fault("a session was stepped twice at once")
        outcome: asyncio.Future[Candidates] = asyncio.get_running_loop().create_future()
        self._waiting[slot.index] = _Asked(slot, tokens, outcome)
        self._arrival.set()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        try:
            return await outcome
        finally:
            asked = self._waiting.get(slot.index)
            if asked is not None and asked.outcome is outcome:
                self._forget(slot)

    def leave(self, slot: Slot, give_back: Callable[[], None]) -> None:
        """Forget a session, and call `give_back` as soon as nothing of it runs any more."""
        self._forget(slot)
        if flying := self._flying.get(slot.index):
            _fail(flying, _closed())
            self._leaving.append(give_back)
        else:
            give_back()

    async def aclose(self) -> None:
        """Fail everybody who waits, let the batch that runs come to its end, then free the context; safe to call
        twice.
        """
        self._is_closed = True
        self._fail_all()
        if self._runner is not None:
            await asyncio.wait([self._runner])
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)
        self._context.close()

    def _forget(self, slot: Slot) -> None:
        self._expected.discard(slot.index)
        asked = self._waiting.pop(slot.index, None)
        if asked is not None:
            _fail(asked, _closed())
        self._arrival.set()

    def _fail_all(self) -> None:
        for asked in (*self._waiting.values(), *self._flying.values()):
            _fail(asked, _closed())
        self._waiting.clear()
        self._arrival.set()

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                if batch := self._take_off():
                    await self._fly(batch)
        finally:
            self._runner = None
            self._fail_all()

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

    def _take_off(self) -> list[tuple[_Asked, Piece]]:
        """Take the next batch out of those who wait."""
        pending = {}
        for index, (slot, tokens, _) in self._waiting.items():
            slot.cut(len(tokens) - 1)
            pending[index] = len(tokens) - len(slot.held)
        batch = []
        for index, count in plan_batch(pending, self._batch_tokens).items():
            asked = self._waiting.pop(index)
            start = len(asked.slot.held)
            piece = Piece(index, start, asked.tokens[start : start + count], int(count == pending[index]))
            batch.append((asked, piece))
        return batch

    async def _fly(self, batch: list[tuple[_Asked, Piece]]) -> None:
        self._flying = {piece.sequence: asked for asked, piece in batch}
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, self._context.decode, [piece for _, piece in batch])
        except Exception as error:  # whatever it was, nobody may wait for ever
            failure = (
                error
                if isinstance(error, SteelyardError)
                else Unavailable(f"the engine failed: {type(error).__name__}: {error}", code="engine_failed")
            )
            for asked in self._flying.values():
                asked.slot.held.clear()
                _fail(asked, failure)
        else:
            self._land(batch, found)
        finally:
            self._flying, self._grace_ends = {}, loop.time() + GRACE_S
            leaving, self._leaving = self._leaving, []
            for give_back in leaving:
                give_back()

    def _land(self, batch: list[tuple[_Asked, Piece]], found: list[list[Candidates]]) -> None:
        self._expected = set()
        for (asked, piece), candidates in zip(batch, found, strict=True):
            asked.slot.held += piece.tokens
            if asked.outcome.done():
                continue
            if piece.wanted:
                asked.outcome.set_result(candidates[0])
                self._expected.add(piece.sequence)
            else:
                self._waiting[piece.sequence] = asked


def plan_batch(pending: Mapping[int, int], batch_tokens: int) -> dict[int, int]:
    """Return how many tokens of each sequence go into the next batch, in the order of the sequences.

    Args:
        pending: how many tokens of each wait, by sequence, in the order of arrival; a step is a single one.
    """
    steps = [index for index, count in pending.items() if count == 1]
    prompts = [index for index, count in pending.items() if count > 1]
    kept = batch_tokens // _PROMPT_SHARE if prompts else 0
    taken = dict.fromkeys(steps[: batch_tokens - kept], 1)
    left = batch_tokens - len(taken)
    for index in prompts:
        taken[index] = min(pending[index], left)
        left -= taken[index]
        if not left:
            break
    return dict(sorted(taken.items()))


def _fail(asked: _Asked, error: SteelyardError) -> None:
    if not asked.outcome.done():
        asked.outcome.set_exception(error)


def _closed() -> Unavailable:
    return Unavailable("the model engine is closed", code="engine_closed")
