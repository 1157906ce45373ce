"""Lies that were found: both halves, how far the proof on chain is, and single halves that may become one.

1. A lie is on disk, with its event, before anything is sent; it is kept once, whoever finds it again.
2. Who proves a lie first takes it for a while (`take_lie`): of two processes on one database one sends.
3. So many wait per liar, and so many halves per lane: what is signed costs its signer little, and us no more.

Law: docs/spec/storage.md, section 8; docs/spec/checking.md, section 13.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from sqlalchemy import Insert, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from steelyard.storage.database import Database
from steelyard.storage.events import PeerEvent
from steelyard.storage.schema import events, half_lies, lies

MAX_WAITING = 64
"""Lies of one liar that wait at once: the first takes most of what there is."""

MAX_HALVES = 4
"""Halves of one lane that are kept."""


class LieState(IntEnum):
    """How far the proof of a lie is."""

    WAITING = 0
    PROVEN = 1
    PROVEN_BY_OTHERS = 2
    REFUSED = 3


class LieRow(msgspec.Struct, frozen=True):
    """One row of `lies`, its fields in the table's order.

    Args:
        lie_id: the contract's. kind: `protocol.lies.LieKind`. content: `protocol.lies.encode_lie`.
        due_ms: when it is tried (again), Unix milliseconds. tries: how often it was.
    """

    lie_id: bytes
    kind: int
    liar: bytes
    content: bytes
    state: int = LieState.WAITING
    due_ms: int = 0
    tries: int = 0
    found_ms: int = 0


async def keep_lie(database: Database, row: LieRow, event: PeerEvent) -> bool:
    """Write a lie and its event; False if it is known, or its liar has enough that wait."""
    same = lies.c.liar == row.liar, lies.c.state == int(LieState.WAITING)
    try:
        async with database.begin() as connection:
            known = select(lies.c.lie_id).where(lies.c.lie_id == row.lie_id)
            if (await connection.execute(known)).first() is not None:
                return False
            if (await connection.execute(select(func.count()).where(*same))).scalar_one() >= MAX_WAITING:
                return False
            await connection.execute(insert(lies).values(**msgspec.structs.asdict(row)))
            await connection.execute(_event(event))
    except IntegrityError:  # another process of ours found it at the same moment
        return False
    return True


async def load_due_lies(database: Database, now_ms: int, *, limit: int = 16) -> list[LieRow]:
    """Return lies whose proof is due: new ones first, and two receipts, for they give gateways their money back."""
    query = select(lies).where(lies.c.state == int(LieState.WAITING), lies.c.due_ms <= now_ms)
    query = query.order_by(lies.c.tries, lies.c.kind, lies.c.due_ms, lies.c.lie_id).limit(limit)
    async with database.read() as connection:
        return [LieRow(*row) for row in await connection.execute(query)]


async def load_lies(database: Database) -> list[LieRow]:
    """Return all lies, the oldest first."""
    async with database.read() as connection:
        query = select(lies).order_by(lies.c.found_ms, lies.c.lie_id)
        return [LieRow(*row) for row in await connection.execute(query)]


async def take_lie(database: Database, row: LieRow, due_ms: int) -> bool:
    """Put a lie's next try off to a time, and count this one; False if somebody else took it."""
    where = lies.c.lie_id == row.lie_id, lies.c.state == int(LieState.WAITING), lies.c.due_ms == row.due_ms
    async with database.begin() as connection:
        taken = await connection.execute(update(lies).where(*where).values(due_ms=due_ms, tries=row.tries + 1))
        return bool(taken.rowcount)


async def put_off_lie(database: Database, lie_id: bytes, due_ms: int) -> None:
    """Try a lie again at a time."""
    async with database.begin() as connection:
        await connection.execute(update(lies).where(lies.c.lie_id == lie_id).values(due_ms=due_ms))


async def end_lie(database: Database, lie_id: bytes, state: LieState, event: PeerEvent) -> None:
    """Note what a lie's proof came to, with its event."""
    async with database.begin() as connection:
        await connection.execute(update(lies).where(lies.c.lie_id == lie_id).values(state=int(state)))
        await connection.execute(_event(event))


async def keep_half(database: Database, half_id: bytes, lane_key: bytes, content: bytes, *, now_ms: int) -> bool:
    """Keep a signed message that was refused; False if it is known, or its lane has enough of them."""
    try:
        async with database.begin() as connection:
            query = select(half_lies.c.half_id).where(half_lies.c.lane_key == lane_key)
            known = (await connection.execute(query)).scalars().all()
            if half_id in known or len(known) >= MAX_HALVES:
                return False
            row = {"half_id": half_id, "lane_key": lane_key, "content": content, "found_ms": now_ms}
            await connection.execute(insert(half_lies).values(**row))
    except IntegrityError:
        return False
    return True


async def load_halves(database: Database) -> list[tuple[bytes, bytes]]:
    """Return (lane key, content) of every half, the oldest first."""
    query = select(half_lies.c.lane_key, half_lies.c.content).order_by(half_lies.c.found_ms, half_lies.c.half_id)
    async with database.read() as connection:
        return [(lane_key, content) for lane_key, content in await connection.execute(query)]


def _event(event: PeerEvent) -> Insert:
    return insert(events).values(at_ms=event.at_ms, peer=event.peer, code=event.code, detail=event.detail)
