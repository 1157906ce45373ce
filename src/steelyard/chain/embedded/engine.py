"""The port of the EVM: what executes transactions over a state that we keep.

1. An engine is a state transition over content-addressed nodes: a state is named by its 32-byte root, and nodes once
   written never change. It keeps no blocks, no receipts, no sockets, and reads no clock.
2. Reads (`call`, `account`, `code`, `storage`) never write, and may run in several threads beside one open block.
3. A transaction is checked against the state here (nonce, balance, fee, room for its gas); what it is refused for is
   worded as geth words it.

py-evm is archived upstream: docs/decisions/002-embedded-chain-engine.md says what may replace it behind this port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from steelyard.chain.embedded.receipts import Log
from steelyard.chain.embedded.transactions import AccessList, Transaction


class Nodes(Protocol):
    """Where an engine keeps its state: content-addressed values, never overwritten."""

    def __getitem__(self, key: bytes) -> bytes: ...  # raises KeyError

    def __setitem__(self, key: bytes, value: bytes) -> None: ...  # refused by a read-only view


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockContext:
    """What instructions can see of the block that they run in."""

    chain_id: int
    number: int
    timestamp_s: int
    base_fee_wei: int
    gas_limit: int
    coinbase: bytes
    mix_hash: bytes
    ancestor_hash: Callable[[int], bytes | None]  # by number; None when unknown


@dataclass(frozen=True, slots=True)
class Account:
    """What the state says of an address."""

    nonce: int
    balance_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An unsigned execution that leaves nothing behind (`eth_call`, `eth_estimateGas`); `to` empty creates."""

    sender: bytes
    to: bytes
    gas: int
    value: int = 0
    data: bytes = b""
    access_list: AccessList = ()
    max_fee_per_gas: int = 0
    max_priority_fee_per_gas: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What a call gave: `error` is empty on success; `gas_spent` is what it needed before any refund."""

    output: bytes
    gas_spent: int
    error: str = ""
    is_revert: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a transaction gave in its block."""

    status: int
    gas_used: int
    logs: tuple[Log, ...]


class OpenBlock(Protocol):
    """A block being executed: transactions in order, then the root of the state after them."""

    def apply(self, transaction: Transaction) -> Execution:
        """Execute one transaction; raises Refusal, leaving the state as it was, if it may not stand in this block."""
        ...

    def seal(self) -> bytes:
        """Write the state's new nodes and return its root; the block is over."""
        ...


class Engine(Protocol):
    """An EVM of one fork."""

    name: str
    fork: str

    def build_genesis(
        self, nodes: Nodes, balances_wei: Mapping[bytes, int], codes: Mapping[bytes, bytes] | None = None
    ) -> bytes:
        """Write a state with these balances, and these contracts at these addresses; return its root."""
        ...

    def open_block(self, nodes: Nodes, parent_root: bytes, context: BlockContext) -> OpenBlock:
        """Begin a block on top of a state."""
        ...

    def call(self, nodes: Nodes, root: bytes, context: BlockContext, call: Call, *, timeout_s: float) -> CallOutcome:
        """Execute a call over a state; raises Refusal when it can't start or outlives `timeout_s`."""
        ...

    def account(self, nodes: Nodes, root: bytes, address: bytes) -> Account:
        """Return an address' nonce and balance."""
        ...

    def code(self, nodes: Nodes, root: bytes, address: bytes) -> bytes:
        """Return the code at an address, empty for none."""
        ...

    def storage(self, nodes: Nodes, root: bytes, address: bytes, slot: int) -> int:
        """Return the word in a slot of an address' storage."""
        ...
