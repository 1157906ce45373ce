"""The node's side of its lanes: receipts and batches that it signed, vouchers that it holds, what the chain paid.

1. A batch and its receipts are one write, flushed before the batch is sent; two batches with one number, or two
   receipts for one order and part, are a failed insert.
2. A voucher is kept only if its totals rise and stay within what was batched.
3. What the chain paid is the sum of `redemptions`, so a reorganised block is taken back by removing its rows.

Law: docs/spec/storage.md, section 7; docs/spec/money.md, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, cast, func, literal_column, or_, select, update
from sqlalchemy.types import BigInteger

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Lane, Voucher
from steelyard.storage.amounts import checked_nano
from steelyard.storage.database import Database
from steelyard.storage.lane_rows import (
    StoredBatch,
    batch_row,
    lane_row,
    load_one_voucher,
    read_batch,
    read_lane,
    read_voucher,
    voucher_row,
)
from steelyard.storage.operations import Operation, Statement, insert_into
from steelyard.storage.schema import node_batches, node_lanes, node_receipts, node_vouchers, redemptions

_INSERT_LANE = insert_into(node_lanes)
_INSERT_BATCH = insert_into(node_batches)
_INSERT_RECEIPT = insert_into(node_receipts)
_INSERT_VOUCHER = insert_into(node_vouchers)
_INSERT_REDEMPTION = insert_into(redemptions)

_ADVANCE = Statement(
    "advance node_lanes",
    update(node_lanes)
    .where(
        node_lanes.c.lane_key == bindparam("in_lane"),
        node_lanes.c.seq == bindparam("after_seq"),
        node_lanes.c.head == bindparam("after_head"),
        node_lanes.c.cumulative_nano <= bindparam("to_cumulative"),
    )
    .values(
        seq=bindparam("to_seq"),
        head=bindparam("to_head"),
        cumulative_nano=bindparam("to_cumulative"),
        count=bindparam("to_count"),
    ),
    ("in_lane", "after_seq", "after_head", "to_seq", "to_head", "to_cumulative", "to_count"),
)
_HOLD = Statement(
    "hold vouchers",
    update(node_lanes)
    .where(
        node_lanes.c.lane_key == bindparam("in_lane"),
        node_lanes.c.voucher_cumulative_nano <= bindparam("to_cumulative"),
        node_lanes.c.voucher_count < bindparam("to_count"),
        node_lanes.c.cumulative_nano >= bindparam("to_cumulative"),
        node_lanes.c.count >= bindparam("to_count"),
    )
    .values(
        voucher_cumulative_nano=bindparam("to_cumulative"),
        voucher_count=bindparam("to_count"),
        voucher_head=bindparam("to_head"),
    ),
    ("in_lane", "to_cumulative", "to_count", "to_head"),
    rank=2,
)
_paid = select(cast(func.coalesce(func.sum(redemptions.c.paid_nano), literal_column("0")), BigInteger)).where(
    redemptions.c.lane_key == node_lanes.c.lane_key
)
_redeemed = select(func.coalesce(func.max(redemptions.c.cumulative_nano), literal_column("0"))).where(
    redemptions.c.lane_key == node_lanes.c.lane_key
)
_TOTAL_UP = update(node_lanes).values(paid_nano=_paid.scalar_subquery(), redeemed_nano=_redeemed.scalar_subquery())
_TOTAL_UP_LANE = Statement(
    "total up redemptions",
    _TOTAL_UP.where(node_lanes.c.lane_key == bindparam("in_lane")),
    ("in_lane",),
    must_change=False,  # a gateway records redemptions too, and has no node_lanes
    rank=3,
)


class NodeLane(msgspec.Struct, frozen=True):
    """Where a lane of the node stands: served (`state`), promised by voucher, accepted and paid by the chain."""

    state: LaneState
    voucher_cumulative_nano: int
    voucher_count: int
    voucher_head: bytes
    redeemed_nano: int
    paid_nano: int
    opened_ms: int


class ReceiptRow(msgspec.Struct, frozen=True):
    """A receipt with what a gateway that lost its memory needs in order to honour it (msgpack of Order, Receipt)."""

    call_id: bytes
    order_hash: bytes
    part: int
    receipt_hash: bytes
    order_bytes: bytes
    tag: bytes
    receipt_bytes: bytes
    cost_nano: int


class Redemption(msgspec.Struct, frozen=True):
    """A `LaneRedeemed` event: the lane's accepted total now, and what this one paid; fields in the table's order."""

    tx_hash: bytes
    log_index: int
    block: int
    lane_key: bytes
    cumulative_nano: int
    paid_nano: int
    count: int
    head: bytes


def open_lane(lane: Lane, *, now_ms: int) -> Operation:
    """Return the write of a lane that a gateway's first order opened; opening it twice is a failed insert."""
    return Operation(((_INSERT_LANE, (*lane_row(lane), 0, ZERO32, 0, 0, 0, 0, ZERO32, 0, 0, now_ms)),))


def record_batch(state: LaneState, signed: SignedBatch, receipts: Sequence[ReceiptRow], *, now_ms: int) -> Operation:
    """Return the write of a batch with its receipts and of its lane's advance; flush it before the batch is sent.

    Args:
        state: the lane after the batch, from `protocol.lanes.extend_lane`. receipts: its leaves, in order.

    Raises:
        BadRequest: a total beyond what the database can hold.
    """
    batch = signed.batch
    key = state.lane.key
    row = batch_row(state, signed, [receipt.receipt_hash for receipt in receipts], now_ms)
    advance = (key, batch.seq - 1, batch.prev_head, batch.seq, state.head, batch.cumulative, state.count)
    leaves = (
        (_INSERT_RECEIPT, (*msgspec.structs.astuple(receipt), key, batch.seq, leaf))
        for leaf, receipt in enumerate(receipts)
    )
    return Operation(((_INSERT_BATCH, row), (_ADVANCE, advance), *leaves))


def record_voucher(signed: SignedVoucher, *, now_ms: int) -> Operation:
    """Return the write of a voucher that was accepted; raises BadRequest for a total that can't be held."""
    voucher = signed.voucher
    hold = (voucher.lane.key, checked_nano(voucher.cumulative, "cumulative"), voucher.count, voucher.head)
    return Operation(((_INSERT_VOUCHER, voucher_row(signed, now_ms)), (_HOLD, hold)))


def record_redemption(redemption: Redemption) -> Operation:
    """Return the write of a redemption seen on chain; the same event twice is a failed insert."""
    checked_nano(redemption.cumulative_nano, "cumulative_nano")
    checked_nano(redemption.paid_nano, "paid_nano")
    row = msgspec.structs.astuple(redemption)
    return Operation(((_INSERT_REDEMPTION, row), (_TOTAL_UP_LANE, (redemption.lane_key,))))


async def forget_redemptions(database: Database, *, from_block: int) -> None:
    """Take back what was seen in blocks that are no longer the chain's."""
    async with database.begin() as connection:
        gone = redemptions.c.block >= from_block
        lanes = (await connection.execute(select(redemptions.c.lane_key).where(gone).distinct())).scalars().all()
        await connection.execute(redemptions.delete().where(gone))
        await connection.execute(_TOTAL_UP.where(node_lanes.c.lane_key.in_(lanes)))


async def load_redemptions(database: Database, lane_key: bytes) -> list[Redemption]:
    """Return what the chain paid on a lane, in order."""
    query = select(redemptions).where(redemptions.c.lane_key == lane_key)
    query = query.order_by(redemptions.c.block, redemptions.c.log_index)
    async with database.read() as connection:
        return [Redemption(*row) for row in await connection.execute(query)]


async def load_lanes(database: Database, *, gateway: bytes | None = None) -> list[NodeLane]:
    """Return the node's lanes, with one gateway or with all, the oldest first."""
    query = select(node_lanes).order_by(node_lanes.c.opened_ms, node_lanes.c.lane_key)
    if gateway is not None:
        query = query.where(node_lanes.c.gateway == gateway)
    async with database.read() as connection:
        rows = (await connection.execute(query)).all()
    return [
        NodeLane(
            LaneState(
                lane=read_lane(row),
                seq=row.seq,
                head=row.head,
                count=row._mapping["count"],
                cumulative=row.cumulative_nano,
            ),
            row.voucher_cumulative_nano,
            row.voucher_count,
            row.voucher_head,
            row.redeemed_nano,
            row.paid_nano,
            row.opened_ms,
        )
        for row in rows
    ]


async def load_batches(database: Database, lane: Lane, *, after_seq: int = 0, limit: int = 16) -> list[StoredBatch]:
    """Return the batches of a lane that come after one, in order: what is sent again."""
    where = (node_batches.c.lane_key == lane.key, node_batches.c.seq > after_seq)
    query = select(node_batches).where(*where).order_by(node_batches.c.seq).limit(limit)
    async with database.read() as connection:
        rows = (await connection.execute(query)).all()
    return [read_batch(lane, row) for row in rows]


async def load_receipts(database: Database, lane_key: bytes, *, after_seq: int = 0, to_seq: int) -> list[ReceiptRow]:
    """Return the receipts of a lane's batches from `after_seq + 1` to `to_seq`, in the order of their leaves."""
    columns = [node_receipts.c[name] for name in ReceiptRow.__struct_fields__]
    query = (
        select(*columns)
        .where(
            node_receipts.c.lane_key == lane_key,
            node_receipts.c.batch_seq > after_seq,
            node_receipts.c.batch_seq <= to_seq,
        )
        .order_by(node_receipts.c.batch_seq, node_receipts.c.leaf_index)
    )
    async with database.read() as connection:
        return [ReceiptRow(*row) for row in await connection.execute(query)]


async def known_heads(database: Database, lane_key: bytes, *, after_seq: int = 0) -> dict[bytes, tuple[int, int]]:
    """Return (cumulative nano, count) by head of a lane's batches: what `protocol.lanes.accept_voucher` asks for."""
    columns = (node_batches.c.head, node_batches.c.cumulative_nano, node_batches.c.total_count)
    where = (node_batches.c.lane_key == lane_key, node_batches.c.seq > after_seq)
    async with database.read() as connection:
        rows = await connection.execute(select(*columns).where(*where))
        return {head: (cumulative, count) for head, cumulative, count in rows}


async def find_voucher(database: Database, lane: Lane, count: int) -> SignedVoucher | None:
    """Return the voucher that was once held for so many calls of a lane, or None."""
    query = select(node_vouchers).where(node_vouchers.c.lane_key == lane.key, node_vouchers.c["count"] == count)
    return await load_one_voucher(database, lane, query)


async def load_vouchers_near(database: Database, voucher: Voucher) -> list[SignedVoucher]:
    """Return the held vouchers of a lane that one (untrusted, in range) could contradict.

    Those of its count and of its head, and of fewer and of more calls the nearest: totals rise with counts.
    """
    table, lane, count = node_vouchers, voucher.lane, node_vouchers.c["count"]
    of_lane = table.c.lane_key == lane.key
    counts = [
        select(func.max(count)).where(of_lane, count < voucher.count).scalar_subquery(),
        select(func.min(count)).where(of_lane, count > voucher.count).scalar_subquery(),
    ]
    is_near = or_(count == voucher.count, table.c.head == voucher.head, *(count == bound for bound in counts))
    async with database.read() as connection:
        rows = (await connection.execute(select(table).where(of_lane, is_near).order_by(count))).all()
    return [read_voucher(lane, row) for row in rows]


async def last_voucher(database: Database, lane: Lane) -> SignedVoucher | None:
    """Return the highest voucher held for a lane, or None: what is redeemed."""
    query = select(node_vouchers).where(node_vouchers.c.lane_key == lane.key)
    return await load_one_voucher(database, lane, query.order_by(node_vouchers.c.count.desc()).limit(1))
