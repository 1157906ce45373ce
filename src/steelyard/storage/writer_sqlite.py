"""The group writer's SQLite half: plain `sqlite3` in a thread of its own.

aiosqlite crosses threads once per statement and SQLAlchemy binds in Python; here a group costs one crossing, and many
inserted rows are one statement.

Law: docs/spec/storage.md, section 4.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import suppress
from itertools import chain
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Insert
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

_MOST_ROWS = 64

_PREPARED = 4 * _MOST_ROWS
"""How many SQL texts stay prepared: the few tables that fill quickly, at every size of a group."""

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


# Otherwise the driver looks for a way to adapt each value of this type, in vain and every time. `bytes` of bytes is the
# same object.
sqlite3.register_adapter(bytes, bytes)


class SqliteBackend:
    """One connection in one thread; `open_sqlite_backend` makes it."""

    def __init__(self, path: str, is_full: bool) -> None:
        self._path = path
        self._is_full = is_full
        self._was_full = True  # by SQLITE_PRAGMAS
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._dialect = sqlite_dialect(paramstyle="qmark")
        self._most_parameters = 0
        self._compiled: dict[Statement, CompiledStatement] = {}
        self._inserts: dict[tuple[str, int], str] = {}
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
            connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=_PREPARED
            )
            for pragma in SQLITE_PRAGMAS:
                connection.execute(pragma)
            self._most_parameters = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        except sqlite3.Error as error:
            self._tell(self._opened, error)
            return
        self._tell(self._opened, None)
        while (job := self._jobs.get()) is not None:
            operations, is_full, done = job
            try:
                if is_full != self._was_full:
                    connection.execute(f"PRAGMA synchronous = {'FULL' if is_full else 'NORMAL'}")
                    self._was_full = is_full
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
        arranged = compiled.arrange(rows)
        if isinstance(statement.construct, Insert):
            self._insert(connection, compiled.sql, arranged)
            return
        cursor = connection.executemany(compiled.sql, arranged)
        if statement.must_change and cursor.rowcount != len(rows):
            raise NothingChanged(f"{statement.name} changed {cursor.rowcount} rows, not {len(rows)}")

    def _insert(self, connection: sqlite3.Connection, sql: str, rows: list[Row]) -> None:
        # Many rows in one statement: every execution gives up the interpreter lock and waits up to 5 ms to get it back
        # while the event loop computes. Each number of rows is a text of its own, which stays prepared.
        if len(set(map(len, rows))) > 1:
            raise ValueError("rows of different lengths for one statement")
        most = max(1, min(_MOST_ROWS, self._most_parameters // len(rows[0])))
        for start in range(0, len(rows), most):
            chunk = rows[start : start + most]
            connection.execute(self._insert_text(sql, len(chunk)), tuple(chain.from_iterable(chunk)))

    def _insert_text(self, sql: str, count: int) -> str:
        text = self._inserts.get((sql, count))
        if text is None:
            head, _, values = sql.partition(" VALUES ")
            text = self._inserts[sql, count] = f"{head} VALUES {', '.join([values] * count)}"
        return text


async def open_sqlite_backend(database: Database) -> SqliteBackend:
    """Return a backend with its connection open."""
    backend = SqliteBackend(database.url.database or "", database.is_synchronous_full)
    await backend.start()
    return backend
