"""Methods over the state: balances, code, calls, estimates, and the one that changes it."""

from __future__ import annotations

import time
from typing import Any

from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.engine import BlockContext, Call, CallOutcome
from steelyard.chain.embedded.estimating import estimate_gas
from steelyard.chain.embedded.header import Header
from steelyard.chain.embedded.jsonrpc import Method
from steelyard.chain.embedded.methods.blocks import require_header
from steelyard.chain.embedded.params import (
    BlockRef,
    CallParams,
    address,
    block_ref,
    call_params,
    data,
    expect,
    optional,
    quantity,
)
from steelyard.chain.embedded.reverts import reverted
from steelyard.chain.embedded.transactions import floor_gas, intrinsic_gas
from steelyard.chain.embedded.views import to_hex
from steelyard.errors import BadRequest, Refusal

CALL_TIMEOUT_S = 5.0  # geth's --rpc.evmtimeout
ESTIMATE_TIMEOUT_S = 15.0


class StateMethods:
    """What accounts hold and contracts answer."""

    def __init__(self, chain: EmbeddedChain) -> None:
        self._chain = chain

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {
            "eth_getBalance": self.balance,
            "eth_getTransactionCount": self.nonce,
            "eth_getCode": self.code,
            "eth_getStorageAt": self.storage,
            "eth_call": self.call,
            "eth_estimateGas": self.estimate,
            "eth_sendRawTransaction": self.send_raw,
        }

    async def balance(self, params: list[Any]) -> str:
        """Return an address' wei at a block."""
        expect(params, 1, 2)
        owner, header = address(params[0]), self._header(params, 1)
        if header is self._chain.head:
            return hex(self._chain.account(owner).balance_wei)
        return hex(self._chain.engine.account(self._chain.store.nodes, header.state_root, owner).balance_wei)

    async def nonce(self, params: list[Any]) -> str:
        """Return an address' nonce at a block; `pending` counts what is pooled behind it without a gap."""
        expect(params, 1, 2)
        owner, header = address(params[0]), self._header(params, 1)
        if optional(params, 1) == "pending":
            return hex(self._chain.pending_nonce(owner))
        if header is self._chain.head:
            return hex(self._chain.account(owner).nonce)
        return hex(self._chain.engine.account(self._chain.store.nodes, header.state_root, owner).nonce)

    async def code(self, params: list[Any]) -> str:
        """Return the code at an address at a block."""
        expect(params, 1, 2)
        owner, header = address(params[0]), self._header(params, 1)
        return to_hex(self._chain.engine.code(self._chain.store.nodes, header.state_root, owner))

    async def storage(self, params: list[Any]) -> str:
        """Return a word of an address' storage at a block."""
        expect(params, 2, 3)
        owner, slot, header = address(params[0]), quantity(params[1], "slot"), self._header(params, 2)
        return f"0x{self._chain.engine.storage(self._chain.store.nodes, header.state_root, owner, slot):064x}"

    async def call(self, params: list[Any]) -> str:
        """Return what a call gives at a block; a revert's data goes into the error."""
        expect(params, 1, 4)
        if optional(params, 2) or optional(params, 3):
            raise BadRequest("state and block overrides are not supported by the embedded chain", param="overrides")
        wanted = call_params(params[0])
        header, context = self._place(block_ref(optional(params, 1, "latest")))
        call = _call(wanted, min(wanted.gas or context.gas_limit, context.gas_limit))
        outcome = await self._chain.read(self._execute, header, context, call, CALL_TIMEOUT_S)
        if outcome.is_revert:
            raise reverted(outcome.output)
        if outcome.error:
            raise Refusal(outcome.error, code="execution_failed")
        return to_hex(outcome.output)

    async def estimate(self, params: list[Any]) -> str:
        """Return a gas limit that suffices in the next block, or at the block named."""
        expect(params, 1, 4)
        if optional(params, 2) or optional(params, 3):
            raise BadRequest("state and block overrides are not supported by the embedded chain", param="overrides")
        wanted = call_params(params[0])
        header, context = self._place(block_ref(optional(params, 1, "pending")))
        return hex(await self._chain.read(self._estimate, wanted, header, context))

    async def send_raw(self, params: list[Any]) -> str:
        """Take a signed transaction; the hash comes back once it is committed."""
        expect(params, 1, 1)
        return to_hex(await self._chain.submit(data(params[0], "transaction")))

    def _header(self, params: list[Any], index: int) -> Header:
        return require_header(self._chain, block_ref(optional(params, index, "latest")))

    def _place(self, ref: BlockRef) -> tuple[Header, BlockContext]:
        header = require_header(self._chain, ref)
        return header, self._chain.next_context() if ref == "pending" else self._chain.context_of(header)

    def _execute(self, header: Header, context: BlockContext, call: Call, timeout_s: float) -> CallOutcome:
        return self._chain.engine.call(self._chain.store.nodes, header.state_root, context, call, timeout_s=timeout_s)

    def _estimate(self, wanted: CallParams, header: Header, context: BlockContext) -> int:
        deadline = time.monotonic() + ESTIMATE_TIMEOUT_S
        nodes, engine = self._chain.store.nodes, self._chain.engine
        cap = min(wanted.gas or context.gas_limit, context.gas_limit)
        fee = wanted.gas_price or wanted.max_fee_per_gas or 0
        if fee:
            balance = engine.account(nodes, header.state_root, wanted.sender).balance_wei
            if balance < wanted.value:
                raise Refusal("insufficient funds for transfer", code="insufficient_funds")
            cap = min(cap, (balance - wanted.value) // fee)
        least = intrinsic_gas(wanted.data, is_create=not wanted.to, access_list=wanted.access_list)
        floor = max(least, floor_gas(wanted.data))
        is_transfer = not wanted.data and wanted.to and not engine.code(nodes, header.state_root, wanted.to)
        if is_transfer and not wanted.value:
            return floor

        def run(gas: int) -> CallOutcome:
            left_s = max(deadline - time.monotonic(), 0.0)
            return self._execute(header, context, _call(wanted, gas), left_s)

        return estimate_gas(run, cap=cap, floor=floor)


def _call(wanted: CallParams, gas: int) -> Call:
    max_fee = wanted.gas_price if wanted.gas_price is not None else wanted.max_fee_per_gas or 0
    tip = max_fee if wanted.gas_price is not None else wanted.max_priority_fee_per_gas or 0
    return Call(
        sender=wanted.sender,
        to=wanted.to,
        gas=gas,
        value=wanted.value,
        data=wanted.data,
        access_list=wanted.access_list,
        max_fee_per_gas=max_fee,
        max_priority_fee_per_gas=min(tip, max_fee),
    )
