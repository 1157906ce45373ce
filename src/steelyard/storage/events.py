"""Peers' faults: who broke which rule when. Append-only; nobody's text, key or voucher is in it.

Law: docs/spec/storage.md, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from steelyard.storage.database import Database
from steelyard.storage.operations import Operation, insert_into
from steelyard.storage.schema import events

_INSERT = insert_into(events)
_MAX_DETAIL = 2_000


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A fault: `peer` is an 0x account or a network address, `code` the error's stable code, `detail` its message."""

    at_ms: int
    peer: str
    code: str
    detail: str


def record_event(event: PeerEvent) -> Operation:
    """Return the write of an event; what a peer made overlong is cut."""
    # PostgreSQL has no NUL in its texts, and a peer may send one.
    detail = event.detail[:_MAX_DETAIL].replace("\x00", "\\0")
    return Operation(((_INSERT, (event.at_ms, event.peer, event.code, detail)),))


async def list_events(database: Database, *, peer: str | None = None, limit: int = 100) -> list[PeerEvent]:
    """Return the latest events, newest first, of one peer or of all."""
    query = select(events).order_by(events.c.at_ms.desc()).limit(limit)
    if peer is not None:
        query = query.where(events.c.peer == peer)
    async with database.read() as connection:
        return [PeerEvent(*row) for row in await connection.execute(query)]
