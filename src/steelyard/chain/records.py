"""What a chain answers, as records: blocks, logs, transaction receipts.

1. An endpoint's JSON is not trusted to be well formed: whatever lacks a field or holds a wrong type is a ChainError.
2. Addresses are 20 bytes, hashes 32; gas and fees are wei, never nano.

Law: the Ethereum JSON-RPC specification (ethereum/execution-apis).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.errors import ChainError

JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Log:
    """One event as a contract emitted it; (block_hash, index) names it for ever."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    tx_hash: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header; `timestamp_s` is the chain's own clock, in Unix seconds."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp_s: int
    base_fee_wei: int
    gas_limit: int


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """A mined transaction; not to be confused with a provider's receipt, which is off chain."""

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    is_success: bool
    gas_used: int
    gas_price_wei: int
    contract: bytes | None
    logs: tuple[Log, ...]


def quantity(value: int) -> str:
    """Return a JSON-RPC quantity: 0x and hex without leading zeros."""
    return hex(value)


def parse_quantity(value: object, what: str) -> int:
    """Return the integer of a JSON-RPC quantity; raises ChainError naming `what`."""
    if isinstance(value, str) and value[:2] == "0x":
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise _malformed(what, value)


def parse_bytes(value: object, what: str, size: int | None = None) -> bytes:
    """Return the bytes of 0x hex, of `size` bytes where given; raises ChainError naming `what`."""
    if isinstance(value, str) and value[:2] == "0x":
        try:
            raw = bytes.fromhex(value[2:])
        except ValueError:
            raise _malformed(what, value) from None
        if size is None or len(raw) == size:
            return raw
    raise _malformed(what, value)


def parse_log(reply: object) -> Log:
    """Return a mined log; raises ChainError if it is pending, removed or malformed."""
    log = _object(reply, "log")
    topics = log.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise _malformed("log topics", topics)
    return Log(
        address=parse_bytes(log.get("address"), "log address", 20),
        topics=tuple([parse_bytes(topic, "log topic", 32) for topic in topics]),
        data=parse_bytes(log.get("data"), "log data"),
        block_number=parse_quantity(log.get("blockNumber"), "log blockNumber"),
        block_hash=parse_bytes(log.get("blockHash"), "log blockHash", 32),
        tx_hash=parse_bytes(log.get("transactionHash"), "log transactionHash", 32),
        index=parse_quantity(log.get("logIndex"), "log logIndex"),
    )


def parse_logs(reply: object) -> list[Log]:
    """Return logs in chain order, (block number, index); raises ChainError."""
    if not isinstance(reply, list):
        raise _malformed("logs", reply)
    return sorted((parse_log(log) for log in reply), key=lambda log: (log.block_number, log.index))


def parse_block(reply: object) -> Block:
    """Return a block's header; raises ChainError."""
    block = _object(reply, "block")
    return Block(
        number=parse_quantity(block.get("number"), "block number"),
        hash=parse_bytes(block.get("hash"), "block hash", 32),
        parent_hash=parse_bytes(block.get("parentHash"), "block parentHash", 32),
        timestamp_s=parse_quantity(block.get("timestamp"), "block timestamp"),
        base_fee_wei=parse_quantity(block.get("baseFeePerGas", "0x0"), "block baseFeePerGas"),
        gas_limit=parse_quantity(block.get("gasLimit"), "block gasLimit"),
    )


def parse_receipt(reply: object) -> TxReceipt:
    """Return a mined transaction's receipt; raises ChainError."""
    receipt = _object(reply, "receipt")
    contract = receipt.get("contractAddress")
    return TxReceipt(
        tx_hash=parse_bytes(receipt.get("transactionHash"), "receipt transactionHash", 32),
        block_number=parse_quantity(receipt.get("blockNumber"), "receipt blockNumber"),
        block_hash=parse_bytes(receipt.get("blockHash"), "receipt blockHash", 32),
        is_success=parse_quantity(receipt.get("status"), "receipt status") == 1,
        gas_used=parse_quantity(receipt.get("gasUsed"), "receipt gasUsed"),
        gas_price_wei=parse_quantity(receipt.get("effectiveGasPrice", "0x0"), "receipt effectiveGasPrice"),
        contract=None if contract is None else parse_bytes(contract, "receipt contractAddress", 20),
        logs=tuple(parse_logs(receipt.get("logs"))),
    )


def _object(reply: object, what: str) -> JsonObject:
    if not isinstance(reply, dict):
        raise _malformed(what, reply)
    return reply


def _malformed(what: str, value: object) -> ChainError:
    return ChainError(f"the chain's answer has a malformed {what}: {str(value)[:80]!r}", code="rpc_malformed")
