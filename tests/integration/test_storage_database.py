"""Opening a database: its schema, its lock, what stops the start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from tests.databases import KINDS, empty_database_url, open_test_database

from steelyard.errors import ConfigError
from steelyard.storage import budgets, calls, lanes, node_ledger
from steelyard.storage import events as storage_events
from steelyard.storage.claims import claim_process
from steelyard.storage.database import Database, open_database, parse_url
from steelyard.storage.migrations import MIGRATIONS
from steelyard.storage.operations import Statement, compile_statement
from steelyard.storage.schema import METADATA


@pytest.mark.parametrize("kind", KINDS)
def test_schema_of_queries_equals_schema_of_migrations(kind: str) -> None:
    """Every table and column that the code queries is one that the migrations make, in the same order, and no other."""

    def columns(connection: Connection) -> dict[str, list[str]]:
        inspector = inspect(connection)
        return {
            name: [column["name"] for column in inspector.get_columns(name)] for name in inspector.get_table_names()
        }

    async def main() -> None:
        async with open_test_database(kind) as database, database.read() as connection:
            made = await connection.run_sync(columns)
        assert made == {table.name: list(table.columns.keys()) for table in METADATA.tables.values()}

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_every_statement_of_the_writer_is_understood_by_the_database(kind: str) -> None:
    """A parameter without a type, or a wrong name, is found here and not by the first operation that uses it."""
    modules = (budgets, calls, storage_events, lanes, node_ledger)
    statements = [value for module in modules for value in vars(module).values() if isinstance(value, Statement)]
    assert len(statements) > 12

    async def main() -> None:
        async with open_test_database(kind) as database, database.begin() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            dialect = sqlite_dialect(paramstyle="qmark") if kind == "sqlite" else asyncpg_dialect()
            for statement in statements:
                sql = compile_statement(statement, dialect).sql
                if kind == "sqlite":
                    await raw.execute_fetchall("EXPLAIN " + sql, [None] * sql.count("?"))
                else:
                    await raw.prepare(sql)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_database_opened_by_many_at_once_is_migrated_once(kind: str) -> None:
    """Processes that start together wait for each other and find one schema."""

    async def main() -> None:
        async with empty_database_url(kind) as url:
            databases = await asyncio.gather(*(open_database(url) for _ in range(4)))
            async with databases[0].read() as connection:
                applied = (await connection.execute(text("SELECT number, checksum FROM schema_migrations"))).all()
            assert [tuple(row) for row in applied] == [(m.number, m.checksum) for m in MIGRATIONS]
            for database in databases:
                await database.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("INSERT INTO schema_migrations VALUES (999, 'later', 'x', 0)", "database_too_new"),
        ("UPDATE schema_migrations SET checksum = 'x' WHERE number = 1", "database_mismatch"),
    ],
)
def test_database_of_another_code_stops_the_start(kind: str, damage: str, code: str) -> None:
    """A schema that is newer, or was made by another text, is refused in one line and left as it is."""

    async def main() -> None:
        async with empty_database_url(kind) as url:
            database = await open_database(url)
            async with database.begin() as connection:
                await connection.execute(text(damage))
            await database.aclose()
            with pytest.raises(ConfigError) as refusal:
                await open_database(url)
            assert refusal.value.code == code
            assert "\n" not in refusal.value.message

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_transaction_with_an_error_leaves_nothing(kind: str) -> None:
    """`begin` commits at its end alone; `read` never."""

    insert = text("INSERT INTO cursors VALUES ('name', '1')")

    async def insert_and_fail(database: Database) -> None:
        async with database.begin() as connection:
            await connection.execute(insert)
            raise ZeroDivisionError

    async def main() -> None:
        async with open_test_database(kind) as database:
            with pytest.raises(ZeroDivisionError):
                await insert_and_fail(database)
            async with database.read() as connection:
                assert (await connection.execute(text("SELECT count(*) FROM cursors"))).scalar_one() == 0
            async with database.begin() as connection:
                await connection.execute(insert)
            async with database.read() as connection:
                assert (await connection.execute(text("SELECT count(*) FROM cursors"))).scalar_one() == 1
            await database.ping()

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_amount_beyond_64_bits_is_refused_by_the_database_too(kind: str) -> None:
    """A sum that would wrap (or become a float in SQLite) is an error, and the old amount stays."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            async with database.begin() as connection:
                await connection.execute(
                    text("INSERT INTO budgets VALUES ('b', NULL, 9223372036854775807, 0, 0)"),
                )
            with pytest.raises(DBAPIError):
                async with database.begin() as connection:
                    await connection.execute(text("UPDATE budgets SET spent_nano = spent_nano + 1"))
            async with database.read() as connection:
                spent = (await connection.execute(text("SELECT spent_nano FROM budgets"))).scalar_one()
            assert spent == 2**63 - 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_process_name_is_held_by_one_process_at_a_time(kind: str) -> None:
    """A second claim of a name is refused; another name, or the same one later, is not."""

    async def main() -> None:
        async with open_test_database(kind) as database:
            async with claim_process(database, "gateway-0"):
                with pytest.raises(ConfigError, match="gateway-0"):
                    async with claim_process(database, "gateway-0"):
                        pass
                async with claim_process(database, "gateway-1"):
                    pass
            async with claim_process(database, "gateway-0"):
                pass

    asyncio.run(main())


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "no url", "postgresql://host:port/name"]
)
def test_url_that_names_no_database_of_ours_is_refused(url: str) -> None:
    """The refusal shows the forms that are understood."""
    with pytest.raises(ConfigError, match="sqlite:///"):
        parse_url(url)


def test_postgresql_url_in_libpq_form_is_understood() -> None:
    """`postgres://` and `sslmode` are what hosting services print."""
    parsed = parse_url("postgres://user:secret@host/name?sslmode=require")
    assert parsed.drivername == "postgresql+asyncpg"
    assert parsed.query == {"ssl": "require"}


@pytest.mark.parametrize("url", ["sqlite:///{folder}", "postgresql://user:secret@127.0.0.1:9/name"])
def test_database_that_cannot_be_opened_stops_the_start_without_its_password(url: str, tmp_path: Path) -> None:
    """A folder for a file and a port where nobody listens: one line each, the password hidden."""

    async def main() -> None:
        with pytest.raises(ConfigError) as refusal:
            await open_database(url.format(folder=tmp_path))
        assert refusal.value.code == "database_unreachable"
        assert "secret" not in refusal.value.message
        assert "\n" not in refusal.value.message

    asyncio.run(main())


def test_file_that_is_no_database_stops_the_start(tmp_path: Path) -> None:
    """A file with other bytes is refused, and stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database\n" * 100)

    async def main() -> None:
        with pytest.raises(ConfigError, match="not a database"):
            await open_database(f"sqlite:///{path}")

    asyncio.run(main())
    assert path.read_bytes() == b"not a database\n" * 100
