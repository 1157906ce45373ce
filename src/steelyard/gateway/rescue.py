"""Keeping an answer going: the first provider that begins it, and the next one when a stream loses its own.

1. Before anything was shown a failed attempt is repeated elsewhere, whole. A stream that doesn't begin in time is asked
   of a second provider as well: whoever begins first goes on, the other is stopped at the gateway's cost.
2. A stream whose provider died, fell silent or broke the rules goes on at another one: from the prefix that was shown
   where the kind can, else from the beginning, behind what was shown. The client sees one answer.
3. A silent provider is left only for another one that takes the call; until then it may still come back.
4. Nobody of a weaker grade takes over, the order's deadline stays, and money is reserved before an order leaves.

Law: docs/spec/gateway.md, section 4; docs/spec/money.md, section 8.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from steelyard.errors import Refusal, Unavailable
from steelyard.gateway.attempt import Attempt
from steelyard.gateway.catalogue import Seller
from steelyard.gateway.dispatch import Dispatcher
from steelyard.gateway.hangups import Patient
from steelyard.gateway.hedge import Hedges, cancel_all, give_up
from steelyard.gateway.job import Job
from steelyard.gateway.legs import Leg, can_repeat
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.request_bodies import ClientGone
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.settlement import LANE_LOST
from steelyard.gateway.why import add_outcome
from steelyard.link.port import Failure
from steelyard.protocol.pricing import call_cost

_log = structlog.get_logger("steelyard.gateway")

STALLED = Failure("stalled", "nothing more of the answer came for a while")
CLOCK_OFF = Failure("clock_off", "it says that the deadline has passed, and it hasn't: its clock is off")
AWAY = Failure("link_lost", "its connection is gone, and did not come back at once")
HOPELESS_CODES = frozenset({"deadline", "cancelled", "another_answer", "gateway_fault"})
"""Ends of a leg after which nobody is asked: it is too late, not wanted, or would come to the same again."""

UNFIT_CODES = frozenset({"invalid_request", "bad_order", "not_served"})
"""What a provider says that can't go on from a prefix."""

LEAST_LEFT_MS = 500
_LOOK_S = 0.1


class Rescuer:
    """Places and replaces attempts.

    Args:
        renew_lane: opens a new lane with a provider that lost the last one's history. clock: monotonic seconds.
        clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        dispatcher: Dispatcher,
        metrics: Metrics,
        *,
        renew_lane: Callable[[Seller], Awaitable[None]],
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        self.hedges = Hedges(settings.relay_hedge_share, dispatcher, metrics, clock)
        self._settings = settings
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._renew_lane = renew_lane
        self._clock = clock
        self._clock_ms = clock_ms

    async def first(self, job: Job, patient: Patient, begun: Attempt | None = None) -> Attempt:
        """Return the first attempt that has something to show or is done; failed ones are replaced.

        Raises:
            Refusal: nobody can serve it, or enough have tried. ClientGone: nobody wants it any more.
        """
        while True:
            attempt = begun or await self._dispatcher.place(job)
            begun = None
            if job.request.stream:
                attempt = await self._race(job, attempt, patient)
            elif job.is_safe:
                attempt = await self.hedges.first(job, attempt, patient, self._leave)
            else:
                self.follow(attempt, patient)
                while not attempt.is_over:
                    await self.wait(attempt)
            failure = attempt.failure or attempt.shortfall
            if failure is None or (attempt.is_stream and attempt.out and not attempt.is_over):
                return attempt
            await self._note(job, attempt, failure)

    async def replace(self, job: Job, old: Attempt, why: Failure, patient: Patient) -> Attempt | None:
        """Send what is left of an answer to another provider and return the attempt, or None: nobody can.

        Args:
            old: over, or silent; in the latter case it is stopped once the new order left, or returned as it is if it
                came back meanwhile.

        Raises:
            ClientGone: nobody wants it any more.
        """
        if why.code in HOPELESS_CODES or len(job.rescues) >= self._settings.max_attempts:
            return None
        if why.code == LANE_LOST:
            await self._renew_lane(old.seller)
        if why.code in UNFIT_CODES and old.leg is not None and old.leg.prefix:
            job.must_repeat = True
        until_s = self._clock() + self._settings.rescue_wait_s
        while old.request.order.deadline_ms - self._clock_ms() > LEAST_LEFT_MS:
            placed = await self._place(job, old, why)
            if placed is not None:
                if placed is not old:
                    self._note_rescue(job, old, why)
                    self.follow(placed, patient)
                return placed
            if not old.is_over or self._clock() >= until_s or not self._may_recover(job):
                return None
            await asyncio.sleep(_LOOK_S)
            if patient.is_gone:
                raise ClientGone
        return None

    def follow(self, attempt: Attempt, patient: Patient) -> None:
        """Let a client that hangs up stop this attempt; raises ClientGone if it has gone already."""
        patient.on_gone = attempt.cancel
        if patient.is_gone:
            attempt.cancel()
            raise ClientGone

    async def wait(self, attempt: Attempt, patience_s: float = 0.0) -> Failure | None:
        """Wait for the next thing to do; return what is wrong if nothing came.

        Args:
            patience_s: how long a stream may be silent while its link is up; 0: for ever.

        Raises:
            ClientGone: the client hung up.
        """
        attempt.wake_at_s = self._clock() + (patience_s or math.inf)
        try:
            await attempt.wait()
        except asyncio.CancelledError:
            attempt.cancel()
            raise
        if attempt.is_cancelled and not attempt.is_unwanted:
            raise ClientGone
        if attempt.out or attempt.is_over:
            return None
        if attempt.is_stream and not attempt.seller.link.is_up:
            return AWAY
        return STALLED if self._clock() >= attempt.wake_at_s else None

    async def _race(self, job: Job, first: Attempt, patient: Patient) -> Attempt:
        """The first of one or more attempts at a stream that has something to show; a failed one if all failed."""
        racers = [first]
        self.follow(first, patient)
        try:
            while True:
                winner = next((r for r in racers if r.out or (r.is_over and r.failure is None)), None)
                if winner is None and all(racer.is_over for racer in racers):
                    winner = racers[-1]
                for racer in racers[:]:
                    if racer is not winner and (winner is not None or racer.is_over):
                        racers.remove(racer)
                        if winner is not None and not racer.is_over and self._was_silent(racer, winner):
                            racer.settlement.note_stalled(racer)
                        self._leave(job, racer)
                if winner is not None:
                    self.follow(winner, patient)
                    return winner
                if await self._wait_any(racers) is not None and (hedge := await self._hedge(job)) is not None:
                    racers.append(hedge)
                    patient.on_gone = cancel_all(racers)
        except BaseException as error:
            give_up(racers, error)
            raise

    async def _wait_any(self, racers: list[Attempt]) -> Failure | None:
        if len(racers) == 1:
            return await self.wait(racers[0], self._settings.first_byte_s)
        future = asyncio.get_running_loop().create_future()
        for racer in racers:
            racer.waiter = lambda: None if future.done() else future.set_result(None)
            racer.wake_at_s = self._clock() + self._settings.first_byte_s
        try:
            await future
        except asyncio.CancelledError:
            cancel_all(racers)()
            raise
        finally:
            for racer in racers:
                racer.waiter = None
        if any(racer.is_cancelled for racer in racers):
            raise ClientGone
        return None if any(racer.out or racer.is_over for racer in racers) else STALLED

    def _was_silent(self, racer: Attempt, winner: Attempt) -> bool:
        return winner.started_s - racer.started_s >= (self._settings.first_byte_s or math.inf)

    async def _hedge(self, job: Job) -> Attempt | None:
        if len(job.tried) >= self._settings.max_attempts:
            return None
        with suppress(Refusal):  # then the one that was asked has all the time it needs
            attempt = await self._dispatcher.place(job)
            self._metrics.rescues["first_byte"] += 1
            return attempt
        return None

    def _leave(self, job: Job, racer: Attempt) -> None:
        if racer.failure is None:
            racer.drop()
        elif (refusal := self._refuse(job, racer, racer.failure)) is not None:
            raise refusal

    async def _note(self, job: Job, attempt: Attempt, failure: Failure) -> None:
        """Note a failure before anything was shown; raises the refusal if trying elsewhere can't help."""
        if failure.code == LANE_LOST:
            await self._renew_lane(attempt.seller)
        failure = self._correct(attempt, failure)
        refusal = self._refuse(job, attempt, failure)
        if refusal is not None:
            raise refusal
        if len(job.failures) >= self._settings.max_attempts:
            told = "; ".join(f"0x{provider.hex()}: {why}" for provider, why in job.failures)
            raise Unavailable(
                f"{len(job.failures)} providers of {job.listing.name!r} failed ({told}): try again in a while",
                code="providers_failed",
                retry_after_s=2.0,
            )
        self._metrics.retries[failure.code] += 1

    def _refuse(self, job: Job, attempt: Attempt, failure: Failure) -> Refusal | None:
        return self._dispatcher.refuse_failure(job, attempt.seller, self._correct(attempt, failure))

    def _correct(self, attempt: Attempt, failure: Failure) -> Failure:
        """What a provider says of the deadline is believed once it is near by our own clock."""
        left_ms = attempt.request.order.deadline_ms - self._clock_ms()
        return CLOCK_OFF if failure.code == "deadline" and left_ms > LEAST_LEFT_MS else failure

    def _note_rescue(self, job: Job, old: Attempt, why: Failure) -> None:
        job.rescues += ((old.seller.provider_hex, why.code),)
        if why is STALLED:
            old.settlement.note_stalled(old)
        if old.is_shown:
            self._metrics.rescues[why.code] += 1
        else:
            self._metrics.retries[why.code] += 1
        _log.info("stream_rescued", call=job.call_hex.decode(), provider=old.seller.provider_hex, code=why.code)

    async def _place(self, job: Job, old: Attempt, why: Failure) -> Attempt | None:
        dispatcher = self._dispatcher
        for _ in range(2 + 2 * len(job.listing.sellers)):
            seller = dispatcher.choose(job, self._clock())
            leg = None if seller is None else self._next_leg(job, old)
            if seller is None or leg is None:
                return None
            quote, offer = leg.quote, seller.offer
            max_cost = call_cost(quote.max_units_in, quote.max_units_out, offer.price_in, offer.price_out)
            if offer.grade < old.seller.offer.grade or max_cost > seller.largest_nano:
                seller.record.is_trying = False
                job.tried.append(seller)
                continue
            more = leg.charge((quote.max_units_in, quote.max_units_out), offer) - old.key_nano
            if dispatcher.reserve_now(job, max(more, 0), max_cost):
                return self._send(job, seller, leg, old, why, more)
            seller.record.is_trying = False
            refusal = await dispatcher.reserve(job, max(more, 0), max_cost)
            if refusal is not None:
                job.tried.append(seller)  # a cheaper one may do
                continue
            if old.out and not old.is_over:
                dispatcher.release(job, max(more, 0), max_cost)
                return old
            same = self._next_leg(job, old)
            if same == leg and seller.link.is_up and not seller.why_not(self._clock()):
                held = leg.charge((quote.max_units_in, quote.max_units_out), offer) - more
                if held == old.key_nano:
                    return self._send(job, seller, leg, old, why, more)
            dispatcher.release(job, max(more, 0), max_cost)
        return None

    def _send(self, job: Job, seller: Seller, leg: Leg, old: Attempt, why: Failure, more_nano: int) -> Attempt:
        if more_nano < 0:
            job.meter.release(-more_nano)
        job.carry = old.carry()
        old.why = add_outcome(old.why, why)
        old.take_over()
        return self._dispatcher.send_leg(job, seller, leg, old)

    def _next_leg(self, job: Job, old: Attempt) -> Leg | None:
        carry, listing = old.carry(), job.listing
        leg = None
        if not job.must_repeat:
            leg = carry.next_leg("continued", listing.service, job.request, job.quote)
        if leg is None and can_repeat(listing.service, listing.manifest):
            leg = carry.next_leg("repeated", listing.service, job.request, job.quote)
        return leg

    def _may_recover(self, job: Job) -> bool:
        """Whether somebody who wasn't asked is linked, and only busy."""
        return any(
            seller not in job.tried and seller.link.is_up and not seller.refusal for seller in job.listing.sellers
        )
