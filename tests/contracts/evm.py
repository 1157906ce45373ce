"""The port that contract tests run on: one EVM, one block per transaction, a clock that only the test moves.

1. Every transaction is a block of its own, one second after the one before.
2. Any account may send; gas is counted as on a real chain, paid in a coin that nobody runs out of.
3. A refusal raises `CallReverted` with its bytes; a transaction's refusal has moved the clock, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

CHAIN_ID = 31415
GENESIS_TIME = 1_800_000_000
GAS_LIMIT = 30_000_000


class CallReverted(Exception):
    """The EVM refused; `data` are the revert bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"0x{data.hex()}")
        self.data = data


@dataclass(frozen=True, slots=True)
class RawLog:
    """One event as the EVM wrote it."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class RawReceipt:
    """What a successful transaction left: its gas, its events and, for a creation, the contract's address."""

    gas_used: int
    logs: tuple[RawLog, ...]
    created: bytes | None


class Evm(Protocol):
    """One chain under test."""

    kind: str

    def send(self, sender: bytes, to: bytes | None, data: bytes) -> RawReceipt:
        """Run a transaction in a block of its own; `to` None creates a contract."""

    def call(self, sender: bytes, to: bytes, data: bytes) -> bytes:
        """Return what a call would return now, changing nothing."""

    def now(self) -> int:
        """Return the last block's Unix time in seconds."""

    def advance(self, seconds: int) -> None:
        """Add an empty block that many seconds after the last."""

    def snapshot(self) -> object:
        """Return a mark of the present state and clock."""

    def revert(self, mark: object) -> None:
        """Go back to a mark; it stays good."""

    def set_code(self, address: bytes, code: bytes) -> None:
        """Put runtime code at an address, for tests that need a hostile contract."""

    def set_chain_id(self, chain_id: int) -> None:
        """Go on under another chain id, as after a fork; `revert` ends it."""

    def close(self) -> None:
        """Free what it holds."""
