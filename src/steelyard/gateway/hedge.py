"""Hedged reads: a second provider is asked when the first is slower than it usually is, and the first answer counts.

event                              what happens
---------------------------------  -----------------------------------------------------------------------
`due_s` passes without an answer   another provider is asked, if one is well and `share` leaves room
a good answer                      it is the answer; the other order is stopped, at the gateway's cost
a failure                          the other one goes on; the last failure is the caller's to mend

1. Only whole answers to requests that change nothing, at most one hedge each. The key is charged for the answer that
   is shown; both providers are paid by their receipts.
2. Due is the 95th percentile of that provider's last calls, within bounds.
3. At most `share` of the reads are hedged: slowness of all providers at once must not double the load.

Law: docs/spec/relay.md, section 7.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from steelyard.errors import Refusal
from steelyard.gateway.request_bodies import ClientGone

if TYPE_CHECKING:
    from steelyard.gateway.attempt import Attempt
    from steelyard.gateway.dispatch import Dispatcher
    from steelyard.gateway.hangups import Patient
    from steelyard.gateway.job import Job
    from steelyard.gateway.metrics import Metrics

LEAST_S = 0.02
MOST_S = 2.0
UNKNOWN_S = 1.0
"""While fewer than `LEAST_KNOWN` calls of a provider are known."""

LEAST_KNOWN = 16
MOST_SAVED = 8.0
"""Hedges that a quiet time can save up."""

Leave = Callable[["Job", "Attempt"], None]
"""Notes that an attempt came to nothing, and stops it; raises the refusal if trying elsewhere can't help."""


class Hedges:
    """Which reads of one gateway are hedged; `share` is of all of them, 0 to 1, `clock` monotonic seconds."""

    def __init__(self, share: float, dispatcher: Dispatcher, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._share = share
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._clock = clock
        self._saved = 1.0 if share else 0.0

    def count(self, job: Job) -> None:
        """Count a read that is about to be placed."""
        if job.is_safe and self._saved < MOST_SAVED:
            self._saved += self._share

    def due_s(self, attempt: Attempt) -> float:
        """Return when a second provider should be asked (monotonic); never, if none may."""
        if not attempt.job.is_safe or self._saved < 1.0:
            return math.inf
        if not attempt.seller.link.is_up:
            return attempt.started_s + LEAST_S
        record = attempt.seller.record
        late_s = UNKNOWN_S if len(record.recent_s) < LEAST_KNOWN else record.late_s
        return attempt.started_s + min(max(late_s, LEAST_S), MOST_S)

    async def first(self, job: Job, attempt: Attempt, patient: Patient, leave: Leave) -> Attempt:
        """Return the first attempt that has a good whole answer; a failed one if all failed.

        Raises:
            Refusal: one failed in a way that no other provider can mend. ClientGone: nobody wants it any more.
        """
        racers, is_hedged = [attempt], False
        attempt.wake_at_s = math.inf
        patient.on_gone = cancel_all(racers)
        try:
            if patient.is_gone:
                raise ClientGone
            while True:
                good = next((racer for racer in racers if racer.is_over and not _flaw(racer)), None)
                for racer in racers[:]:
                    if racer is not good and len(racers) > 1 and (good is not None or racer.is_over):
                        racers.remove(racer)
                        leave(job, racer)
                if good is not None or racers[0].is_over:
                    patient.on_gone = racers[0].cancel
                    if is_hedged and racers[0] is not attempt:
                        self._metrics.relay["hedge", "won"] += 1
                    return racers[0]
                await self._wait(racers, math.inf if is_hedged else self.due_s(attempt))
                if any(racer.is_cancelled for racer in racers):
                    raise ClientGone
                if not is_hedged and not attempt.is_over:
                    is_hedged = True
                    if (second := await self._place(job)) is not None:
                        racers.append(second)
        except BaseException as error:
            give_up(racers, error)
            raise

    async def _wait(self, racers: list[Attempt], due_s: float) -> None:
        """Return when one is over, or due passes."""
        future = asyncio.get_running_loop().create_future()
        for racer in racers:
            racer.waiter = lambda: None if future.done() else future.set_result(None)
        try:
            async with asyncio.timeout(None if due_s == math.inf else max(0.0, due_s - self._clock())):
                while not any(racer.is_over or racer.is_cancelled for racer in racers):
                    await future
                    future = asyncio.get_running_loop().create_future()
        except TimeoutError:
            return
        finally:
            for racer in racers:
                racer.waiter = None

    async def _place(self, job: Job) -> Attempt | None:
        if self._saved < 1.0:
            return None
        self._saved -= 1.0
        with suppress(Refusal):  # then the one that was asked has all the time it needs
            attempt = await self._dispatcher.place(job)
            self._metrics.relay["hedge", "asked"] += 1
            return attempt
        self._saved += 1.0
        return None


def give_up(racers: Sequence[Attempt], error: BaseException) -> None:
    """Stop all orders of a call that ends in an error.

    Of a client that has gone the first order is the key's, as far as it is billed: whoever asks and leaves has asked.
    Else nobody wanted them.
    """
    is_gone = isinstance(error, (ClientGone, asyncio.CancelledError))
    for place, racer in enumerate(racers):
        if is_gone and not place:
            racer.cancel()
        else:
            racer.drop()


def _flaw(attempt: Attempt) -> object:
    return attempt.failure or attempt.shortfall


def cancel_all(racers: Sequence[Attempt]) -> Callable[[], None]:
    """Return what stops all orders of a call."""

    def cancel() -> None:
        for racer in racers:
            racer.cancel()

    return cancel
