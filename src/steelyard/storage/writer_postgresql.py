"""The group writer's PostgreSQL half: one asyncpg connection, binary rows, pipelined by statement.

1. A group that fails before its COMMIT was sent is repeated whole: after a deadlock at once, after a lost connection
   as soon as the server is back, for `RECONNECT_S` at most.
2. A connection lost during COMMIT leaves the group's fate open: the server is asked for it by the transaction's number,
   so that nothing is written twice. If it doesn't know, that is a crash, not a guess.

Law: docs/spec/storage.md, section 4.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
from sqlalchemy import Insert
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect

from steelyard.errors import Fault
from steelyard.storage.database import Database
from steelyard.storage.operations import (
    CompiledStatement,
    NothingChanged,
    Operation,
    Row,
    Statement,
    compile_statement,
    group_steps,
)

RECONNECT_S = 10.0
"""How long a lost server is waited for before the writer gives up."""

_COLLISIONS = 5
_RETRY_S = 0.1

# What one bad operation can raise. ValueError covers asyncpg's own refusal to encode a value.
_REFUSALS = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    NothingChanged,
    OverflowError,
    TypeError,
    ValueError,
    LookupError,
)
_COLLIDED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a goodbye between two queries does to asyncpg
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    OSError,
)


class PostgresqlBackend:
    """One connection, opened again when it is lost; `open_postgresql_backend` makes it."""

    def __init__(self, connect_args: dict[str, Any], is_full: bool) -> None:
        self._connect_args = connect_args
        self._is_full = is_full
        self._connection: Any = None
        self._dialect = asyncpg_dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy left this one untyped
        self._compiled: dict[Statement, CompiledStatement] = {}

    async def connect(self) -> None:
        """Open the connection."""
        self._connection = await asyncpg.connect(**self._connect_args)

    async def write(self, operations: list[Operation], *, is_awaited: bool) -> dict[int, Exception]:
        """Commit a group; see `GroupBackend`."""
        give_up_at = asyncio.get_running_loop().time() + RECONNECT_S
        begin = "BEGIN" if is_awaited or self._is_full else "BEGIN; SET LOCAL synchronous_commit TO OFF"
        collisions = 0
        number: int | None = None  # of the transaction whose COMMIT was sent
        refused: dict[int, Exception] = {}
        while True:
            try:
                if self._connection.is_closed():
                    await self.connect()
                if number is not None:
                    if await self._was_committed(number, give_up_at):
                        return refused
                    number = None
                await self._connection.execute(begin)
                refused = await self._fill(operations, begin)
                number = await self._connection.fetchval("SELECT txid_current()")
                await self._connection.execute("COMMIT")
                return refused
            except _COLLIDED:
                collisions += 1
                if collisions > _COLLISIONS:
                    raise
                number = None
                self._connection.terminate()  # rolls back, whatever state it is in
            except _LOST:
                if asyncio.get_running_loop().time() > give_up_at:
                    raise
                self._connection.terminate()
                await asyncio.sleep(_RETRY_S)

    async def aclose(self) -> None:
        """Close the connection."""
        with suppress(*_LOST):
            await self._connection.close()

    async def _was_committed(self, number: int, give_up_at: float) -> bool:
        while True:
            status = await self._connection.fetchval("SELECT txid_status($1)", number)
            if status in ("committed", "aborted"):
                return bool(status == "committed")
            if status is None or asyncio.get_running_loop().time() > give_up_at:
                raise Fault(f"the connection was lost at COMMIT, and the server says {status} of transaction {number}")
            await asyncio.sleep(_RETRY_S)

    async def _fill(self, operations: list[Operation], begin: str) -> dict[int, Exception]:
        try:
            for statement, rows in group_steps(operations):
                await self._execute(statement, rows)
            return {}
        except Exception as error:
            if not self._is_refusal(error):
                raise
            await self._connection.execute("ROLLBACK")
            await self._connection.execute(begin)
            outcomes = [await self._write_alone(operation) for operation in operations]
            return {index: error for index, error in enumerate(outcomes) if error is not None}

    async def _write_alone(self, operation: Operation) -> Exception | None:
        # A savepoint, because PostgreSQL lets nothing follow a failed statement.
        await self._connection.execute("SAVEPOINT one")
        try:
            for statement, row in operation.steps:
                await self._execute(statement, [row])
        except Exception as error:
            if not self._is_refusal(error):
                raise
            await self._connection.execute("ROLLBACK TO SAVEPOINT one")
            return error
        await self._connection.execute("RELEASE SAVEPOINT one")
        return None

    def _is_refusal(self, error: Exception) -> bool:
        # asyncpg calls both a wrong number of values and a closed connection an InterfaceError.
        is_misuse = isinstance(error, asyncpg.InterfaceError) and not self._connection.is_closed()
        return is_misuse or isinstance(error, _REFUSALS)

    async def _execute(self, statement: Statement, rows: list[Row]) -> None:
        # An insert that changes nothing raises by itself.
        must_count = statement.must_change and not isinstance(statement.construct, Insert)
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = compile_statement(statement, self._dialect, " RETURNING 1" if must_count else "")
            self._compiled[statement] = compiled
        arranged = compiled.arrange(rows)
        if not must_count:
            await self._connection.executemany(compiled.sql, arranged)
            return
        changed = len(await self._connection.fetchmany(compiled.sql, arranged))
        if changed != len(rows):
            raise NothingChanged(f"{statement.name} changed {changed} rows, not {len(rows)}")


async def open_postgresql_backend(database: Database) -> PostgresqlBackend:
    """Return a backend with its connection open."""
    _, connect_args = database.engine.dialect.create_connect_args(database.url)
    backend = PostgresqlBackend(dict(connect_args), database.is_synchronous_full)
    await backend.connect()
    return backend
