"""Open the database: SQLite by path, PostgreSQL by URL, one schema on both.

1. `begin()` writes, `read()` reads one consistent snapshot; both are transactions.
2. On SQLite a write transaction takes the write lock at once (BEGIN IMMEDIATE): it waits, it never fails half-way.
3. What commits here is on the disk itself (synchronous = FULL): leases and keys are rare, and must survive a power cut.
4. The hot path does not come here: it hands its operations to `writer.GroupWriter`.

Law: docs/spec/storage.md, section 1.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from steelyard.errors import ConfigError
from steelyard.storage.migrate import migrate

Kind = Literal["sqlite", "postgresql"]

BUSY_TIMEOUT_S = 10.0
"""How long a SQLite writer waits for another one before it gives up."""


@dataclass(frozen=True, slots=True)
class Database:
    """An open, migrated database; close it with `aclose()`."""

    engine: AsyncEngine
    url: URL
    kind: Kind
    is_synchronous_full: bool

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection inside a write transaction: commit at the end, roll back on any error."""
        async with self.engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection that sees one snapshot and is rolled back at the end."""
        async with self.engine.connect() as connection:
            if self.kind == "postgresql":
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            else:
                await connection.execution_options(steelyard_begin="BEGIN DEFERRED")
            yield connection

    async def ping(self) -> None:
        """Answer at all; raises what the driver raises. For `/readyz` and `doctor`."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def aclose(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


async def open_database(url: str, *, synchronous: Literal["normal", "full"] = "normal") -> Database:
    """Open a database, create it if it is a missing SQLite file, and bring its schema up to date.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://user:password@host/name`.
        synchronous: of the group writer's groups that nobody awaits. `normal` loses none when the process dies, `full`
            none when the power does. Everything else is always `full`.

    Raises:
        ConfigError: an unknown URL, a file or server that can't be opened, a schema newer than this code.
    """
    database = connect_lazily(parse_url(url), is_full=synchronous == "full")
    try:
        async with first_transaction(database) as connection:
            await migrate(connection)
    except BaseException:
        await database.aclose()
        raise
    return database


@asynccontextmanager
async def first_transaction(database: Database) -> AsyncIterator[AsyncConnection]:
    """Give a write transaction on a database that may not be there, or not be one.

    Raises:
        ConfigError: the file or server can't be opened, or refuses what the block does.
    """
    try:
        if database.kind == "sqlite":
            # First without aiosqlite, whose thread complains aloud when its connection can't be opened.
            await asyncio.to_thread(_probe_sqlite, database.url.database or "")
        async with database.begin() as connection:
            yield connection
    except (DatabaseError, InterfaceError, sqlite3.Error, OSError) as error:
        raise ConfigError(
            f"the database {database.url.render_as_string()} can't be used: {_first_line(error)}",
            code="database_unreachable",
        ) from error


def parse_url(url: str) -> URL:
    """Return a URL with its async driver filled in; raises ConfigError for what we can't open."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("the database URL can't be read: " + _SHAPES, code="bad_database_url") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError(f"{url}: an in-memory database is not kept; " + _SHAPES, code="bad_database_url")
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend in ("postgresql", "postgres"):
        query = dict(parsed.query)
        if "sslmode" in query:  # libpq's name for what asyncpg calls ssl
            query["ssl"] = query.pop("sslmode")
        return parsed.set(drivername="postgresql+asyncpg", query=query)
    raise ConfigError(f"{backend}: not a database we know; " + _SHAPES, code="bad_database_url")


_SHAPES = "give sqlite:///file.db, sqlite:////absolute/file.db or postgresql://user:password@host:5432/name"


def connect_lazily(url: URL, *, is_full: bool = False) -> Database:
    """Return a database that connects at its first use and whose schema nobody looked at."""
    if url.get_backend_name() == "sqlite":
        Path(url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return Database(engine, url, "sqlite", is_full)
    engine = create_async_engine(url, pool_size=5, max_overflow=10, pool_pre_ping=True)
    return Database(engine, url, "postgresql", is_full)


SQLITE_PRAGMAS = (
    f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
"""What every SQLite connection of ours is told first."""


def _probe_sqlite(path: str) -> None:
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("steelyard_begin", "BEGIN IMMEDIATE"))


def _first_line(error: BaseException) -> str:
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
