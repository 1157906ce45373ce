"""One process's view of one budget: reserve before dispatch, settle after, all in memory.

1. `reserved + settled` never exceeds what was leased; what was leased is counted in the database already.
2. A reservation fails only after the database has said that the budget has less unleased than it lacks.
3. One lease is asked for at a time, before half of the last one is gone; waiters are served in order.
4. An amount whose fate in the database is unknown is never used again: errors err towards holding back.

Law: docs/spec/storage.md, section 5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Lease = Callable[[int, int], Awaitable[int]]
"""(want_nano, least_nano) → granted nano, 0 if `least_nano` can't be had; `budgets.lease` behind it."""

# A lease takes this many further calls' worth along: few at first, more while leases follow each other quickly.
_FIRST_AHEAD = 64
_MOST_AHEAD = 2**14
_QUICK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Waiter:
    ticket: int
    nano: int
    answer: asyncio.Future[bool]


class BudgetMeter:
    """What is leased, reserved and settled of one budget in this run.

    Args:
        lease: asks the database for more. clock: monotonic seconds.
    """

    def __init__(self, lease: Lease, *, clock: Callable[[], float]) -> None:
        self._lease = lease
        self._clock = clock
        self._free_nano = 0
        self._reserved_nano = 0
        self._unsaved_nano = 0
        self._waiting: deque[_Waiter] = deque()
        self._tickets = 0
        self._refill: asyncio.Task[None] | None = None
        self._low_nano = 0
        self._ahead = _FIRST_AHEAD
        self._refilled_at = float("-inf")
        self._used_at = clock()

    @property
    def free_nano(self) -> int:
        """Return what is leased and neither reserved nor spent."""
        return self._free_nano

    @property
    def reserved_nano(self) -> int:
        """Return the highest costs of the calls in flight."""
        return self._reserved_nano

    @property
    def unsaved_nano(self) -> int:
        """Return what is settled here and not yet in the database."""
        return self._unsaved_nano

    def try_reserve(self, nano: int) -> bool:
        """Reserve an amount at once if it is there and nobody waits; False says nothing about the budget."""
        if self._waiting or nano > self._free_nano:
            return False
        self._take(nano)
        if self._free_nano < self._low_nano and self._refill is None:
            self._refill = asyncio.create_task(self._lease_more(nano), name="budget-lease")
        return True

    async def reserve(self, nano: int) -> bool:
        """Reserve an amount, leasing more if it must; False if the budget has no room for it.

        Raises:
            whatever the lease raises; nothing is reserved then.
        """
        if self.try_reserve(nano):
            return True
        self._tickets += 1
        waiter = _Waiter(self._tickets, nano, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        if self._refill is None:
            self._refill = asyncio.create_task(self._lease_more(), name="budget-lease")
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            answer = waiter.answer
            if answer.done() and not answer.cancelled() and answer.exception() is None and answer.result():
                self.release(nano)
            raise

    def settle(self, reserved_nano: int, actual_nano: int) -> None:
        """End a reservation at its actual cost, at most what was reserved; the rest is free again."""
        if not 0 <= actual_nano <= reserved_nano <= self._reserved_nano:
            raise ValueError(
                f"can't settle {actual_nano} of {reserved_nano} nano: {self._reserved_nano} are reserved in all"
            )
        self._reserved_nano -= reserved_nano
        self._unsaved_nano += actual_nano
        self._free_nano += reserved_nano - actual_nano
        self._used_at = self._clock()
        if self._waiting:
            self._serve()

    def release(self, reserved_nano: int) -> None:
        """End a reservation that cost nothing."""
        self.settle(reserved_nano, 0)

    def take_unsaved(self) -> int:
        """Return what is to be settled in the database, and count it as handed over."""
        taken, self._unsaved_nano = self._unsaved_nano, 0
        return taken

    def take_idle(self, idle_s: float) -> int:
        """Return what is free, and give it up, if nothing was reserved or settled for `idle_s`; else 0."""
        if self._waiting or self._refill is not None or self._clock() - self._used_at < idle_s:
            return 0
        taken, self._free_nano = self._free_nano, 0
        self._low_nano, self._ahead = 0, _FIRST_AHEAD
        return taken

    def _take(self, nano: int) -> None:
        self._free_nano -= nano
        self._reserved_nano += nano
        self._used_at = self._clock()

    def _serve(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if not first.answer.done():
                if first.nano > self._free_nano:
                    return
                self._take(first.nano)
                first.answer.set_result(True)
            self._waiting.popleft()

    async def _lease_more(self, ahead_of_nano: int = 0) -> None:
        try:
            if ahead_of_nano:
                await self._lease_ahead(ahead_of_nano)
            self._serve()
            while self._waiting:
                await self._lease_for_first()
                self._serve()
        except BaseException as error:
            self._fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._refill = None

    async def _lease_ahead(self, nano: int) -> None:
        """Lease more while there still is some, so that a busy budget makes nobody wait."""
        self._low_nano = 0
        try:
            granted = await self._lease(self._next_ahead() * nano, nano)
        except Exception:  # whoever has to wait for a lease asks again, and is told
            return
        self._free_nano += granted
        self._low_nano = granted // 2

    async def _lease_for_first(self) -> None:
        first, last_ticket = self._waiting[0], self._tickets
        lacking = first.nano - self._free_nano
        wanted = sum(waiter.nano for waiter in self._waiting if not waiter.answer.done()) - self._free_nano
        granted = await self._lease(max(lacking, wanted + self._next_ahead() * first.nano), lacking)
        self._free_nano += granted
        if granted:
            self._low_nano = granted // 2
            return
        # The database had less than `lacking` after these began to wait; what was settled meanwhile may do for some.
        for waiter in self._waiting:
            if waiter.ticket <= last_ticket and waiter.nano - self._free_nano >= lacking and not waiter.answer.done():
                waiter.answer.set_result(False)

    def _next_ahead(self) -> int:
        now = self._clock()
        if now - self._refilled_at < _QUICK_S:
            self._ahead = min(self._ahead * 4, _MOST_AHEAD)
        else:
            self._ahead = max(self._ahead // 2, _FIRST_AHEAD)
        self._refilled_at = now
        return self._ahead

    def _fail(self, error: BaseException) -> None:
        while self._waiting:
            answer = self._waiting.popleft().answer
            if answer.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                answer.cancel()
            else:
                answer.set_exception(error)
