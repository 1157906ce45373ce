"""What a transaction left behind: status, gas and logs, and how a block commits to them.

1. A log is found again by its block and its index in that block.
2. Topics are 32 bytes each, at most four.

Law: Ethereum yellow paper, section 4.3.1; EIP-658 (status), EIP-2718 (typed receipts).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlp.codec import encode_raw

from steelyard.chain.embedded.header import EMPTY_BLOOM, Header, integer
from steelyard.chain.embedded.transactions import Transaction, contract_address
from steelyard.protocol.hashing import keccak


@dataclass(frozen=True, slots=True)
class Log:
    """What a contract emitted: its address, up to four topics of 32 bytes, and data."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MinedTransaction:
    """A transaction in its block, with what executing it gave; `first_log` is its first log's index in the block."""

    transaction: Transaction
    block_number: int
    position: int
    status: int
    gas_used: int
    cumulative_gas_used: int
    first_log: int

    @property
    def created(self) -> bytes | None:
        """The address of the contract that it created, or tried to."""
        tx = self.transaction
        return None if tx.to else contract_address(tx.sender, tx.nonce)


@dataclass(frozen=True, slots=True, kw_only=True)
class MinedLog:
    """A log with where it stands."""

    log: Log
    block_number: int
    block_hash: bytes
    block_timestamp_s: int
    transaction_hash: bytes
    transaction_position: int
    index: int


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A committed block: its header, its transactions in order, and their logs in order."""

    header: Header
    transactions: tuple[MinedTransaction, ...]
    logs: tuple[MinedLog, ...]
    size_bytes: int


def encode_receipt(type_id: int, status: int, cumulative_gas_used: int, bloom: bytes, logs: Sequence[Log]) -> bytes:
    """Return the bytes of a receipt that the receipts trie holds."""
    entries = [[log.address, list(log.topics), log.data] for log in logs]
    body = bytes(encode_raw([integer(status), integer(cumulative_gas_used), bloom, entries]))
    return bytes([type_id]) + body if type_id else body


def logs_bloom(logs: Iterable[Log]) -> bytes:
    """Return the 256-byte Bloom filter over addresses and topics.

    Source: Ethereum yellow paper, section 4.3.1, function M: three 11-bit numbers of each item's hash.
    """
    bits = 0
    for item in {part for log in logs for part in (log.address, *log.topics)}:
        digest = keccak(item)
        for i in (0, 2, 4):
            bits |= 1 << (int.from_bytes(digest[i : i + 2], "big") & 2047)
    return bits.to_bytes(256, "big") if bits else EMPTY_BLOOM


def merge_blooms(blooms: Iterable[bytes]) -> bytes:
    """Return the Bloom filter that holds everything the given ones hold."""
    bits = 0
    for bloom in blooms:
        bits |= int.from_bytes(bloom, "big")
    return bits.to_bytes(256, "big")


def block_size_bytes(header: Header, transactions: Sequence[Transaction]) -> int:
    """Return the length of the block's RLP, as `eth_getBlockByNumber` shows it."""
    bodies = [tx.raw for tx in transactions]
    lengths = sum(len(raw) if raw[0] >= 0xC0 else len(encode_raw(raw)) for raw in bodies)
    payload = len(header.encode()) + _list_prefix(lengths) + lengths + 1 + 1  # no uncles, no withdrawals
    return _list_prefix(payload) + payload


def _list_prefix(length: int) -> int:
    return 1 if length < 56 else 1 + (length.bit_length() + 7) // 8
