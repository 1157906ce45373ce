"""The slots of a context, one for each session: who holds which, who waits, and what each one's cache still holds.

1. A session owns one slot from its opening to its closing, so its cache is never another's.
2. A new session gets the free slot that already holds the longest part of its prompt; among equals, one beside a busy
   slot, then the one that has been free for longest. llama.cpp computes sequences together whose numbers follow each
   other: a gap between two makes their steps 40 % dearer.
3. Those who wait are served in their order, and told at once when the engine is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from steelyard.errors import Unavailable


class Slot:
    """One sequence of the context; `held` are the tokens that its cache holds."""

    __slots__ = ("_can_cut", "held", "index")

    def __init__(self, index: int, *, can_cut: bool) -> None:
        self.index = index
        self.held: list[int] = []
        self._can_cut = can_cut

    def cut(self, length: int) -> None:
        """Forget what lies beyond a length; memory that can't be cut is forgotten as a whole."""
        if length < len(self.held):
            del self.held[length if self._can_cut else 0 :]


class SlotPool:
    """The slots of one context, taken and given back on one event loop."""

    def __init__(self, count: int, max_waiting: int, *, can_cut: bool = True) -> None:
        self._count = count
        self._idle = [Slot(index, can_cut=can_cut) for index in range(count)]
        self._max_waiting = max_waiting
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._is_closed = False

    async def take(self, tokens: Sequence[int]) -> Slot:
        """Return a slot whose cache holds a part of these tokens, never all; waits while all are busy.

        Raises:
            Unavailable: too many are waiting already, or the engine is closed.
        """
        if self._is_closed:
            raise _closed()
        idle = {slot.index for slot in self._idle}
        busy = {index for index in range(self._count) if index not in idle}
        slot = max(
            self._idle,
            key=lambda slot: (_shared_prefix(slot.held, tokens), len(busy & {slot.index - 1, slot.index + 1})),
            default=None,
        )
        if slot is None:
            slot = await self._wait()
        else:
            self._idle.remove(slot)
        slot.cut(min(_shared_prefix(slot.held, tokens), len(tokens) - 1))
        return slot

    def give_back(self, slot: Slot) -> None:
        """Hand a slot, in which nothing runs any more, to the next who waits."""
        while self._waiting:
            outcome = self._waiting.popleft()
            if not outcome.done():
                outcome.set_result(slot)
                return
        self._idle.append(slot)

    def close(self) -> None:
        """Tell everybody who waits, and whoever comes, that there are no slots any more."""
        self._is_closed = True
        while self._waiting:
            outcome = self._waiting.popleft()
            if not outcome.done():
                outcome.set_exception(_closed())

    async def _wait(self) -> Slot:
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable(
                "every slot of the engine is busy and its queue is full", code="engine_busy", retry_after_s=1
            )
        outcome: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(outcome)
        try:
            return await outcome
        except asyncio.CancelledError:
            if outcome.done() and not outcome.cancelled() and outcome.exception() is None:
                self.give_back(outcome.result())  # it came in the very moment of giving up
            elif outcome in self._waiting:
                self._waiting.remove(outcome)
            raise


def _closed() -> Unavailable:
    return Unavailable("the model engine is closed", code="engine_closed")


def _shared_prefix(cached: Sequence[int], tokens: Sequence[int]) -> int:
    shared = 0
    for left, right in zip(cached, tokens, strict=False):  # the shorter one ends the comparison
        if left != right:
            break
        shared += 1
    return shared
