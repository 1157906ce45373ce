"""The engine that we run today: py-evm's Prague, used for its state and its instructions alone.

1. Blocks, headers and receipts are ours (`sealing.py`): py-evm's own chain classes cost ten times the execution.
2. A transaction is checked here, in geth's words, before py-evm sees it.

Port: engine.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eth.constants import BLANK_ROOT_HASH
from eth.db.account import AccountDB
from eth.db.atomic import AtomicDB
from eth.exceptions import (
    ContractCreationCollision,
    FullStack,
    InsufficientFunds,
    InsufficientStack,
    InvalidInstruction,
    InvalidJumpDestination,
    OutOfBoundsRead,
    OutOfGas,
    ReservedBytesInCode,
    Revert,
    StackDepthLimit,
    VMError,
    WriteProtection,
)
from rlp.codec import decode_raw
from trie import HexaryTrie

from steelyard.chain.embedded.engine import Account, BlockContext, Call, CallOutcome, Execution, Nodes, OpenBlock
from steelyard.chain.embedded.header import EMPTY_TRIE_ROOT
from steelyard.chain.embedded.mempool import insufficient_funds
from steelyard.chain.embedded.pyevm_state import NodeDb, TimeIsUp, open_state
from steelyard.chain.embedded.receipts import Log
from steelyard.chain.embedded.transactions import AccessList, Transaction, floor_gas, intrinsic_gas
from steelyard.errors import Refusal
from steelyard.protocol.hashing import keccak, word

EMPTY_CODE_HASH = keccak(b"")
MAX_REFUND_QUOTIENT = 5  # EIP-3529

_ERRORS: tuple[tuple[type[Any], str], ...] = (  # geth's words
    (Revert, "execution reverted"),
    (InsufficientStack, "stack underflow"),
    (FullStack, "stack limit reached 1024"),
    (InvalidJumpDestination, "invalid jump destination"),
    (InvalidInstruction, "invalid opcode"),
    (InsufficientFunds, "insufficient balance for transfer"),
    (StackDepthLimit, "max call depth exceeded"),
    (ContractCreationCollision, "contract address collision"),
    (WriteProtection, "write protection"),
    (OutOfBoundsRead, "return data out of bounds"),
    (ReservedBytesInCode, "invalid code: must not begin with 0xef"),
    (OutOfGas, "out of gas"),
)


@dataclass(frozen=True, slots=True)
class _Unsigned:
    """A call in the shape of a transaction."""

    sender: bytes
    to: bytes
    gas: int
    value: int
    data: bytes
    access_list: AccessList
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    intrinsic_gas: int
    type_id: int = 2


class PyEvmEngine:
    """py-evm behind the port."""

    name = "py-evm/0.12.1b1"
    fork = "prague"

    def build_genesis(
        self, nodes: Nodes, balances_wei: Mapping[bytes, int], codes: Mapping[bytes, bytes] | None = None
    ) -> bytes:
        """Write a state with these balances, and these contracts at these addresses; return its root."""
        accounts = AccountDB(AtomicDB(NodeDb(nodes)), BLANK_ROOT_HASH)
        for address, balance in balances_wei.items():
            accounts.set_balance(address, balance)
        for address, code in (codes or {}).items():
            accounts.set_code(address, code)
            accounts.set_nonce(address, 1)  # EIP-161, as after a creation
        accounts.persist()
        return bytes(accounts.state_root)

    def open_block(self, nodes: Nodes, parent_root: bytes, context: BlockContext) -> OpenBlock:
        """Begin a block on top of a state."""
        return _Block(open_state(nodes, parent_root, context), context)

    def call(self, nodes: Nodes, root: bytes, context: BlockContext, call: Call, *, timeout_s: float) -> CallOutcome:
        """Execute a call over a state; with no fee named, gas is free and the base fee reads as zero, as in geth."""
        base_fee = context.base_fee_wei if call.max_fee_per_gas else 0
        state = open_state(nodes, root, context, base_fee_wei=base_fee)
        state.deadline = time.monotonic() + timeout_s
        intrinsic = intrinsic_gas(call.data, is_create=not call.to, access_list=call.access_list)
        _check_call(call, intrinsic, base_fee, state.get_balance(call.sender))
        unsigned = _Unsigned(
            call.sender,
            call.to,
            call.gas,
            call.value,
            call.data,
            call.access_list,
            call.max_fee_per_gas,
            call.max_priority_fee_per_gas,
            intrinsic,
        )
        try:
            computation = state.apply_transaction(unsigned)
        except TimeIsUp:
            raise Refusal(f"execution aborted (timeout = {timeout_s:g}s)", code="timeout") from None
        error = None if computation.is_success else computation.error
        return CallOutcome(
            output=bytes(computation.output),
            gas_spent=int(call.gas - computation.get_gas_remaining()),
            error="" if error is None else _error_text(error),
            is_revert=isinstance(error, Revert),
        )

    def account(self, nodes: Nodes, root: bytes, address: bytes) -> Account:
        """Return an address' nonce and balance."""
        fields = _account_fields(nodes, root, address)
        return Account(int.from_bytes(fields[0], "big"), int.from_bytes(fields[1], "big"))

    def code(self, nodes: Nodes, root: bytes, address: bytes) -> bytes:
        """Return the code at an address, empty for none."""
        code_hash = _account_fields(nodes, root, address)[3]
        return b"" if code_hash == EMPTY_CODE_HASH else nodes[code_hash]

    def storage(self, nodes: Nodes, root: bytes, address: bytes, slot: int) -> int:
        """Return the word in a slot of an address' storage."""
        storage_root = _account_fields(nodes, root, address)[2]
        encoded = bytes(HexaryTrie(NodeDb(nodes), storage_root)[keccak(word(slot))])
        return int.from_bytes(decode_raw(encoded, True, False)[0], "big") if encoded else 0


class _Block:
    """One block over py-evm's journalled state; the state root is worked out once, when the block is sealed."""

    def __init__(self, state: Any, context: BlockContext) -> None:
        self._state = state
        self._context = context

    def apply(self, transaction: Transaction) -> Execution:
        state = self._state
        _check(transaction, self._context.base_fee_wei, state.get_nonce, state.get_balance)
        state.lock_changes()
        snapshot = state.snapshot()
        try:
            computation = state.apply_transaction(transaction)
        except BaseException:
            state.revert(snapshot)
            raise
        state.commit(snapshot)
        logs = tuple(
            Log(bytes(address), tuple(word(topic) for topic in topics), bytes(data))
            for address, topics, data in computation.get_log_entries()
        )
        return Execution(status=int(computation.is_success), gas_used=_gas_used(transaction, computation), logs=logs)

    def seal(self) -> bytes:
        self._state.persist()
        return bytes(self._state.state_root)


def _account_fields(nodes: Nodes, root: bytes, address: bytes) -> list[bytes]:
    encoded = bytes(HexaryTrie(NodeDb(nodes), root)[keccak(address)])
    if not encoded:
        return [b"", b"", EMPTY_TRIE_ROOT, EMPTY_CODE_HASH]
    return list(decode_raw(encoded, True, False)[0])


def _check(
    tx: Transaction, base_fee_wei: int, nonce_of: Callable[[bytes], int], balance_of: Callable[[bytes], int]
) -> None:
    nonce = nonce_of(tx.sender)
    if tx.nonce != nonce:
        word_ = "low" if tx.nonce < nonce else "high"
        raise Refusal(f"nonce too {word_}: next nonce {nonce}, tx nonce {tx.nonce}", code=f"nonce_too_{word_}")
    if tx.max_fee_per_gas < base_fee_wei:
        raise Refusal(
            "max fee per gas less than block base fee: "
            f"address 0x{tx.sender.hex()}, maxFeePerGas: {tx.max_fee_per_gas}, baseFee: {base_fee_wei}",
            code="fee_too_low",
        )
    balance = balance_of(tx.sender)
    if balance < tx.max_cost_wei:
        raise insufficient_funds(tx, balance)


def _check_call(call: Call, intrinsic: int, base_fee_wei: int, balance_wei: int) -> None:
    needed = max(intrinsic, floor_gas(call.data))
    if call.gas < needed:
        raise Refusal(f"intrinsic gas too low: have {call.gas}, want {needed}", code="intrinsic_gas")
    if call.max_fee_per_gas < base_fee_wei:
        raise Refusal(
            "max fee per gas less than block base fee: "
            f"address 0x{call.sender.hex()}, maxFeePerGas: {call.max_fee_per_gas}, baseFee: {base_fee_wei}",
            code="fee_too_low",
        )
    cost = call.gas * call.max_fee_per_gas + call.value
    if balance_wei < cost:
        raise Refusal(
            f"insufficient funds for gas * price + value: address 0x{call.sender.hex()} have {balance_wei} want {cost}",
            code="insufficient_funds",
        )


def _gas_used(transaction: Any, computation: Any) -> int:
    used = int(transaction.gas - computation.get_gas_remaining())
    used -= min(int(computation.get_gas_refund()), used // MAX_REFUND_QUOTIENT)
    return max(used, floor_gas(transaction.data))  # EIP-7623


def _error_text(error: VMError) -> str:
    return next((text for kind, text in _ERRORS if isinstance(error, kind)), f"execution failed: {error}")
