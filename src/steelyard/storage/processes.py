"""The gateway processes of one database: which of them live, and where nodes find the link of each.

1. A process notes itself again and again; one that wasn't seen for a while is gone, or will be back under its name.
2. Names are claimed (`claims.py`), so a process alone writes its row.

Law: docs/spec/storage.md, section 5.
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update

from steelyard.storage.database import Database
from steelyard.storage.schema import gateway_processes as table


async def note_process(database: Database, process: str, *, gateway: bytes, link_url: str, now_ms: int) -> None:
    """Say that a process of an account lives, and which link nodes dial to it."""
    values = {"gateway": gateway, "link_url": link_url, "seen_ms": now_ms}
    async with database.begin() as connection:
        noted = await connection.execute(update(table).where(table.c.process == process).values(values))
        if not noted.rowcount:
            await connection.execute(insert(table).values(process=process, **values))


async def forget_process(database: Database, process: str) -> None:
    """Say that a process stopped in order."""
    async with database.begin() as connection:
        await connection.execute(delete(table).where(table.c.process == process))


async def list_links(database: Database, *, gateway: bytes, since_ms: int) -> list[str]:
    """Return the links of an account's processes that were seen since, in the order of their names."""
    query = select(table.c.link_url).where(table.c.gateway == gateway, table.c.seen_ms >= since_ms)
    async with database.read() as connection:
        return list((await connection.execute(query.order_by(table.c.process))).scalars())
