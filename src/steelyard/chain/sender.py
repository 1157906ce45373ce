"""One account's transactions: nonces without gaps or doubles, fees that rise when stuck, receipts that are final.

1. One Sender per account and process. Many tasks may send at once; nonces are given out one at a time, in order.
2. A call that would revert is refused before it takes a nonce, with the contract's reason.
3. A transaction is signed once per nonce and fee. Silence never makes a second one: the same bytes are sent again.
4. A nonce that somebody else used is seen ("nonce too low") and the next free one taken.
5. A nonce that was given up (a cancelled task, a time-out) is used again by the next send; if later ones wait behind
   it, an empty transaction fills it.

   took nonce ──broadcast──▶ in flight ──receipt, deep enough──▶ done, or Reverted with its reason
                   │             │ stalled: unknown to the node → same bytes again; known → 15 % more fee
                   │             └ the nonce is used, none of ours mined → transaction_replaced
                   └ refused → the nonce is free again

Law: EIP-1559, EIP-7825 (a transaction's gas ends at 2^24).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from steelyard.chain.fees import FEE_HISTORY_CALL, Fees, suggest_fees
from steelyard.chain.in_flight import MAX_TRANSACTION_GAS, TRANSFER_GAS, InFlight, SendPolicy
from steelyard.chain.records import TxReceipt, parse_quantity
from steelyard.chain.reverts import build_reverted
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.transaction import Transaction
from steelyard.errors import ChainError, ChainUnreachable, Reverted
from steelyard.protocol.ids import format_hex
from steelyard.protocol.signing import SigningKey

_NONCE_ATTEMPTS = 8
_MAX_GAP = 16


class Sender:
    """Signs and sends for one account; safe for many tasks at once.

    Args:
        rpc: the chain; its life is the caller's. key: the account's. policy: how to wait and what to offer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        rpc: ChainRpc,
        key: SigningKey,
        *,
        policy: SendPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rpc = rpc
        self.account = key.account
        self._key = key
        self._policy = policy or SendPolicy()
        self._clock = clock
        self._lock = asyncio.Lock()
        self._next: int | None = None
        self._in_flight: dict[int, InFlight] = {}

    def __repr__(self) -> str:
        return f"Sender({format_hex(self.account)})"

    async def send(
        self,
        to: bytes | None,
        data: bytes = b"",
        *,
        value_wei: int = 0,
        gas: int | None = None,
        confirmations: int | None = None,
        what: str = "",
    ) -> TxReceipt:
        """Send a transaction and return its receipt once it is deep enough.

        Args:
            to: 20 bytes, or None to create a contract from `data`. gas: None estimates it.
            confirmations: None takes the policy's. what: the action's name, for error messages.

        Raises:
            Reverted: the contract refused, before sending or when mined; with its reason.
            ChainUnreachable: no endpoint answered up to the time-out; the transaction may still be mined.
            ChainError: too little gas coin (``insufficient_gas_funds``), not mined in time (``transaction_pending``),
                the nonce used by another (``transaction_replaced``), or too much gas (``gas_limit_too_high``).
        """
        what = what or (f"a transaction to {format_hex(to)}" if to else "a contract's creation")
        deadline_s = self._clock() + self._policy.timeout_s
        gas, fees = await self._quote(to, data, value_wei, gas, what)
        entry = await self._submit(to, data, value_wei, gas, fees)
        try:
            receipt = await entry.wait(confirmations or self._policy.confirmations, deadline_s, self._fill_gap)
        except BaseException:  # given up, for whatever reason: what became of the nonce is asked anew
            self._next = None
            raise
        finally:
            if self._in_flight.get(entry.transaction.nonce) is entry:
                del self._in_flight[entry.transaction.nonce]
        if not receipt.is_success:
            raise await self._explain(entry.transaction, receipt, what)
        return receipt

    async def _quote(
        self, to: bytes | None, data: bytes, value_wei: int, gas: int | None, what: str
    ) -> tuple[int, Fees]:
        request = {"from": format_hex(self.account), "data": format_hex(data), "value": hex(value_wei)}
        if to is not None:
            request["to"] = format_hex(to)
        calls = [FEE_HISTORY_CALL] + ([("eth_estimateGas", [request])] if gas is None else [])
        history, *estimate = await self.rpc.batch(calls)
        if isinstance(history, ChainError):
            raise history
        if estimate:
            if isinstance(estimate[0], Reverted):
                raise build_reverted(estimate[0].data, what) if estimate[0].data else estimate[0]
            if isinstance(estimate[0], ChainError):
                raise self._name_account(estimate[0])
            needed = parse_quantity(estimate[0], "gas estimate")
            if needed > MAX_TRANSACTION_GAS:
                raise ChainError(
                    f"{what} needs {needed} gas, a transaction may take {MAX_TRANSACTION_GAS}: split it",
                    code="gas_limit_too_high",
                )
            margin = self._policy.gas_margin + needed * self._policy.gas_margin_percent // 100
            gas = min(needed + margin, MAX_TRANSACTION_GAS)
        return gas or TRANSFER_GAS, suggest_fees(history, self._policy.fees)

    async def _submit(self, to: bytes | None, data: bytes, value_wei: int, gas: int, fees: Fees) -> InFlight:
        chain_id = await self.rpc.chain_id()
        async with self._lock:
            floor = 0
            for _ in range(_NONCE_ATTEMPTS):
                nonce = await self._free_nonce(floor)
                transaction = Transaction(
                    chain_id=chain_id,
                    nonce=nonce,
                    max_priority_fee_wei=fees.max_priority_fee_wei,
                    max_fee_wei=fees.max_fee_wei,
                    gas=gas,
                    to=to,
                    value_wei=value_wei,
                    data=data,
                )
                entry = InFlight(self.rpc, self._key, transaction, self._policy, self._clock)
                verdict = await self._broadcast_first(entry)
                if verdict == "taken":
                    floor = nonce + 1
                elif verdict != "stale":
                    self._in_flight[nonce] = entry
                    self._next = nonce + 1
                    return entry
        raise ChainError(
            f"the nonces of {format_hex(self.account)} are being used by another process: run one sender per account",
            code="nonce_contended",
        )

    async def _broadcast_first(self, entry: InFlight) -> str:
        try:
            await self.rpc.send_raw(entry.raw)
        except ChainUnreachable:  # perhaps delivered: it keeps its nonce, and the same bytes are sent again
            return "silent"
        except ChainError as error:
            self._next = None
            if error.code == "replacement_underpriced":
                return "taken"
            if error.code != "nonce_too_low":
                raise self._name_account(error) from error
            if await self.rpc.receipt(entry.hashes[0]) is None:
                return "stale"
        except BaseException:
            self._next = None
            raise
        entry.is_accepted = True
        return "accepted"

    async def _free_nonce(self, floor: int) -> int:
        if self._next is None:
            self._next = await self.rpc.nonce(self.account, "pending")
        nonce = max(self._next, floor)
        while nonce in self._in_flight:
            nonce += 1
        return nonce

    async def _fill_gap(self, mined: int, entry: InFlight) -> None:
        async with self._lock:
            known = await self.rpc.nonce(self.account, "pending")
            missing = [n for n in range(max(mined, known), entry.transaction.nonce) if n not in self._in_flight]
            if len(missing) > _MAX_GAP:
                raise ChainError(
                    f"the chain knows {known} transactions of {format_hex(self.account)}, this is number "
                    f"{entry.transaction.nonce}: was the chain wiped?",
                    code="nonce_gap",
                )
            fees = suggest_fees(await self.rpc.call(*FEE_HISTORY_CALL), self._policy.fees)
            for nonce in missing:
                filler = Transaction(
                    chain_id=entry.transaction.chain_id,
                    nonce=nonce,
                    max_priority_fee_wei=fees.max_priority_fee_wei,
                    max_fee_wei=fees.max_fee_wei,
                    gas=TRANSFER_GAS,
                    to=self.account,
                )
                try:
                    await self.rpc.send_raw(filler.sign(self._key).raw)
                except ChainError as error:
                    if error.code not in ("nonce_too_low", "replacement_underpriced"):
                        raise

    def _name_account(self, error: ChainError) -> ChainError:
        if error.code != "insufficient_gas_funds":
            return error
        return ChainError(f"{error.message}: {format_hex(self.account)} pays for it", code=error.code)

    async def _explain(self, transaction: Transaction, receipt: TxReceipt, what: str) -> Reverted:
        request = {
            "from": format_hex(self.account),
            "data": format_hex(transaction.data),
            "value": hex(transaction.value_wei),
            "gas": hex(transaction.gas),
        }
        if transaction.to is not None:
            request["to"] = format_hex(transaction.to)
        name = f"{what} (transaction {format_hex(receipt.tx_hash)})"
        try:
            await self.rpc.call("eth_call", [request, hex(receipt.block_number)])
        except Reverted as reverted:
            return build_reverted(reverted.data, name)
        except ChainError:
            pass  # the state of that block is gone: the reason with it
        if receipt.gas_used >= transaction.gas:
            return Reverted(f"the chain refused {name}: it ran out of {transaction.gas} gas", reason="out of gas")
        return build_reverted(b"", name)
