"""What a validator has seen signed: batches by their lane and number, receipts by their order and part.

1. The first of each is kept, for a while: whatever contradicts it later is the other half of a lie.

Law: docs/spec/validator.md, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import delete, insert, or_, select, tuple_

from steelyard.storage.database import Database
from steelyard.storage.schema import seen_batches, seen_receipts


class SeenBatch(msgspec.Struct, frozen=True):
    """One row of `seen_batches`; `content` is msgpack of the signed batch, `leaves` its receipt ids in order."""

    lane_key: bytes
    seq: int
    content: bytes
    leaves: bytes
    seen_ms: int


class SeenReceipt(msgspec.Struct, frozen=True):
    """One row of `seen_receipts`; `receipt` is msgpack of it, which stands in the lane's batch of that number."""

    order_hash: bytes
    part: int
    lane_key: bytes
    seq: int
    receipt: bytes
    seen_ms: int


async def add_seen(database: Database, batch: SeenBatch, receipts: Iterable[SeenReceipt]) -> None:
    """Keep a batch and its receipts, none of which is known."""
    rows = [msgspec.structs.asdict(row) for row in receipts]
    async with database.begin() as connection:
        await connection.execute(insert(seen_batches).values(**msgspec.structs.asdict(batch)))
        if rows:
            await connection.execute(insert(seen_receipts), rows)


async def load_seen_near(database: Database, lane_key: bytes, seq: int) -> list[SeenBatch]:
    """Return the batches of a lane under a number, beside it, and the last one before and the first one after."""
    of_lane = seen_batches.c.lane_key == lane_key
    below = select(seen_batches.c.seq).where(of_lane, seen_batches.c.seq < seq)
    above = select(seen_batches.c.seq).where(of_lane, seen_batches.c.seq > seq)
    near = or_(
        seen_batches.c.seq == seq,
        seen_batches.c.seq == below.order_by(seen_batches.c.seq.desc()).limit(1).scalar_subquery(),
        seen_batches.c.seq == above.order_by(seen_batches.c.seq).limit(1).scalar_subquery(),
    )
    async with database.read() as connection:
        rows = await connection.execute(select(seen_batches).where(of_lane, near).order_by(seen_batches.c.seq))
        return [SeenBatch(*row) for row in rows]


async def load_seen_receipts(
    database: Database, parts: Sequence[tuple[bytes, int]]
) -> list[tuple[SeenReceipt, SeenBatch]]:
    """Return what is known of orders' parts (order hash, part), each with its batch."""
    query = (
        select(seen_receipts, seen_batches)
        .join(
            seen_batches,
            (seen_batches.c.lane_key == seen_receipts.c.lane_key) & (seen_batches.c.seq == seen_receipts.c.seq),
        )
        .where(tuple_(seen_receipts.c.order_hash, seen_receipts.c.part).in_(parts))
    )
    async with database.read() as connection:
        return [(SeenReceipt(*row[:6]), SeenBatch(*row[6:])) for row in await connection.execute(query)]


async def forget_seen(database: Database, before_ms: int) -> None:
    """Drop what was seen before a time."""
    async with database.begin() as connection:
        for table in (seen_receipts, seen_batches):
            await connection.execute(delete(table).where(table.c.seen_ms < before_ms))
