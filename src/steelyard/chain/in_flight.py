"""One transaction between its first broadcast and its receipt.

1. The same bytes are sent again as often as needed; other bytes (a higher fee) only for the same nonce.
2. Any of its versions may be mined; the receipt of whichever was is the answer.

   sent ──receipt, deep enough──▶ done
     │ stalled ├ the node does not know it     → the same bytes again
     │         ├ it is this nonce's turn       → a higher fee
     │         └ an earlier nonce is missing   → the sender fills the gap
     └ the nonce is used, none of ours is mined → transaction_replaced

Law: EIP-1559, EIP-7825 (a transaction's gas ends at 2^24).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from steelyard.chain.fees import FEE_HISTORY_CALL, FeePolicy, Fees, bump_fees, suggest_fees
from steelyard.chain.records import TxReceipt, parse_receipt
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.transaction import Transaction
from steelyard.errors import ChainError, ChainUnreachable
from steelyard.protocol.ids import format_hex
from steelyard.protocol.signing import SigningKey

MAX_TRANSACTION_GAS = 2**24
TRANSFER_GAS = 21_000
# A higher fee that is refused for one of these leaves the version before it in place.
_BUMP_REFUSALS = ("nonce_too_low", "replacement_underpriced", "fee_too_low", "insufficient_gas_funds")


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPolicy:
    """How a sender waits.

    Args:
        confirmations: blocks, 1 is mined.
        gas_margin, gas_margin_percent: on top of eth_estimateGas; unused gas costs nothing. The estimate is of one
            moment: a second later, the same call may write a few new slots where it overwrote.
        timeout_s: until a send gives up. stall_s: without a receipt, until it is looked after.
        poll_s, max_poll_s: between looks for the receipt, growing by half.
    """

    confirmations: int = 1
    gas_margin: int = 100_000
    gas_margin_percent: int = 25
    timeout_s: float = 120.0
    stall_s: float = 15.0
    poll_s: float = 0.02
    max_poll_s: float = 1.0
    fees: FeePolicy = field(default_factory=FeePolicy)


class InFlight:
    """A signed transaction on its way; the sender broadcasts it first and then waits on it.

    Args:
        rpc, key, policy: the sender's. transaction: with its nonce. clock: monotonic seconds.
    """

    def __init__(
        self,
        rpc: ChainRpc,
        key: SigningKey,
        transaction: Transaction,
        policy: SendPolicy,
        clock: Callable[[], float],
    ) -> None:
        self.transaction = transaction
        self.is_accepted = False
        signed = transaction.sign(key)
        self.raw = signed.raw
        self.hashes = [signed.hash]
        self._rpc = rpc
        self._key = key
        self._policy = policy
        self._clock = clock
        self._misses = 0

    async def wait(self, confirmations: int, deadline_s: float, fill_gap: FillGap) -> TxReceipt:
        """Return the receipt, successful or not, once it is `confirmations` blocks deep.

        Args:
            deadline_s: on the clock. fill_gap: called with the count of mined nonces where earlier ones are missing.

        Raises:
            ChainError, ChainUnreachable: as `Sender.send`.
        """
        poll_s, looked_after_s = self._policy.poll_s, self._clock()
        silence: ChainUnreachable | None = None
        while True:
            try:
                receipt = await self.find_receipt()
                silence = None
                if receipt is not None:
                    depth = receipt.block_number + confirmations - 1
                    if confirmations <= 1 or await self._rpc.block_number() >= depth:
                        return receipt
                elif not self.is_accepted or self._clock() - looked_after_s >= self._policy.stall_s:
                    looked_after_s = self._clock()
                    await self._look_after(fill_gap)
            except ChainUnreachable as error:
                silence = error
            if self._clock() >= deadline_s:
                raise silence or ChainError(
                    f"transaction {format_hex(self.hashes[-1])} (nonce {self.transaction.nonce}) is not mined after "
                    f"{self._policy.timeout_s:g} s; it may still be",
                    code="transaction_pending",
                )
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 1.5, self._policy.max_poll_s)

    async def find_receipt(self) -> TxReceipt | None:
        """Return the receipt of whichever version was mined, or None."""
        if len(self.hashes) == 1:
            return await self._rpc.receipt(self.hashes[0])
        calls = [("eth_getTransactionReceipt", [format_hex(tx_hash)]) for tx_hash in self.hashes]
        return next((parse_receipt(reply) for reply in await self._rpc.batch_all(calls) if reply is not None), None)

    async def _look_after(self, fill_gap: FillGap) -> None:
        mined = await self._rpc.nonce(self._key.account)
        if mined > self.transaction.nonce:
            await self._check_replaced()
        elif not self.is_accepted or await self._is_unknown():
            await self._rebroadcast()
        elif mined == self.transaction.nonce:
            await self._bump()
        if mined < self.transaction.nonce:
            await fill_gap(mined, self)

    async def _check_replaced(self) -> None:
        if await self.find_receipt() is not None:
            return
        self._misses += 1
        if self._misses >= 3:  # more than one look: a node's receipts may trail its nonces
            raise ChainError(
                f"nonce {self.transaction.nonce} of {format_hex(self._key.account)} was used by another transaction; "
                "this one is void",
                code="transaction_replaced",
            )

    async def _is_unknown(self) -> bool:
        return await self._rpc.call("eth_getTransactionByHash", [format_hex(self.hashes[-1])]) is None

    async def _rebroadcast(self) -> None:
        try:
            await self._rpc.send_raw(self.raw)
            self.is_accepted = True
        except ChainUnreachable:
            raise
        except ChainError as error:
            if error.code in ("fee_too_low", "replacement_underpriced"):
                await self._bump()
            elif error.code == "nonce_too_low":
                await self._check_replaced()
            elif not self.is_accepted:
                raise

    async def _bump(self) -> None:
        current = suggest_fees(await self._rpc.call(*FEE_HISTORY_CALL), self._policy.fees)
        offered = Fees(self.transaction.max_fee_wei, self.transaction.max_priority_fee_wei)
        fees = bump_fees(offered, current, self._policy.fees)
        if fees is None:
            return
        self.transaction = replace(
            self.transaction, max_fee_wei=fees.max_fee_wei, max_priority_fee_wei=fees.max_priority_fee_wei
        )
        signed = self.transaction.sign(self._key)
        self.raw = signed.raw
        self.hashes.append(signed.hash)
        try:
            await self._rpc.send_raw(signed.raw)
            self.is_accepted = True
        except ChainError as error:
            if error.code not in _BUMP_REFUSALS:
                raise


FillGap = Callable[[int, InFlight], Awaitable[None]]
