"""What clients send, read strictly: quantities, data, addresses, block tags, calls, log filters.

1. Whatever is wrong is a BadRequest that names the argument by its place and says what was expected.
2. Nothing here looks at the chain.

Law: the Ethereum JSON-RPC specification (ethereum/execution-apis, `schemas`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from steelyard.chain.embedded.queries import LogFilter
from steelyard.chain.embedded.transactions import AccessList
from steelyard.errors import BadRequest

MAX_FILTER_VALUES = 1_000
MAX_TOPICS = 4

_QUANTITY = re.compile(r"0[xX][0-9a-fA-F]{1,64}")

Tag = Literal["latest", "pending", "earliest"]
BlockRef = int | bytes | Tag  # by number, by hash, or by name

_TAGS: dict[str, Tag] = {
    "latest": "latest",
    "pending": "pending",
    "earliest": "earliest",
    "safe": "latest",  # one sequencer: what is committed is final
    "finalized": "latest",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallParams:
    """The transaction object of eth_call and eth_estimateGas; None where the client named nothing."""

    sender: bytes
    to: bytes
    gas: int | None
    value: int
    data: bytes
    access_list: AccessList
    gas_price: int | None
    max_fee_per_gas: int | None
    max_priority_fee_per_gas: int | None


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The object of eth_getLogs and eth_newFilter."""

    wanted: LogFilter
    first: BlockRef = "latest"
    last: BlockRef = "latest"
    block_hash: bytes | None = None


def expect(params: list[Any], least: int, most: int) -> None:
    """Refuse a call with too few or too many parameters."""
    if len(params) < least:
        raise BadRequest(f"missing value for required argument {len(params)}")
    if len(params) > most:
        raise BadRequest(f"too many arguments, want at most {most}")


def optional(params: list[Any], index: int, default: Any = None) -> Any:
    """Return a parameter, or the default when it is absent or null."""
    return default if index >= len(params) or params[index] is None else params[index]


def quantity(value: Any, what: str, *, bits: int = 256) -> int:
    """Return a hex quantity as an integer below 2^bits."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise BadRequest(f"invalid {what}: {_shown(value)} is not a hex quantity like 0x1", param=what)
    number = int(value, 16)
    if number >> bits:
        raise BadRequest(f"invalid {what}: {_shown(value)} does not fit {bits} bits", param=what)
    return number


def number_or_quantity(value: Any, what: str) -> int:
    """Return a JSON integer or a hex quantity; development tools send both."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**63:
            raise BadRequest(f"invalid {what}: {value} is out of range", param=what)
        return value
    return quantity(value, what, bits=63)


def data(value: Any, what: str, *, size: int | None = None) -> bytes:
    """Return hex data as bytes, of exactly `size` bytes if given."""
    if not isinstance(value, str) or value[:2] not in ("0x", "0X"):
        raise BadRequest(f"invalid {what}: {_shown(value)} is not hex data with 0x before it", param=what)
    digits = value[2:]
    try:
        decoded = bytes.fromhex(digits)
    except ValueError:
        decoded = b""
    if len(decoded) * 2 != len(digits):
        raise BadRequest(f"invalid {what}: {_shown(value)} is not hex data of whole bytes", param=what)
    if size is not None and len(decoded) != size:
        raise BadRequest(f"invalid {what}: want {size} bytes, have {len(decoded)}", param=what)
    return decoded


def address(value: Any, what: str = "address") -> bytes:
    """Return a 20-byte address; its checksum is the wallet's business."""
    return data(value, what, size=20)


def block_ref(value: Any) -> BlockRef:
    """Return which block a number, a name, or EIP-1898's object means."""
    if isinstance(value, dict):
        if set(value) <= {"blockHash", "requireCanonical"} and "blockHash" in value:
            return data(value["blockHash"], "blockHash", size=32)
        if set(value) == {"blockNumber"}:
            return block_ref(value["blockNumber"])
        raise BadRequest("a block object has either blockHash or blockNumber", param="block")
    if isinstance(value, str) and value in _TAGS:
        return _TAGS[value]
    if isinstance(value, str) and len(value) == 66:
        return data(value, "block", size=32)
    return quantity(value, "block", bits=63)


def call_params(value: Any) -> CallParams:
    """Return a transaction object, checked field by field."""
    if not isinstance(value, dict):
        raise BadRequest("a call is an object", param="transaction")
    body, given = value.get("data"), value.get("input")
    if body is not None and given is not None and body != given:
        raise BadRequest('both "data" and "input" are set and not equal. Please use "input"', param="input")
    payload = given if given is not None else body
    fees = {name: _maybe(value, name) for name in ("gasPrice", "maxFeePerGas", "maxPriorityFeePerGas")}
    if fees["gasPrice"] is not None and (fees["maxFeePerGas"] is not None or fees["maxPriorityFeePerGas"] is not None):
        raise BadRequest("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified", param="gasPrice")
    to = value.get("to")
    return CallParams(
        sender=bytes(20) if value.get("from") is None else address(value["from"], "from"),
        to=b"" if to in (None, "", "0x") else address(to, "to"),
        gas=_maybe(value, "gas", bits=63),
        value=_maybe(value, "value") or 0,
        data=b"" if payload is None else data(payload, "input"),
        access_list=_access_list(value.get("accessList")),
        gas_price=fees["gasPrice"],
        max_fee_per_gas=fees["maxFeePerGas"],
        max_priority_fee_per_gas=fees["maxPriorityFeePerGas"],
    )


def log_query(value: Any) -> LogQuery:
    """Return a filter object: blocks, addresses and topics."""
    if not isinstance(value, dict):
        raise BadRequest("a log filter is an object", param="filter")
    wanted = LogFilter(_addresses(value.get("address")), _topics(value.get("topics")))
    if value.get("blockHash") is not None:
        if value.get("fromBlock") is not None or value.get("toBlock") is not None:
            raise BadRequest("cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other")
        return LogQuery(wanted, block_hash=data(value["blockHash"], "blockHash", size=32))
    first, last = value.get("fromBlock"), value.get("toBlock")
    return LogQuery(
        wanted, "latest" if first is None else block_ref(first), "latest" if last is None else block_ref(last)
    )


def _maybe(value: dict[str, Any], name: str, *, bits: int = 256) -> int | None:
    return None if value.get(name) is None else quantity(value[name], name, bits=bits)


def _access_list(entries: Any) -> AccessList:
    if entries is None:
        return ()
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadRequest("accessList is a list of objects", param="accessList")
    return tuple(
        (
            address(entry.get("address"), "accessList.address"),
            tuple(
                int.from_bytes(data(slot, "accessList.storageKeys", size=32), "big")
                for slot in entry.get("storageKeys") or ()
            ),
        )
        for entry in entries
    )


def _addresses(value: Any) -> tuple[bytes, ...]:
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    if len(listed) > MAX_FILTER_VALUES:
        raise BadRequest(f"exceed max addresses: {len(listed)}, at most {MAX_FILTER_VALUES}", param="address")
    return tuple(address(item) for item in listed)


def _topics(value: Any) -> tuple[tuple[bytes, ...] | None, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_TOPICS:
        raise BadRequest(f"exceed max topics: topics is a list of at most {MAX_TOPICS}", param="topics")
    topics: list[tuple[bytes, ...] | None] = []
    for item in value:
        listed = item if isinstance(item, list) else [item]
        if len(listed) > MAX_FILTER_VALUES:
            raise BadRequest(f"exceed max topics: {len(listed)} at one place", param="topics")
        is_any = not listed or any(topic is None for topic in listed)
        topics.append(None if is_any else tuple(data(topic, "topics", size=32) for topic in listed))
    return tuple(topics)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
