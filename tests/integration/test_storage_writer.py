"""The group writer on real databases: groups, refusals, kill -9, a lost server."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import bindparam, func, select, text, update
from tests.databases import KINDS, empty_database_url, open_test_database
from tests.ledger_rows import call_row

from steelyard.errors import Fault, Unavailable
from steelyard.storage.calls import find_call, insert_call
from steelyard.storage.database import Database, open_database
from steelyard.storage.events import PeerEvent, list_events, record_event
from steelyard.storage.operations import Operation, Statement
from steelyard.storage.schema import calls, events
from steelyard.storage.writer import GroupWriter, open_writer

ROOT = Path(__file__).parents[2]


class Told:
    """What a writer's callbacks were told."""

    def __init__(self) -> None:
        self.failures: list[tuple[Operation, Fault]] = []
        self.crashes: list[BaseException] = []

    def fail(self, operation: Operation, fault: Fault) -> None:
        """Remember a refused operation."""
        self.failures.append((operation, fault))


@asynccontextmanager
async def open_both(kind: str) -> AsyncIterator[tuple[Database, GroupWriter, Told]]:
    """Give an empty database and a writer on it, which is flushed at the end."""
    async with open_test_database(kind) as database:
        told = Told()
        writer = await open_writer(database, on_failure=told.fail, on_crash=told.crashes.append)
        try:
            yield database, writer, told
        finally:
            await writer.aclose()


async def count_calls(database: Database) -> int:
    """Return how many calls are stored."""
    async with database.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(calls))).scalar_one())


@pytest.mark.parametrize("kind", KINDS)
def test_calls_submitted_in_thousands_are_all_there_after_a_flush(kind: str) -> None:
    """Nothing is lost or changed between the queue and the table."""

    async def main() -> None:
        async with open_both(kind) as (database, writer, told):
            for number in range(3_000):
                writer.submit(insert_call(call_row(number)))
                if number % 500 == 0:
                    await asyncio.sleep(0.002)
            await writer.flush()
            assert await count_calls(database) == 3_000
            assert await find_call(database, call_row(1_234).call_id) == [call_row(1_234)]
            assert told.failures == told.crashes == []

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_refused_operations_leave_the_rest_of_their_group(kind: str) -> None:
    """Doubles and values that no column takes are told one by one; everything else of the group is committed."""

    async def main() -> None:
        async with open_both(kind) as (database, writer, told):
            await writer.submit_flushed(insert_call(call_row(3)))
            strange = insert_call(call_row(100))
            too_large = Operation(((strange.steps[0][0], (*strange.steps[0][1][:12], 2**63, 0, 0, 0)),))
            too_short = Operation(((strange.steps[0][0], strange.steps[0][1][:5]),))
            for number in range(6):
                writer.submit(insert_call(call_row(number)))
            for bad in (too_large, too_short):
                writer.submit(bad)
            both = Operation((*insert_call(call_row(50)).steps, *insert_call(call_row(3)).steps))
            with pytest.raises(Fault, match="insert calls") as fault:
                await writer.submit_flushed(both)
            assert fault.value.code == "write_refused"
            assert await count_calls(database) == 6
            assert await find_call(database, call_row(50).call_id) == []
            refused = [operation for operation, _ in told.failures]
            assert refused == [insert_call(call_row(3)), too_large, too_short]
            await writer.submit_flushed(insert_call(call_row(7)))
            assert told.crashes == []

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_awaited_write_is_seen_by_the_next_read(kind: str) -> None:
    """`submit_flushed` returns after the commit."""

    async def main() -> None:
        async with open_both(kind) as (database, writer, _):
            for number in range(20):
                event = PeerEvent(number, "0xpeer", "bad_total", "a\x00b")
                await writer.submit_flushed(record_event(event))
                assert (await list_events(database, limit=1))[0] == PeerEvent(number, "0xpeer", "bad_total", "a\\0b")

    asyncio.run(main())


# The child commits calls in groups, prints the number of each one that was acknowledged, and never ends by itself.
CHILD = """
import asyncio, sys
from steelyard.storage.calls import insert_call
from steelyard.storage.database import open_database
from steelyard.storage.writer import open_writer
from tests.ledger_rows import call_row

def stop(*why):
    print("BROKEN", why, flush=True)

async def main():
    database = await open_database(sys.argv[1])
    writer = await open_writer(database, on_failure=stop, on_crash=stop)
    async def one(number):
        await writer.submit_flushed(insert_call(call_row(number)))
        print(number, flush=True)
    number = 0
    while True:
        await asyncio.gather(*(one(number + i) for i in range(20)))
        number += 20

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", KINDS)
def test_calls_acknowledged_before_kill_9_are_all_there(kind: str) -> None:
    """A process that is killed while it writes loses nothing that it had been told was committed."""

    async def main() -> None:
        async with empty_database_url(kind) as url:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                CHILD,
                url,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": "."},
            )
            assert child.stdout is not None
            acknowledged = [int(await child.stdout.readline()) for _ in range(300)]
            child.send_signal(signal.SIGKILL)
            rest = (await child.stdout.read()).decode()
            await child.wait()
            acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
            database = await open_database(url)
            async with database.read() as connection:
                stored = set((await connection.execute(select(calls.c.order_hash))).scalars())
            assert {call_row(number).order_hash for number in acknowledged} <= stored
            await database.aclose()

    asyncio.run(main())


def test_sqlite_locked_by_another_process_is_waited_for(tmp_path: Path) -> None:
    """A writer elsewhere delays a group, it does not fail it."""

    async def main() -> None:
        database = await open_database(f"sqlite:///{tmp_path}/s.db")
        told = Told()
        writer = await open_writer(database, on_failure=told.fail, on_crash=told.crashes.append)
        other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        wait = asyncio.create_task(writer.submit_flushed(insert_call(call_row(1))))
        await asyncio.sleep(0.1)
        assert not wait.done()
        other.execute("COMMIT")
        other.close()
        await wait
        await writer.aclose()
        await database.aclose()
        assert told.failures == told.crashes == []

    asyncio.run(main())


def test_sqlite_that_fails_stops_the_writer_loudly(tmp_path: Path) -> None:
    """A table that vanished is no fault of one operation: `on_crash` is called and nothing more is accepted."""

    async def main() -> None:
        database = await open_database(f"sqlite:///{tmp_path}/s.db")
        told = Told()
        writer = await open_writer(database, on_failure=told.fail, on_crash=told.crashes.append)
        async with database.begin() as connection:
            await connection.execute(text("DROP TABLE calls"))
        writer.submit(insert_call(call_row(1)))
        with pytest.raises(Unavailable):
            await writer.flush()
        assert isinstance(told.crashes[0], sqlite3.OperationalError)
        assert told.failures == []
        await writer.aclose()
        await database.aclose()

    asyncio.run(main())


def test_postgresql_connection_that_is_cut_is_opened_again() -> None:
    """A server that drops the writer's connection between groups costs no operation."""

    async def main() -> None:
        async with open_both("postgresql") as (database, writer, told):
            await writer.submit_flushed(insert_call(call_row(0)))
            for number in range(1, 4):
                async with database.begin() as connection:
                    await connection.execute(
                        text(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                        )
                    )
                await writer.submit_flushed(insert_call(call_row(number)))
            assert await count_calls(database) == 4
            assert told.failures == told.crashes == []

    asyncio.run(main())


@pytest.mark.parametrize("is_committed", [True, False])
def test_postgresql_connection_lost_at_commit_writes_once(monkeypatch: pytest.MonkeyPatch, is_committed: bool) -> None:
    """Whether the COMMIT arrived or not, the group is written once: the server knows which."""
    execute = asyncpg.Connection.execute
    cuts = 0

    async def cut_at_commit(connection: asyncpg.Connection, query: str, *args: object, **options: object) -> str:
        nonlocal cuts
        if query != "COMMIT" or cuts:
            return str(await execute(connection, query, *args, **options))
        cuts += 1
        if is_committed:
            await execute(connection, query)
        connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    async def main() -> None:
        async with open_both("postgresql") as (database, writer, told):
            monkeypatch.setattr(asyncpg.Connection, "execute", cut_at_commit)
            await asyncio.gather(*(writer.submit_flushed(insert_call(call_row(number))) for number in range(5)))
            monkeypatch.undo()
            assert cuts == 1
            assert await count_calls(database) == 5
            assert told.failures == told.crashes == []

    asyncio.run(main())


def test_postgresql_deadlock_is_tried_again() -> None:
    """A group that the server sacrifices to another transaction is written after it."""

    async def main() -> None:
        async with open_both("postgresql") as (database, writer, told):
            for number in (1, 2):
                await writer.submit_flushed(record_event(PeerEvent(number, "p", "c", "")))
            lock = "UPDATE events SET detail = detail || 'x' WHERE at_ms = {}"
            engine = database.engine
            async with engine.connect() as connection:
                await connection.execute(text(lock.format(1)))
                wait = asyncio.create_task(writer.submit_flushed(lock_both(2, 1)))
                await asyncio.sleep(0.2)
                await connection.execute(text(lock.format(2)))
                await connection.commit()
            await wait
            assert {event.detail for event in await list_events(database)} == {"xy"}
            assert told.failures == told.crashes == []

    asyncio.run(main())


def lock_both(*at_ms: int) -> Operation:
    """Return a write that locks events one after the other."""
    change = update(events).where(events.c.at_ms == bindparam("at")).values(detail=events.c.detail + bindparam("more"))
    statement = Statement("update events", change, ("at", "more"))
    return Operation(tuple((statement, (at, "y")) for at in at_ms))
