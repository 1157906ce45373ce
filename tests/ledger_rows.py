"""Calls, lanes and batches for tests of what is stored: well-formed, signed by nobody, different by their number."""

from __future__ import annotations

import hashlib

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Batch, Lane, Voucher
from steelyard.storage.calls import CallRow
from steelyard.storage.node_ledger import ReceiptRow

RUN_ID = b"run-run-run-run-"


def digest(*parts: object) -> bytes:
    """Return 32 bytes that differ for different parts."""
    return hashlib.sha256(repr(parts).encode()).digest()


def lane_of(number: int = 0, lane_id: int = 2**64 - 1) -> Lane:
    """Return a lane; its id is a uint64 beyond what a signed column holds."""
    return Lane(b"g" * 20, number.to_bytes(20, "big"), digest("service"), lane_id)


def call_row(number: int, lane: Lane | None = None, *, cost_nano: int = 7, key_id: str | None = "key_1") -> CallRow:
    """Return a finished call with a receipt, of the size that a real one has."""
    lane = lane or lane_of()
    return CallRow(
        order_hash=digest("order", number),
        call_id=digest("call", number)[:16],
        key_id=key_id,
        run_id=RUN_ID,
        provider=lane.provider,
        service_id=lane.service_id,
        lane_key=lane.key,
        order_bytes=digest("order bytes", number) * 9,
        salt=digest("salt", number),
        status="done",
        receipt_hash=digest("receipt", number),
        receipt_bytes=digest("receipt bytes", number) * 8,
        cost_nano=cost_nano,
        created_ms=1_700_000_000_000 + number,
        finished_ms=1_700_000_000_050 + number,
    )


def receipt_row(number: int, *, cost_nano: int = 7) -> ReceiptRow:
    """Return a receipt as the node keeps it; its hashes are those of the call with the same number."""
    return ReceiptRow(
        call_id=digest("call", number)[:16],
        order_hash=digest("order", number),
        part=0,
        receipt_hash=digest("receipt", number),
        order_bytes=digest("order bytes", number) * 9,
        tag=digest("tag", number)[:16],
        receipt_bytes=digest("receipt bytes", number) * 8,
        cost_nano=cost_nano,
    )


def next_batch(state: LaneState, count: int, cost_nano: int) -> tuple[LaneState, SignedBatch]:
    """Return the lane after its next batch of `count` receipts that cost `cost_nano` together, and the batch."""
    lane, seq, cumulative = state.lane, state.seq + 1, state.cumulative + cost_nano
    terms = (lane.gateway, lane.provider, lane.service_id, lane.lane_id)
    root = digest("root", lane.key, seq)
    batch = Batch(*terms, seq, state.head, root, count, cumulative)
    after = LaneState(lane=lane, seq=seq, head=digest("head", batch), count=state.count + count, cumulative=cumulative)
    return after, SignedBatch(batch, digest("signature", batch) * 2 + b"\x1b")


def voucher_for(state: LaneState) -> SignedVoucher:
    """Return a voucher for all that a lane holds."""
    lane = state.lane
    voucher = Voucher(
        lane.gateway, lane.provider, lane.service_id, lane.lane_id, state.cumulative, state.count, state.head
    )
    return SignedVoucher(voucher, digest("voucher", voucher) * 2 + b"\x1c")


def fresh(lane: Lane) -> LaneState:
    """Return a lane that has no batch yet."""
    return LaneState(lane=lane, head=ZERO32)
