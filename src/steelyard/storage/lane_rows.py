"""Lanes, batches and vouchers as rows: what the gateway's and the node's tables have in common.

Law: docs/spec/storage.md, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Select

from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Batch, Lane, Voucher
from steelyard.storage.amounts import checked_nano, pack_u64
from steelyard.storage.database import Database
from steelyard.storage.operations import Row


class StoredBatch(msgspec.Struct, frozen=True):
    """A signed batch with its receipts' hashes and its digest, the lane's head after it."""

    signed: SignedBatch
    head: bytes
    total_count: int
    leaves: tuple[bytes, ...]


def lane_row(lane: Lane) -> Row:
    """Return a lane's columns, its key first."""
    return lane.key, lane.gateway, lane.provider, lane.service_id, pack_u64(lane.lane_id, "lane_id")


def batch_row(state: LaneState, signed: SignedBatch, receipts: Sequence[bytes], now_ms: int) -> Row:
    """Return a batch's columns; raises BadRequest for a total beyond what the database can hold."""
    batch = signed.batch
    return (
        state.lane.key,
        batch.seq,
        batch.prev_head,
        state.head,
        batch.receipts_root,
        batch.count,
        state.count,
        checked_nano(batch.cumulative, "cumulative"),
        signed.signature,
        b"".join(receipts),
        now_ms,
    )


def voucher_row(signed: SignedVoucher, now_ms: int) -> Row:
    """Return a voucher's columns; raises BadRequest for a total beyond what the database can hold."""
    voucher = signed.voucher
    cumulative = checked_nano(voucher.cumulative, "cumulative")
    return voucher.lane.key, voucher.count, cumulative, voucher.head, signed.signature, now_ms


def read_lane(row: Any) -> Lane:
    """Return the lane of a row that begins with a lane's columns."""
    _, gateway, provider, service_id, lane_id = row[:5]
    return Lane(gateway, provider, service_id, int.from_bytes(lane_id, "big"))


def read_batch(lane: Lane, row: Any) -> StoredBatch:
    """Return a row of `batches` or `node_batches`."""
    _, seq, prev_head, head, root, count, total_count, cumulative, signature, leaves, _ = row
    batch = Batch(lane.gateway, lane.provider, lane.service_id, lane.lane_id, seq, prev_head, root, count, cumulative)
    receipts = tuple(leaves[at : at + 32] for at in range(0, len(leaves), 32))
    return StoredBatch(SignedBatch(batch, signature), head, total_count, receipts)


async def load_one_voucher(database: Database, lane: Lane, query: Select[Any]) -> SignedVoucher | None:
    """Return the voucher of a query over `vouchers` or `node_vouchers`, or None."""
    async with database.read() as connection:
        row = (await connection.execute(query)).first()
    return None if row is None else read_voucher(lane, row)


def read_voucher(lane: Lane, row: Any) -> SignedVoucher:
    """Return a row of `vouchers` or `node_vouchers`."""
    _, count, cumulative, head, signature, _ = row
    terms = (lane.gateway, lane.provider, lane.service_id, lane.lane_id)
    return SignedVoucher(Voucher(*terms, cumulative=cumulative, count=count, head=head), signature)
