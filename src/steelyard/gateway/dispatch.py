"""From a parsed request to an order in flight: choose a provider, reserve the highest cost, write the order, send it.

1. The highest cost is reserved on the key's budget and on the escrow's before anything is sent; both or neither.
2. Price and grade of the order are the verified offer's. Bodies and prompts go to the chosen provider and nowhere else.
3. A dearer provider that the budget can't bear is passed over for a cheaper one before anything is refused; one whose
   stake is too small for the order's highest cost is never asked.
4. No elliptic-curve work here: the order is bound by its tag.

Law: docs/spec/gateway.md, section 4; docs/spec/money.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.errors import BadRequest, PaymentRequired, Refusal, Unavailable
from steelyard.gateway.access import Account
from steelyard.gateway.answers import open_shape
from steelyard.gateway.attempt import Attempt
from steelyard.gateway.call_marks import call_nonce, mark_call
from steelyard.gateway.catalogue import Listing, Seller
from steelyard.gateway.choice import refuse_all
from steelyard.gateway.job import Job
from steelyard.gateway.legs import Leg
from steelyard.gateway.randomness import RandomPool
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.settlement import Settlement
from steelyard.gateway.why import build_why
from steelyard.link.port import CallRequest, Failure
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import format_hex
from steelyard.protocol.messages import Order
from steelyard.protocol.pricing import call_cost, format_yard
from steelyard.services.port import Request
from steelyard.storage.budgets import load_budget
from steelyard.storage.database import Database
from steelyard.storage.meters import BudgetMeters

_RANDOM = 45  # 5 bytes of the call id, 32 of salt, 8 of seed
_OWN_QUESTION = build_why("own_question", ())


class Dispatcher:
    """Sends orders.

    Args:
        account: the gateway's own 20 bytes. tag: tags an order's hash. mark_secret: 32 bytes, derived from its key.
        escrow_id: the budget of its deposit. escrow_address: where deposits go, for the refusal.
        random: for call ids, salts and seeds.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        database: Database,
        meters: BudgetMeters,
        settlement: Settlement,
        *,
        account: bytes,
        tag: Callable[[bytes], bytes],
        mark_secret: bytes,
        escrow_id: str,
        escrow_address: bytes,
        random: RandomPool,
    ) -> None:
        self._settings = settings
        self._database = database
        self._meters = meters
        self._settlement = settlement
        self._account = account
        self._tag = tag
        self._mark_secret = mark_secret
        self._escrow_id = escrow_id
        self._escrow_address = escrow_address
        self._random = random

    def build_job(
        self, account: Account, listing: Listing, request: Request, body: bytes, *, is_private: bool, started_s: float
    ) -> Job:
        """Return a request ready to be placed, its call id, salt and seed drawn."""
        random = self._random.take(_RANDOM)
        nonce = call_nonce(self._settlement.clock_ms(), random[:5])
        call_id = mark_call(self._mark_secret, nonce, account.mark)
        return Job(
            account,
            self._meters.meter(account.key_id),
            listing,
            request,
            body,
            listing.service.quote(request),
            is_private,
            started_s,
            call_id,
            call_id.hex().encode(),
            random[5:37],
            int.from_bytes(random[37:], "big") if request.seed is None else request.seed,
        )

    def place_now(self, job: Job) -> Attempt | None:
        """Send a job at once; or do nothing and return None, where `place` has to wait or to refuse.

        For a job that was built just now: its own time is taken for the present.
        """
        seller = self.choose(job, job.started_s)
        if seller is None:
            return None
        max_cost = self.max_cost(job, seller)
        if max_cost <= seller.largest_nano and self.reserve_now(job, max_cost, max_cost):
            return self._send(job, seller, max_cost, job.started_s)
        seller.record.is_trying = False
        return None

    async def place(self, job: Job) -> Attempt:
        """Send a job to the provider that should have it, and return the attempt.

        Raises:
            BadRequest: it costs more than any provider's stake allows.
            PaymentRequired: the key's budget or the escrow can't bear it.
            Unavailable: nobody can serve it now; says why, per provider.
        """
        clock = self._settlement.clock
        for _ in range(2 + 2 * len(job.listing.sellers)):
            seller = self.choose(job, clock())
            if seller is None:
                raise self.nobody(job)
            max_cost = self.max_cost(job, seller)
            if max_cost > seller.largest_nano:
                seller.record.is_trying = False
                job.tried.append(seller)
                continue
            if self.reserve_now(job, max_cost, max_cost):
                return self._send(job, seller, max_cost, clock())
            # Leasing takes a moment, in which providers come and go: choose again with the money in hand.
            seller.record.is_trying = False
            refusal = await self.reserve(job, max_cost, max_cost)
            if refusal is None:
                if seller.link.is_up and not seller.why_not(clock()):
                    return self._send(job, seller, max_cost, clock())
                self.release(job, max_cost, max_cost)
                continue
            unfit = job.listing.misfits(job.preferences, job.quote, [*job.tried, seller])
            cheaper = [
                other
                for other in job.listing.sellers
                if other not in job.tried
                and other.link.provider not in unfit
                and not other.why_not(clock())
                and self.max_cost(job, other) < max_cost
                and self.max_cost(job, other) <= other.largest_nano
            ]
            if not cheaper:
                raise refusal
            job.tried.append(seller)
        raise self.nobody(job)

    async def place_at(self, job: Job, seller: Seller) -> Attempt:
        """Send a job to one seller, whatever is thought of it: for the gateway's own questions; raises a Refusal."""
        max_cost = self.max_cost(job, seller)
        refusal: Refusal | None = None
        if not self.reserve_now(job, max_cost, max_cost):
            refusal = await self.reserve(job, max_cost, max_cost)
        if refusal is not None:
            raise refusal
        if max_cost > seller.largest_nano or not seller.link.is_up:
            self.release(job, max_cost, max_cost)
            raise Unavailable(f"{seller.provider_hex} can't be asked now")
        job.why, job.is_own = _OWN_QUESTION, True
        return self._send(job, seller, max_cost, self._settlement.clock())

    def choose(self, job: Job, now_s: float) -> Seller | None:
        """Return who should have a job's next order, or None: nobody is well that wasn't asked."""
        luck = job.salt[0] / 256 + job.salt[1] / 65_536
        chosen = job.listing.choose(
            job.tried, job.request.prefix, now_s, luck, job.preferences, job.quote, is_deep=job.is_deep
        )
        if chosen is None:
            return None
        seller, job.why = chosen
        return seller

    def max_cost(self, job: Job, seller: Seller) -> int:
        """Return the highest cost of a job at a seller, in nano."""
        quote, offer = job.quote, seller.offer
        return call_cost(quote.max_units_in, quote.max_units_out, offer.price_in, offer.price_out)

    def reserve_now(self, job: Job, key_nano: int, escrow_nano: int) -> bool:
        """Reserve on the key's budget and on the escrow's at once, both or neither."""
        if not job.meter.try_reserve(key_nano):
            return False
        if self._settlement.escrow.try_reserve(escrow_nano):
            return True
        job.meter.release(key_nano)
        return False

    def release(self, job: Job, key_nano: int, escrow_nano: int) -> None:
        """Give back what was reserved for nothing."""
        job.meter.release(key_nano)
        self._settlement.escrow.release(escrow_nano)

    async def reserve(self, job: Job, key_nano: int, escrow_nano: int) -> PaymentRequired | None:
        """Reserve on both budgets, leasing more if need be; return the refusal if one can't bear it, nothing is
        reserved then.
        """
        if not await job.meter.reserve(key_nano):
            return await self._over_budget(job, key_nano)
        try:
            if await self._settlement.escrow.reserve(escrow_nano):
                return None
        except BaseException:
            job.meter.release(key_nano)
            raise
        job.meter.release(key_nano)
        return await self._over_escrow(escrow_nano)

    def send_leg(self, job: Job, seller: Seller, leg: Leg, before: Attempt) -> Attempt:
        """Send the order of a further leg of an answer, within the time of the one before; the money is reserved."""
        quote, offer = leg.quote, seller.offer
        max_cost = call_cost(quote.max_units_in, quote.max_units_out, offer.price_in, offer.price_out)
        return self._send(job, seller, max_cost, self._settlement.clock(), leg, before)

    def _send(
        self,
        job: Job,
        seller: Seller,
        max_cost: int,
        now_s: float,
        leg: Leg | None = None,
        before: Attempt | None = None,
    ) -> Attempt:
        settlement, offer, lane = self._settlement, seller.offer, seller.lane.state.lane
        now_ms = settlement.clock_ms()
        order = Order(
            job.call_id,
            self._account,
            offer.provider,
            offer.service_id,
            lane.lane_id,
            keccak(job.salt + job.body),
            ZERO32 if leg is None or not leg.prefix else keccak(job.salt + leg.prefix),
            job.seed,
            offer.grade,
            offer.price_in,
            offer.price_out,
            max_cost,
            now_ms + int(self._settings.deadline_s * 1000) if before is None else before.request.order.deadline_ms,
        )
        order_hash = order.struct_hash()
        request = job.request
        attempt = Attempt(
            settlement,
            job,
            seller,
            CallRequest(
                order, self._tag(order_hash), job.salt, request.api, job.body, b"" if leg is None else leg.prefix
            ),
            order_hash,
            open_shape(request, job.call_hex, job.listing.model_json, now_ms // 1000)
            if before is None
            else before.shape,
            started_s=now_s,
            started_ms=now_ms,
            leg=leg,
            key_nano=None if leg is None else leg.charge((leg.quote.max_units_in, leg.quote.max_units_out), order),
        )
        job.tried.append(seller)
        settlement.open(attempt)
        seller.link.open_call(attempt.request, attempt, is_stream=request.stream)
        return attempt

    def refuse_failure(self, job: Job, seller: Seller, failure: Failure) -> Refusal | None:
        """Note a failed attempt; return the refusal if trying elsewhere can't help, else None."""
        job.failures.append((seller.link.provider, f"{failure.code}: {failure.message}"[:300]))
        if failure.code == "invalid_request" or (not failure.is_retryable and failure.code == "bad_order"):
            return BadRequest(failure.message, code="invalid_request")
        if failure.code == "deadline":
            return Unavailable(
                f"the provider did not end the call within {self._settings.deadline_s:.0f} s: ask for less, or retry",
                code="deadline",
                retry_after_s=1.0,
            )
        return None

    def nobody(self, job: Job) -> Refusal:
        """Return the refusal of a job that nobody can take now, with the reason per provider."""
        now_s = self._settlement.clock()
        unfit = job.listing.misfits(job.preferences, job.quote, job.tried)
        sellers = [seller for seller in job.listing.sellers if seller.link.provider not in unfit]
        if job.preferences is not None and not sellers and not job.failures:
            linked = [seller.link.provider for seller in job.listing.sellers]
            return refuse_all(job.listing.name, job.preferences, unfit, linked)
        seen = unfit | dict(job.failures)
        too_large = [seller for seller in sellers if self.max_cost(job, seller) > seller.largest_nano]
        if too_large and len(too_large) == len(sellers):
            most = max(too_large, key=lambda seller: seller.largest_nano)
            return BadRequest(
                f"this request can cost up to {self.max_cost(job, most)} nano, and what is staked for "
                f"{job.listing.name!r} allows orders up to {most.largest_nano} nano: ask for less at once (a lower "
                "max_tokens, a shorter prompt, a smaller batch); its providers can take more after "
                "`steelyard stake provider`",
                code="order_too_large",
            )
        for seller in too_large:
            seen[seller.link.provider] = f"order_too_large (its stake allows {seller.largest_nano} nano)"
        reasons = [
            f"{format_hex(provider)}: {seen.get(provider, reason)}" for provider, reason in job.listing.reasons(now_s)
        ]
        gone = [
            f"{format_hex(provider)}: {why}" for provider, why in job.failures if not self._is_listed(job, provider)
        ]
        told = "; ".join((reasons + gone)[:20]) or "none is linked to this gateway"
        wait_s = job.listing.retry_after_s(now_s)
        return Unavailable(
            f"no provider can serve {job.listing.name!r} now ({told}): try again in {max(wait_s, 1):.0f} s",
            retry_after_s=wait_s,
        )

    def _is_listed(self, job: Job, provider: bytes) -> bool:
        return any(seller.link.provider == provider for seller in job.listing.sellers)

    async def _over_budget(self, job: Job, nano: int) -> PaymentRequired:
        left = await self._left_nano(job.account.key_id)
        return PaymentRequired(
            f"key {job.account.name!r} has {left} nano ({format_yard(left)} YARD) left in its budget, and this request "
            f"can cost up to {nano} nano: ask for less at once, or raise the budget with `steelyard keys limit`; the "
            f"gateway's deposit address is {format_hex(self._escrow_address)}",
            code="budget_exceeded",
        )

    async def _over_escrow(self, nano: int) -> PaymentRequired:
        left = await self._left_nano(self._escrow_id)
        return PaymentRequired(
            f"this gateway has {left} nano ({format_yard(left)} YARD) left of its deposit, and this request can cost "
            f"up to {nano} nano: its operator can add to it with `steelyard deposit` (deposit address "
            f"{format_hex(self._escrow_address)}, gateway {format_hex(self._account)})",
            code="insufficient_funds",
        )

    async def _left_nano(self, budget_id: str) -> int:
        unleased = (await load_budget(self._database, budget_id)).unleased_nano
        return (unleased or 0) + self._meters.meter(budget_id).free_nano
