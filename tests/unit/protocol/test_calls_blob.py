"""The blob of calls: what goes in comes out, and what isn't one is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import BadMessage
from steelyard.protocol import calls_blob
from steelyard.protocol.calls_blob import decode_calls, encode_calls
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import MAX_BATCH_CALLS, SignedBatch
from steelyard.protocol.messages import Batch, Order, Receipt
from steelyard.protocol.signing import Domain

DOMAIN = Domain(31415, b"\x05" * 32)
ORDER = Order(
    b"\x01" * 16, b"\x02" * 20, b"\x03" * 20, b"\x04" * 32, 2**64 - 1, ZERO32, ZERO32, 5, 4, 10, 20, 90, 10**13
)
RECEIPT = Receipt(ORDER.struct_hash(), 0, ZERO32, ZERO32, 1, 2, 9, 1, 2, 0)
BATCH = Batch(ORDER.gateway, ORDER.provider, ORDER.service_id, ORDER.lane_id, 1, ZERO32, b"\x06" * 32, 1, 9)
SIGNED = SignedBatch(BATCH, b"\x07" * 65)


def test_blob_holds_its_deployment_batches_and_calls_in_order() -> None:
    """Everything comes back equal, under the deployment that it names."""
    batches = [(SIGNED, [(ORDER, RECEIPT)]), (SIGNED, [])]
    decoded = decode_calls(encode_calls(DOMAIN, batches))
    assert (decoded.version, decoded.chain_id, decoded.salt) == (1, DOMAIN.chain_id, DOMAIN.salt)
    assert decoded.batches == ((SIGNED, ((ORDER, RECEIPT),)), (SIGNED, ()))


def test_equal_calls_make_equal_blobs() -> None:
    """The encoding is canonical: a blob made again has the same digest."""
    batches = [(SIGNED, [(ORDER, RECEIPT)])]
    assert encode_calls(DOMAIN, batches) == encode_calls(DOMAIN, iter(batches))


@pytest.mark.parametrize(
    "spoil",
    [
        {"order": {"gateway": b"\x02" * 19}},
        {"order": {"deadline_ms": -1}},
        {"receipt": {"part": 2**32}},
        {"receipt": {"finish_reason": 256}},
        {"batch": {"receipts_root": b""}},
        {"batch": {"count": -1}},
    ],
)
def test_field_outside_its_type_is_refused(spoil: dict[str, dict[str, Any]]) -> None:
    """Lengths and ranges are the Solidity types', checked before an auditor hashes anything."""
    order = msgspec.structs.replace(ORDER, **spoil.get("order", {}))
    receipt = msgspec.structs.replace(RECEIPT, **spoil.get("receipt", {}))
    batch = msgspec.structs.replace(BATCH, **spoil.get("batch", {}))
    with pytest.raises(BadMessage):
        decode_calls(encode_calls(DOMAIN, [(SignedBatch(batch, b"\x07" * 65), [(order, receipt)])]))


def test_batch_of_too_many_calls_is_refused() -> None:
    """No batch holds more calls than one can be signed for."""
    with pytest.raises(BadMessage):
        decode_calls(encode_calls(DOMAIN, [(SIGNED, [(ORDER, RECEIPT)] * (MAX_BATCH_CALLS + 1))]))


def test_blob_beyond_the_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Size first."""
    blob = encode_calls(DOMAIN, [(SIGNED, [(ORDER, RECEIPT)])])
    monkeypatch.setattr(calls_blob, "MAX_CALLS_BLOB_BYTES", len(blob) - 1)
    with pytest.raises(BadMessage, match="at most"):
        decode_calls(blob)


def test_every_cut_of_a_blob_is_refused() -> None:
    """A truncated blob never passes for a shorter one."""
    blob = encode_calls(DOMAIN, [(SIGNED, [(ORDER, RECEIPT)])])
    for size in range(len(blob)):
        with pytest.raises(BadMessage):
            decode_calls(blob[:size])
    with pytest.raises(BadMessage):
        decode_calls(blob + b"\x00")


@given(st.binary(max_size=400))
def test_any_bytes_are_a_blob_or_a_bad_message(blob: bytes) -> None:
    """Nothing else is ever raised."""
    with contextlib.suppress(BadMessage):
        decode_calls(blob)
