"""The till: claims payments, holds what is in flight, settles on chain, and knows who didn't honour one.

1. A claim is a row under (scheme, payer, nonce): of two requests with one payment one wins, in whichever process.
2. What one payer has in flight here is covered by its balance all together.
3. Before a transaction leaves, the chain is asked whether it would go through: a refusal then, or in the block, costs
   the payer nothing and the gateway the call. From then on silence is "pending", never "not paid".
4. A settlement that began ends, whoever stops waiting for it.

   claimed ──settle──▶ settled, or pending        the nonce is spent
      │    └ refused ─▶ free, the payer benched    nothing was taken
      └────release────▶ free                       nothing was taken

Law: docs/spec/x402.md, sections 1 and 3.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from steelyard.chain.payments import Authorization, Standing
from steelyard.errors import (
    BadSignature,
    ChainError,
    ChainUnreachable,
    Conflict,
    Fault,
    PaymentRequired,
    Reverted,
    Unavailable,
)
from steelyard.gateway.x402_rules import Asked, check_offered, check_standing, spent_nonce
from steelyard.gateway.x402_wire import Offered, Payment
from steelyard.protocol.ids import format_hex
from steelyard.storage.database import Database
from steelyard.storage.idempotency import begin_request, drop_request, finish_request
from steelyard.storage.meter import BudgetMeter, Lease

MAX_BENCHED = 10_000
SETTLE_S = 120
KEEP_MS = 86_400_000
TRANSACTION_FAILED = "transaction_failed"

_log = structlog.get_logger("steelyard.gateway")


class PaymentChain(Protocol):
    """What settling needs of the chain; `chain_reader.ChainPayments` over the real one."""

    async def has_upto(self) -> bool:
        """Say whether Permit2 and the proxy stand on this chain."""

    def require_signed(self, payment: Payment) -> None:
        """Refuse a payment that its payer didn't sign; raises BadSignature."""

    async def fetch_standing(self, payment: Payment) -> Standing:
        """Return the payer's money and the nonce's state; raises ChainError."""

    async def simulate(self, payment: Payment, amount_nano: int) -> None:
        """Settle without doing it; raises Reverted with the reason for which it would fail."""

    async def settle(self, payment: Payment, amount_nano: int) -> bytes:
        """Take so much of a payment and return the transaction's hash; raises as `Sender.send` does."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How a payment ended; `tx_hash` is empty where nothing was to be paid, or nobody knows (`is_pending`)."""

    amount_nano: int
    tx_hash: bytes = b""
    is_pending: bool = False


@dataclass(slots=True, eq=False)
class Claim:
    """A payment that one request has for itself; `meter` is the call's whole budget, and tells what it cost."""

    payment: Payment
    scheme: str
    meter: BudgetMeter
    settled: Settled | None = None
    is_over: bool = False
    settling: asyncio.Task[Settled] | None = field(default=None, repr=False)

    @property
    def owner(self) -> str:
        """Whose nonce it is, as the claim's row names it."""
        return f"x402:{self.scheme}:{format_hex(self.payment.payer)}"

    @property
    def nonce(self) -> str:
        """The nonce, as the claim's row names it."""
        nonce = self.payment.nonce
        return nonce.hex() if isinstance(nonce, bytes) else f"{nonce:064x}"


class Till:
    """All payments of one gateway process.

    Args:
        process: this process's name. bench_s: how long a payer is refused whose settlement was refused.
        clock: monotonic seconds. clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        chain: PaymentChain,
        database: Database,
        asked: Asked,
        *,
        process: str,
        bench_s: float,
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        self.asked = asked
        self._chain = chain
        self._database = database
        self._process = process
        self._bench_s = bench_s
        self._clock = clock
        self._clock_ms = clock_ms
        self._held: dict[bytes, int] = {}
        self._benched: OrderedDict[bytes, float] = OrderedDict()
        self._tasks: set[asyncio.Task[Settled]] = set()

    async def claim(self, offered: Offered, price_nano: int) -> Claim:
        """Verify a payment and take it for one request; `settle` or `release` ends that.

        Raises:
            PaymentRequired: it isn't good; its code says why. Unavailable: the chain can't be asked now.
        """
        payment = offered.payment
        check_offered(offered, self.asked, price_nano, self._clock_ms() // 1000)
        is_exact = isinstance(payment, Authorization)
        try:
            self._chain.require_signed(payment)
        except BadSignature as error:
            code = "invalid_exact_evm_payload_signature" if is_exact else "invalid_permit2_signature"
            raise PaymentRequired(error.message, code=code) from error
        self._check_bench(payment.payer)
        claim = Claim(payment, offered.accepted.scheme, BudgetMeter(lease_once(payment.amount_nano), clock=self._clock))
        await self._begin(claim)
        is_held = False
        try:
            standing = await self._chain.fetch_standing(payment)
            check_offered(offered, self.asked, price_nano, max(standing.block_time_s, self._clock_ms() // 1000))
            held_nano = self._held.get(payment.payer, 0)
            check_standing(payment, standing, held_nano)
            self._held[payment.payer] = held_nano + payment.amount_nano
            is_held = True
            await self._chain.simulate(payment, payment.amount_nano)
        except BaseException as error:
            if is_held:
                self._let_go(claim)
            await self._drop(claim)
            if isinstance(error, Reverted):
                raise PaymentRequired(
                    f"settling this payment would be refused: {error.message[:300]}",
                    code="invalid_exact_evm_transaction_simulation_failed",
                ) from error
            if isinstance(error, ChainError):
                raise _unsettled(error) from error
            raise
        return claim

    async def settle(self, claim: Claim, amount_nano: int) -> Settled:
        """End a claim by taking an amount of its payment; once it began it goes on, though the caller be gone.

        Raises:
            PaymentRequired: the chain refused it (``transaction_failed``); nothing was taken.
            Unavailable: this gateway can't settle now (``settlement_failed``); nothing was taken.
        """
        if claim.settling is None:
            if claim.is_over:
                raise Fault("a payment that was given back can't be settled")
            claim.settling = asyncio.create_task(self._settle(claim, amount_nano), name="x402-settle")
            self._tasks.add(claim.settling)
            claim.settling.add_done_callback(self._tasks.discard)
        return await asyncio.shield(claim.settling)

    async def release(self, claim: Claim) -> None:
        """Give a payment back: nothing of it was used. What is settled, or being settled, stays so."""
        if claim.settling is None and not claim.is_over:
            self._let_go(claim)
            await self._drop(claim)

    async def aclose(self) -> None:
        """Let the settlements that began come to their end."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(self, claim: Claim, amount_nano: int) -> Settled:
        try:
            settled = await self._take(claim.payment, amount_nano)
        except PaymentRequired:
            self._bench(claim.payment.payer)
            await self._end(claim, None)
            raise
        except Unavailable:
            await self._end(claim, None)
            raise
        await self._end(claim, settled)
        _log.info(
            "payment_pending" if settled.is_pending else "payment_settled",
            scheme=claim.scheme,
            payer=format_hex(claim.payment.payer),
            amount_nano=settled.amount_nano,
            transaction=format_hex(settled.tx_hash),
        )
        return settled

    async def _take(self, payment: Payment, amount_nano: int) -> Settled:
        if amount_nano == 0:
            return Settled(0)
        try:
            await self._chain.simulate(payment, amount_nano)
        except Reverted as error:
            raise _refused(error) from error
        except ChainError as error:
            raise _unsettled(error) from error
        try:
            return Settled(amount_nano, await self._chain.settle(payment, amount_nano))
        except Reverted as error:
            raise _refused(error) from error
        except ChainUnreachable:
            return Settled(amount_nano, is_pending=True)
        except ChainError as error:
            if error.code == "transaction_pending":
                return Settled(amount_nano, is_pending=True)
            raise _unsettled(error) from error

    def _check_bench(self, payer: bytes) -> None:
        until_s = self._benched.get(payer, 0.0)
        if until_s > self._clock():
            raise PaymentRequired(
                f"the last payment of {format_hex(payer)} could not be settled: it is served again in "
                f"{until_s - self._clock():.0f} s",
                code="payer_benched",
            )

    def _bench(self, payer: bytes) -> None:
        self._benched[payer] = self._clock() + self._bench_s
        self._benched.move_to_end(payer)
        if len(self._benched) > MAX_BENCHED:
            self._benched.popitem(last=False)

    async def _begin(self, claim: Claim) -> None:
        payment, now_ms = claim.payment, self._clock_ms()
        try:
            earlier = await begin_request(
                self._database,
                claim.owner,
                claim.nonce,
                payment.struct_hash(),
                process=self._process,
                now_ms=now_ms,
                expires_ms=now_ms + KEEP_MS,
            )
        except Conflict as error:
            raise spent_nonce(payment) from error
        if earlier is not None:
            raise spent_nonce(payment)

    async def _end(self, claim: Claim, settled: Settled | None) -> None:
        claim.settled = settled
        self._let_go(claim)
        if settled is None:
            await self._drop(claim)
        else:
            await finish_request(self._database, claim.owner, claim.nonce, settled.tx_hash or b"-")

    async def _drop(self, claim: Claim) -> None:
        claim.is_over = True
        await drop_request(self._database, claim.owner, claim.nonce)

    def _let_go(self, claim: Claim) -> None:
        payer = claim.payment.payer
        left = self._held.pop(payer) - claim.payment.amount_nano
        if left:
            self._held[payer] = left


def lease_once(limit_nano: int) -> Lease:
    """Return the lease behind a budget that has so much and no more, in memory alone."""
    left_nano = limit_nano

    async def lease(want_nano: int, least_nano: int) -> int:
        nonlocal left_nano
        granted = min(want_nano, left_nano) if left_nano >= least_nano else 0
        left_nano -= granted
        return granted

    return lease


def _refused(error: Reverted) -> PaymentRequired:
    return PaymentRequired(
        f"the payment could not be settled, so the answer stays here and nothing was taken: {error.message[:300]}",
        code=TRANSACTION_FAILED,
    )


def _unsettled(error: ChainError) -> Unavailable:
    _log.error("settlement_failed", code=error.code, reason=error.message)
    return Unavailable(
        f"this gateway can't settle payments now ({error.code}), and took nothing: try again in a while, or use a key",
        code="settlement_failed",
        retry_after_s=10.0,
    )
