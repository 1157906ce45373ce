"""A gateway's batches in the order of their arrival, with a cursor: what validators follow.

1. A batch's call ids are written with it; its number in the feed is given when the feed is read, so that no process
   waits for another on the hot path.
2. Numbers begin at 1, have no gap, and never change: what was read up to a number is never read again.

Law: docs/spec/storage.md, section 6; docs/spec/gateway.md, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import and_, bindparam, func, select, text, update

from steelyard.protocol.messages import Lane
from steelyard.storage.calls import CallRow
from steelyard.storage.database import Database
from steelyard.storage.lane_rows import StoredBatch, read_batch, read_lane
from steelyard.storage.operations import Row, Statement, insert_into
from steelyard.storage.schema import batch_calls, batches, calls, lanes

_INSERT = insert_into(batch_calls)
_CALL_ID_BYTES = 16
_NUMBERED_AT_ONCE = 1_000
# Any constant does, as long as nobody else uses it in the same PostgreSQL database: "stfeed" in ASCII.
_ADVISORY_LOCK = 0x737466656564

_on_batch = and_(batches.c.lane_key == batch_calls.c.lane_key, batches.c.seq == batch_calls.c.seq)


class FedBatch(msgspec.Struct, frozen=True):
    """A batch with its number in the feed, and its calls' rows in the order of its leaves (None: it is lost)."""

    cursor: int
    stored: StoredBatch
    calls: tuple[CallRow | None, ...]


def note_calls(lane_key: bytes, seq: int, call_ids: Sequence[bytes]) -> tuple[Statement, Row]:
    """Return the step that keeps a batch's call ids (16 bytes each), for the operation that writes the batch."""
    return _INSERT, (lane_key, seq, b"".join(call_ids), None)


async def load_feed(database: Database, gateway: bytes, *, after: int, limit: int) -> list[FedBatch]:
    """Return the batches of a gateway's lanes whose number is above `after`, lowest first."""
    await _number_batches(database)
    query = (
        select(batch_calls.c.feed_no, batch_calls.c.call_ids, *lanes.c[:5], *batches.c)
        .join(batches, _on_batch)
        .join(lanes, lanes.c.lane_key == batch_calls.c.lane_key)
        .where(batch_calls.c.feed_no > after, lanes.c.gateway == gateway)
        .order_by(batch_calls.c.feed_no)
        .limit(limit)
    )
    async with database.read() as connection:
        found = (await connection.execute(query)).all()
        wanted = {call_id for row in found for call_id in _split(row[1])}
        rows: dict[bytes, CallRow] = {}
        for some in _parts(sorted(wanted)):
            for row in await connection.execute(select(calls).where(calls.c.call_id.in_(some))):
                call = CallRow(*row)
                if call.receipt_hash is not None:
                    rows[call.receipt_hash] = call
    fed = []
    for row in found:
        stored = read_batch(read_lane(row[2:]), row[7:])
        fed.append(FedBatch(row[0], stored, tuple(rows.get(leaf) for leaf in stored.leaves)))
    return fed


async def find_cursor(database: Database, lane: Lane, seq: int) -> int | None:
    """Return the number in the feed of a lane's batch, or None: it has none yet."""
    query = select(batch_calls.c.feed_no).where(batch_calls.c.lane_key == lane.key, batch_calls.c.seq == seq)
    async with database.read() as connection:
        return (await connection.execute(query)).scalar()


async def _number_batches(database: Database) -> None:
    """Give the next numbers to the batches that have none."""
    unfed = batch_calls.c.feed_no.is_(None)
    async with database.read() as connection:
        if (await connection.execute(select(batch_calls.c.seq).where(unfed).limit(1))).first() is None:
            return
    async with database.begin() as connection:
        if database.kind == "postgresql":
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        # On SQLite BEGIN IMMEDIATE is the lock.
        last = (await connection.execute(select(func.coalesce(func.max(batch_calls.c.feed_no), 0)))).scalar_one()
        query = (
            select(batch_calls.c.lane_key, batch_calls.c.seq)
            .join(batches, _on_batch)
            .where(unfed)
            .order_by(batches.c.created_ms, batch_calls.c.lane_key, batch_calls.c.seq)
            .limit(_NUMBERED_AT_ONCE)
        )
        numbered = [
            {"number": number, "of_lane": lane_key, "of_seq": seq}
            for number, (lane_key, seq) in enumerate(await connection.execute(query), start=last + 1)
        ]
        if not numbered:
            return  # another reader was faster
        number = (
            update(batch_calls)
            .where(batch_calls.c.lane_key == bindparam("of_lane"), batch_calls.c.seq == bindparam("of_seq"))
            .values(feed_no=bindparam("number"))
        )
        await connection.execute(number, numbered)


def _split(call_ids: bytes) -> list[bytes]:
    return [call_ids[at : at + _CALL_ID_BYTES] for at in range(0, len(call_ids), _CALL_ID_BYTES)]


def _parts(values: list[bytes], size: int = 500) -> list[list[bytes]]:
    return [values[at : at + size] for at in range(0, len(values), size)]
