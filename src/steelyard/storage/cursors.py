"""Cursors: how far an indexer has read the chain, by name; saved with what it read, or after it.

Law: docs/spec/storage.md, section 8.
"""

from __future__ import annotations

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from steelyard.storage.database import Database
from steelyard.storage.schema import cursors


async def load_cursor(database: Database, name: str) -> str | None:
    """Return a cursor's value, or None."""
    async with database.read() as connection:
        value: str | None = (
            await connection.execute(select(cursors.c.value).where(cursors.c.name == name))
        ).scalar_one_or_none()
        return value


async def save_cursor(database: Database, name: str, value: str) -> None:
    """Set a cursor in a transaction of its own."""
    async with database.begin() as connection:
        await move_cursor(connection, name, value)


async def move_cursor(connection: AsyncConnection, name: str, value: str) -> None:
    """Set a cursor inside the caller's transaction, together with what was read up to it."""
    moved = await connection.execute(update(cursors).where(cursors.c.name == name).values(value=value))
    if not moved.rowcount:
        await connection.execute(insert(cursors).values(name=name, value=value))
