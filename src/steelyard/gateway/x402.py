"""Callers without a key: told the price, and served once they sent a payment.

1. The order of refusals: rate, size, load, JSON, model, the kind's own checks, providers; then the payment's.
2. The call runs as any other, on a budget that is the payment. What it cost is what that budget says.
3. What leaves after settling: a whole answer, an `exact` stream, the last events of an `upto` stream.
4. What can't be settled isn't shown to its end. What failed isn't settled.

Law: docs/spec/x402.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import msgspec
import structlog

from steelyard.errors import PaymentRequired, RateLimited, Refusal, SteelyardError, Unavailable
from steelyard.gateway.access import Account
from steelyard.gateway.job import Job
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.rate_limits import TokenBucket
from steelyard.gateway.replies import (
    HOT_ROUTES,
    Header,
    Receive,
    Reply,
    Send,
    error_object,
    error_reply,
    send_reply,
)
from steelyard.gateway.request_bodies import read_body
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.x402_rules import Asked
from steelyard.gateway.x402_send import PaidSend
from steelyard.gateway.x402_settle import SETTLE_S, Claim, PaymentChain, Till
from steelyard.gateway.x402_wire import (
    SCHEMES,
    SPONSORING_DECLARED,
    UPTO,
    VERSION,
    ask_for,
    encode_header,
    read_payment,
)
from steelyard.protocol.pricing import call_cost
from steelyard.storage.keys import ApiKey

KEY_ID = "x402"
"""Whose calls these are in the database: a budget of 0 nano, since each call brings its own."""

DECIDE_S = 300
DEAREST = 2
COLLECT_POLL_S = 0.2
CLIENT_GONE = 499

_PATHS = {api: path for path, api in HOT_ROUTES.items()}
_ASK = "send the request again with a payment for one of `accepts` (x402 version 2), or with an API key"

_log = structlog.get_logger("steelyard.gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class X402Terms:
    """What an operator sets: which schemes, how many requests a minute without a key, how long a bad payer waits."""

    schemes: tuple[str, ...] = SCHEMES
    requests_per_minute: int = 6_000
    bench_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Payments:
    """What `serve` is given so that callers without a key may pay. `token`: 20 bytes."""

    terms: X402Terms
    chain: PaymentChain
    chain_id: int
    token: bytes


class Worker(Protocol):
    """What is needed of `work.Work`."""

    async def read_job(
        self, api: str, account: Account, headers: dict[bytes, bytes], body: bytes, started_s: float
    ) -> Job:
        """Return a request as a job, unplaced; raises a Refusal."""

    async def serve(self, job: Job, receive: Receive, send: Send, extra: tuple[Header, ...]) -> int:
        """Place a job and send its answer."""


class PaidWork:
    """Answers the hot routes for callers without a key.

    Args:
        account: the gateway's own 20 bytes. base_url: of this gateway, ending in ``/v1``. nobody: the refusal of a job
            that no provider can take. clock: monotonic seconds.
    """

    def __init__(
        self,
        terms: X402Terms,
        settings: GatewaySettings,
        till: Till,
        metrics: Metrics,
        *,
        nobody: Callable[[Job], Refusal],
        base_url: Callable[[], str],
        why_full: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._till = till
        self._metrics = metrics
        self._nobody = nobody
        self._base_url = base_url
        self._why_full = why_full
        self._clock = clock
        self._bucket = TokenBucket(terms.requests_per_minute, clock())
        self._account = Account(ApiKey(KEY_ID, KEY_ID, "", None, None, None, 0, 0, 0, 0), clock())
        self._collecting: set[asyncio.Task[None]] = set()
        self._is_closing = asyncio.Event()

    async def answer(
        self,
        worker: Worker,
        api: str,
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
        extra: tuple[Header, ...],
    ) -> int:
        """Answer one request without a key; as `Work.answer`."""
        self._take_turn()
        body = await read_body(receive, headers, self._settings.max_body_bytes)
        if full := self._why_full():
            raise Unavailable(full, code="overloaded", retry_after_s=1.0)
        job = await worker.read_job(api, self._account, headers, body, self._clock())
        try:
            claim = await self._claim(headers.get(b"payment-signature"), job)
        except PaymentRequired as refusal:
            return await self._ask(api, job, refusal, send, extra)
        job.meter = claim.meter
        paid = PaidSend(self._till, claim, send, is_late=claim.scheme == UPTO and job.request.stream)
        try:
            status = await worker.serve(job, receive, paid, extra)
            paid.is_gone = status == CLIENT_GONE
            return status
        except PaymentRequired as refusal:
            return await self._ask(api, job, _reword(refusal), send, (*extra, *paid.failure(refusal)))
        finally:
            await self._close(paid)

    async def aclose(self) -> None:
        """Settle what is still to be settled; called once no request is answered any more."""
        self._is_closing.set()
        await asyncio.gather(*self._collecting, return_exceptions=True)
        await self._till.aclose()

    def _take_turn(self) -> None:
        wait_s = self._bucket.take(self._clock())
        if wait_s:
            raise RateLimited(
                f"requests without a key come to more than {self._bucket.per_minute} a minute here: the next one in "
                f"{wait_s:.1f} s, or use an API key",
                retry_after_s=wait_s,
            )

    async def _claim(self, header: bytes | None, job: Job) -> Claim:
        price_nano = self.price_nano(job)
        if header is None:
            raise PaymentRequired(f"this request costs up to {price_nano} nano: {_ASK}", code="payment_required")
        try:
            return await self._till.claim(read_payment(header), price_nano)
        except PaymentRequired as refusal:
            self._metrics.errors[refusal.code] += 1
            raise

    def price_nano(self, job: Job) -> int:
        """Return the highest cost of a job at the dearest well provider that is at most twice the cheapest.

        Raises:
            Refusal: nobody can serve it now, or may at this size.
        """
        now_s, quote = self._clock(), job.quote
        unfit = job.listing.misfits(job.preferences, quote)
        costs = [
            (call_cost(quote.max_units_in, quote.max_units_out, seller.offer.price_in, seller.offer.price_out), seller)
            for seller in job.listing.sellers
            if seller.link.provider not in unfit and not seller.why_not(now_s)
        ]
        possible = [cost for cost, seller in costs if cost <= seller.largest_nano]
        if not possible:
            raise self._nobody(job)
        return max(cost for cost in possible if cost <= DEAREST * min(possible))

    async def _ask(self, api: str, job: Job, refusal: PaymentRequired, send: Send, extra: tuple[Header, ...]) -> int:
        asked = self._till.asked
        required = {
            "x402Version": VERSION,
            "error": refusal.code,
            "resource": {
                "url": self._base_url().removesuffix("/v1") + _PATHS[api],
                "description": f"{api} by {job.listing.name}",
                "mimeType": "text/event-stream" if job.request.stream else "application/json",
            },
            "accepts": ask_for(
                asked.schemes,
                network=asked.network,
                token=asked.token,
                receiver=asked.receiver,
                amount_nano=self.price_nano(job),
                window_s=asked.least_s + DECIDE_S,
            ),
            "extensions": SPONSORING_DECLARED if UPTO in asked.schemes else {},
        }
        plain = error_reply(refusal, headers=((b"payment-required", encode_header(required)),))
        body = msgspec.json.encode(required | {"error": error_object(refusal)})
        await send_reply(send, Reply(402, body, plain.headers), extra)
        return 402

    async def _close(self, paid: PaidSend) -> None:
        if not (paid.is_gone or (paid.is_late and paid.is_shown)):
            await self._till.release(paid.claim)
        elif paid.claim.settling is None:
            task = asyncio.create_task(self._collect(paid), name="x402-collect")
            self._collecting.add(task)
            task.add_done_callback(self._collecting.discard)

    async def _collect(self, paid: PaidSend) -> None:
        """Settle what ended before its cost was known, once it is: at the latest when we stop."""
        meter, end_s = paid.claim.meter, self._clock() + self._settings.deadline_s + self._settings.grace_s
        while meter.reserved_nano and self._clock() < end_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_closing.wait(), COLLECT_POLL_S)
                break
        if not meter.unsaved_nano:
            await self._till.release(paid.claim)
            return
        try:
            await paid.settle()
        except SteelyardError as error:
            _log.warning("answer_not_paid", code=error.code, nano=meter.unsaved_nano)


async def open_paid_work(
    payments: Payments,
    settings: GatewaySettings,
    metrics: Metrics,
    make_till: Callable[[Asked], Till],
    *,
    account: bytes,
    nobody: Callable[[Job], Refusal],
    base_url: Callable[[], str],
    why_full: Callable[[], str],
    clock: Callable[[], float],
) -> PaidWork:
    """Return the front for callers without a key, offering the schemes that this chain can settle."""
    schemes = payments.terms.schemes
    if UPTO in schemes and not await payments.chain.has_upto():
        _log.warning("upto_not_offered", reason="Permit2 or x402's proxy is not on this chain")
        schemes = tuple(scheme for scheme in schemes if scheme != UPTO)
    least_s = ceil(settings.deadline_s * settings.max_attempts) + SETTLE_S
    asked = Asked(schemes, f"eip155:{payments.chain_id}", payments.token, account, least_s)
    return PaidWork(
        payments.terms,
        settings,
        make_till(asked),
        metrics,
        nobody=nobody,
        base_url=base_url,
        why_full=why_full,
        clock=clock,
    )


def _reword(refusal: PaymentRequired) -> PaymentRequired:
    """What a refusal in a key's words is to someone without one."""
    if refusal.code == "insufficient_funds":
        raise Unavailable("this gateway's own deposit is spent: its operator can add to it") from refusal
    if refusal.code == "budget_exceeded":
        return PaymentRequired(f"the price rose above the payment: {_ASK}", code="amount_below_price")
    return refusal
