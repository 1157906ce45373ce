"""The group writer's SQLite half: plain `sqlite3` in a thread of its own.

aiosqlite crosses threads once per statement and SQLAlchemy binds in Python; here a group costs one crossing, and a
statement of many rows one release of the interpreter lock.

Law: docs/spec/storage.md, section 4.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

from steelyard.storage.database import BUSY_TIMEOUT_S, SQLITE_PRAGMAS, Database
from steelyard.storage.operations import (
    CompiledStatement,
    NothingChanged,
    Operation,
    Row,
    Statement,
    compile_statement,
    group_steps,
)

_Job = tuple[list[Operation], bool, "asyncio.Future[dict[int, Exception]]"]

# What one bad operation can raise; anything else (disk full, file gone, locked for long) is the database's own failure.
_REFUSALS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    OverflowError,
    TypeError,
    ValueError,
    LookupError,
)


class SqliteBackend:
    """One connection in one thread; `open_sqlite_backend` makes it."""

    def __init__(self, path: str, is_full: bool) -> None:
        self._path = path
        self._is_full = is_full
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._dialect = sqlite_dialect(paramstyle="qmark")
        self._compiled: dict[Statement, CompiledStatement] = {}
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="sqlite-writer", daemon=True)

    async def start(self) -> None:
        """Open the connection inside the thread; raises what sqlite3 raises."""
        self._thread.start()
        await self._opened

    async def write(self, operations: list[Operation], *, is_awaited: bool) -> dict[int, Exception]:
        """Commit a group; see `GroupBackend`."""
        done: asyncio.Future[dict[int, Exception]] = self._loop.create_future()
        self._jobs.put((operations, is_awaited or self._is_full, done))
        return await done

    async def aclose(self) -> None:
        """Close the connection and end the thread."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        try:
            connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            for pragma in SQLITE_PRAGMAS:
                connection.execute(pragma)
        except sqlite3.Error as error:
            self._tell(self._opened, error)
            return
        self._tell(self._opened, None)
        while (job := self._jobs.get()) is not None:
            operations, is_full, done = job
            try:
                connection.execute(f"PRAGMA synchronous = {'FULL' if is_full else 'NORMAL'}")
                self._tell(done, self._write(connection, operations))
            except BaseException as error:
                self._tell(done, error)
        connection.close()

    def _tell(self, future: asyncio.Future[Any], result: object) -> None:
        def tell() -> None:
            if future.done():
                return
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(tell)

    def _write(self, connection: sqlite3.Connection, operations: list[Operation]) -> dict[int, Exception]:
        refused: dict[int, Exception] = {}
        connection.execute("BEGIN IMMEDIATE")
        try:
            try:
                for statement, rows in group_steps(operations):
                    self._execute(connection, statement, rows)
            except _REFUSALS:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                for index, operation in enumerate(operations):
                    error = self._write_alone(connection, operation)
                    if error is not None:
                        refused[index] = error
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return refused

    def _write_alone(self, connection: sqlite3.Connection, operation: Operation) -> Exception | None:
        connection.execute("SAVEPOINT one")
        try:
            for statement, row in operation.steps:
                self._execute(connection, statement, [row])
        except _REFUSALS as error:
            connection.execute("ROLLBACK TO one")
            return error
        finally:
            connection.execute("RELEASE one")
        return None

    def _execute(self, connection: sqlite3.Connection, statement: Statement, rows: list[Row]) -> None:
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = compile_statement(statement, self._dialect)
        cursor = connection.executemany(compiled.sql, compiled.arrange(rows))
        if statement.must_change and cursor.rowcount != len(rows):
            raise NothingChanged(f"{statement.name} changed {cursor.rowcount} rows, not {len(rows)}")


async def open_sqlite_backend(database: Database) -> SqliteBackend:
    """Return a backend with its connection open."""
    backend = SqliteBackend(database.url.database or "", database.is_synchronous_full)
    await backend.start()
    return backend
