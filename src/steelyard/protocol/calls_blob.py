"""The calls behind a redemption, as one blob: batches with their orders and receipts, hashes and numbers only.

1. msgpack of [version, chain id, deployment id, [[signed batch, [[order, receipt], …]], …]], fields in their order.
2. A blob is bounded, names its deployment, and is checked for form alone; what it proves is the auditor's to say.

Law: docs/spec/money.md, section 7; docs/spec/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from steelyard.errors import BadMessage
from steelyard.protocol.lanes import MAX_BATCH_CALLS, SignedBatch
from steelyard.protocol.messages import Order, Receipt
from steelyard.protocol.signing import Domain

VERSION = 1
MAX_CALLS_BLOB_BYTES = 64 * 1024 * 1024

Calls = tuple[tuple[Order, Receipt], ...]


class CallsBlob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A decoded blob; `salt` is the deployment id (32 bytes)."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    chain_id: int
    salt: bytes
    batches: tuple[tuple[SignedBatch, Annotated[Calls, msgspec.Meta(max_length=MAX_BATCH_CALLS)]], ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CallsBlob).decode


def encode_calls(domain: Domain, batches: Iterable[tuple[SignedBatch, Sequence[tuple[Order, Receipt]]]]) -> bytes:
    """Return the blob for some batches, each with its calls in the order of its leaves."""
    items = tuple((signed, tuple(calls)) for signed, calls in batches)
    return _encode(CallsBlob(VERSION, domain.chain_id, domain.salt, items))


def decode_calls(blob: bytes) -> CallsBlob:
    """Return what a blob (untrusted) holds, every field inside its type.

    Raises:
        BadMessage: too large, malformed, another version, or a field outside its Solidity type.
    """
    if len(blob) > MAX_CALLS_BLOB_BYTES:
        raise BadMessage(f"a blob of calls has at most {MAX_CALLS_BLOB_BYTES} bytes, this one {len(blob)}")
    try:
        decoded = _decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"this is no blob of calls: {error}") from error
    for signed, calls in decoded.batches:
        signed.batch.check_fields()
        for order, receipt in calls:
            order.check_fields()
            receipt.check_fields()
    return decoded
