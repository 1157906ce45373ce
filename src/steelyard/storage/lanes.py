"""The gateway's lanes: the batches that it saw, the vouchers that it signed.

1. A batch follows the one before (`seq` and `prev_head` must match) or its write fails.
2. A signed total is written before it leaves (`await writer.submit_flushed(record_voucher(...))`); it only rises, never
   above what was batched, and a second voucher for the same count is a failed insert.
3. A lane belongs to one gateway process, by name.

Law: docs/spec/storage.md, section 6; docs/spec/money.md, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, bindparam, func, select, update

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Lane
from steelyard.storage.amounts import checked_nano
from steelyard.storage.calls import CallRow
from steelyard.storage.database import Database
from steelyard.storage.lane_rows import (
    StoredBatch,
    batch_row,
    lane_row,
    load_one_voucher,
    read_batch,
    read_lane,
    voucher_row,
)
from steelyard.storage.operations import Operation, Statement, insert_into
from steelyard.storage.schema import batches, lanes, vouchers

_INSERT_LANE = insert_into(lanes)
_INSERT_BATCH = insert_into(batches)
_INSERT_VOUCHER = insert_into(vouchers)

_ADVANCE = Statement(
    "advance lanes",
    update(lanes)
    .where(
        lanes.c.lane_key == bindparam("in_lane"),
        lanes.c.seq == bindparam("after_seq"),
        lanes.c.head == bindparam("after_head"),
        lanes.c.batched_cumulative_nano <= bindparam("to_cumulative"),
    )
    .values(
        seq=bindparam("to_seq"),
        head=bindparam("to_head"),
        batched_cumulative_nano=bindparam("to_cumulative"),
        batched_count=bindparam("to_count"),
    ),
    ("in_lane", "after_seq", "after_head", "to_seq", "to_head", "to_cumulative", "to_count"),
)
_SIGN = Statement(
    "sign lanes",
    update(lanes)
    .where(
        lanes.c.lane_key == bindparam("in_lane"),
        lanes.c.signed_cumulative_nano <= bindparam("to_cumulative"),
        lanes.c.signed_count < bindparam("to_count"),
        lanes.c.batched_cumulative_nano >= bindparam("to_cumulative"),
        lanes.c.batched_count >= bindparam("to_count"),
    )
    .values(
        signed_cumulative_nano=bindparam("to_cumulative"),
        signed_count=bindparam("to_count"),
        signed_head=bindparam("to_head"),
    ),
    ("in_lane", "to_cumulative", "to_count", "to_head"),
    rank=2,
)


_GIVE = Statement(
    "give lanes",
    update(lanes).where(lanes.c.lane_key == bindparam("in_lane")).values(process=bindparam("to_process")),
    ("in_lane", "to_process"),
    rank=3,
)


class GatewayLane(msgspec.Struct, frozen=True):
    """Where a lane of the gateway stands: what was batched (`state`) and what was signed for."""

    state: LaneState
    process: str
    signed_cumulative_nano: int
    signed_count: int
    signed_head: bytes
    opened_ms: int


def open_lane(lane: Lane, process: str, *, now_ms: int) -> Operation:
    """Return the write of a new lane, owned by the process of that name; opening it twice is a failed insert."""
    row = (*lane_row(lane), process, 0, ZERO32, 0, 0, 0, 0, ZERO32, now_ms)
    return Operation(((_INSERT_LANE, row),))


def give_lane(lane: Lane, process: str) -> Operation:
    """Return the write that makes a lane another process's, or another kind of the same process's."""
    return Operation(((_GIVE, (lane.key, process)),))


def record_batch(state: LaneState, signed: SignedBatch, receipts: Sequence[bytes], *, now_ms: int) -> Operation:
    """Return the write of a batch and of its lane's advance; its calls' rows stay as they are.

    Args:
        state: the lane after the batch, from `protocol.lanes.follow_lane`. receipts: the batch's leaves in order.

    Raises:
        BadRequest: a total beyond what the database can hold.
    """
    batch = signed.batch
    key = state.lane.key
    row = batch_row(state, signed, receipts, now_ms)
    advance = (key, batch.seq - 1, batch.prev_head, batch.seq, state.head, batch.cumulative, state.count)
    return Operation(((_INSERT_BATCH, row), (_ADVANCE, advance)))


def record_voucher(signed: SignedVoucher, *, now_ms: int) -> Operation:
    """Return the write of a signed voucher; flush it before the voucher leaves.

    Raises:
        BadRequest: a total beyond what the database can hold.
    """
    voucher = signed.voucher
    sign = (voucher.lane.key, checked_nano(voucher.cumulative, "cumulative"), voucher.count, voucher.head)
    return Operation(((_INSERT_VOUCHER, voucher_row(signed, now_ms)), (_SIGN, sign)))


async def load_lanes(
    database: Database, *, process: str | None = None, provider: bytes | None = None
) -> list[GatewayLane]:
    """Return lanes, of one process or provider or of all, the oldest first."""
    query = select(lanes).order_by(lanes.c.opened_ms, lanes.c.lane_key)
    if process is not None:
        query = query.where(lanes.c.process == process)
    if provider is not None:
        query = query.where(lanes.c.provider == provider)
    async with database.read() as connection:
        rows = (await connection.execute(query)).all()
    return [
        GatewayLane(
            LaneState(
                lane=read_lane(row),
                seq=row.seq,
                head=row.head,
                count=row.batched_count,
                cumulative=row.batched_cumulative_nano,
            ),
            row.process,
            row.signed_cumulative_nano,
            row.signed_count,
            row.signed_head,
            row.opened_ms,
        )
        for row in rows
    ]


async def load_batches(database: Database, lane: Lane, *, after_seq: int = 0, limit: int = 16) -> list[StoredBatch]:
    """Return the batches of a lane that come after one, in order."""
    where = (batches.c.lane_key == lane.key, batches.c.seq > after_seq)
    async with database.read() as connection:
        rows = (await connection.execute(select(batches).where(*where).order_by(batches.c.seq).limit(limit))).all()
    return [read_batch(lane, row) for row in rows]


async def load_last_batch(database: Database, lane: Lane) -> StoredBatch | None:
    """Return the last batch of a lane, or None."""
    query = select(batches).where(batches.c.lane_key == lane.key).order_by(batches.c.seq.desc()).limit(1)
    async with database.read() as connection:
        row = (await connection.execute(query)).first()
    return None if row is None else read_batch(lane, row)


async def find_place(database: Database, lane: Lane, row: CallRow) -> tuple[StoredBatch, int] | None:
    """Return the batch that proves a call's receipt and the receipt's place in it, or None while there is none.

    Args:
        lane: the call's. row: its row; the batches after its `after_seq` are searched, usually it is the first.
    """
    receipt = row.receipt_hash
    if receipt is None:
        return None
    where = (batches.c.lane_key == lane.key, batches.c.seq > row.after_seq, _holds(database, receipt))
    async with database.read() as connection:
        found = [read_batch(lane, batch) for batch in await connection.execute(select(batches).where(*where))]
    # A hash may be seen across two leaves too, once in 2^248 times: the leaf decides.
    return next(((batch, batch.leaves.index(receipt)) for batch in found if receipt in batch.leaves), None)


def _holds(database: Database, receipt: bytes) -> ColumnElement[bool]:
    if database.kind == "sqlite":
        return func.instr(batches.c.leaves, receipt) > 0
    return func.position(bindparam(None, receipt).op("IN")(batches.c.leaves)) > 0


async def last_voucher(database: Database, lane: Lane) -> SignedVoucher | None:
    """Return the highest voucher that was signed on a lane, or None: what is sent again after a restart."""
    query = select(vouchers).where(vouchers.c.lane_key == lane.key).order_by(vouchers.c.count.desc()).limit(1)
    return await load_one_voucher(database, lane, query)
