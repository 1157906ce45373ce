"""Bring a database to the schema of this code, under a lock, so that two processes may start at once.

1. All pending migrations run in one transaction together with their records: half a schema is never seen.
2. A database that is newer than the code, or was migrated by another text, stops the start with one line.

Law: docs/spec/storage.md, section 3.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from steelyard.errors import ConfigError
from steelyard.storage.migrations import MIGRATIONS, Migration
from steelyard.storage.schema import migrations_applied

# Any constant does, as long as nobody else uses it in the same PostgreSQL database: "stlyrd" in ASCII.
_ADVISORY_LOCK = 0x73746C797264

_CREATE_RECORD = """CREATE TABLE IF NOT EXISTS schema_migrations (
    number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_ms BIGINT NOT NULL
)"""


async def migrate(connection: AsyncConnection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Apply what is missing, inside the caller's write transaction, and return the schema's number.

    Raises:
        ConfigError: the database is newer than this code, or an applied migration's text differs from ours.
    """
    blob = "BLOB"
    if connection.dialect.name == "postgresql":
        blob = "BYTEA"
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
    # On SQLite the caller's BEGIN IMMEDIATE is the lock.
    await connection.execute(text(_CREATE_RECORD))
    applied = await applied_migrations(connection)
    _refuse_strangers(applied, migrations)
    for migration in migrations:
        if migration.number in applied:
            continue
        for statement in migration.statements:
            await connection.exec_driver_sql(statement.replace("{blob}", blob))
        record = {"number": migration.number, "name": migration.name, "checksum": migration.checksum}
        await connection.execute(insert(migrations_applied), record | {"applied_ms": time.time_ns() // 10**6})
    return migrations[-1].number


async def applied_migrations(connection: AsyncConnection) -> dict[int, str]:
    """Return the applied migrations' checksums by number."""
    rows = await connection.execute(select(migrations_applied.c.number, migrations_applied.c.checksum))
    return {row.number: row.checksum for row in rows}


def _refuse_strangers(applied: dict[int, str], migrations: Sequence[Migration]) -> None:
    known = {migration.number: migration for migration in migrations}
    newest = max(applied, default=0)
    if newest > migrations[-1].number:
        raise ConfigError(
            f"the database has schema {newest}, this steelyard knows {migrations[-1].number}: "
            "upgrade steelyard, or point it at another database",
            code="database_too_new",
        )
    for number, checksum in applied.items():
        if number not in known or known[number].checksum != checksum:
            raise ConfigError(
                f"migration {number} of the database was made by another text than this steelyard's: "
                "use the release that created it, or restore a backup into an empty database",
                code="database_mismatch",
            )
