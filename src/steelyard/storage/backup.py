"""Backup and restore: all rows in one file, the same for SQLite and PostgreSQL, so that one can become the other.

1. A backup is one snapshot of a running database; nobody has to stop.
2. The file is a gzipped tar: chunks of rows in msgpack, then `manifest.json` with each chunk's SHA-256 and the schema.
3. A restore verifies every byte before it writes, refuses a database that holds anything, and is one transaction.
4. A backup of an older schema is restored as it was and then migrated. Blobs and keystores are not in it.

Law: docs/spec/storage.md, section 10.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, column, func, inspect, select, table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from steelyard.errors import ConfigError
from steelyard.storage.database import Database, connect_lazily, first_transaction, parse_url
from steelyard.storage.migrate import applied_migrations, migrate
from steelyard.storage.migrations import MIGRATIONS
from steelyard.storage.schema import METADATA, migrations_applied

FORMAT = 1
_MANIFEST = "manifest.json"
_CHUNK_ROWS = 2_000
_MAX_CHUNK_BYTES = 1 << 30


class Chunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some rows of a table: a member of the tar, a msgpack array of arrays."""

    member: str
    rows: int
    sha256: str


class TableDump(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table's columns, in the order of its rows' values, and its chunks."""

    name: str
    columns: list[str]
    chunks: list[Chunk]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds: `migrations` are the checksums of the schema's by number."""

    format: int
    created_ms: int
    migrations: dict[int, str]
    tables: list[TableDump]

    @property
    def rows(self) -> int:
        """Return the number of rows of all tables."""
        return sum(chunk.rows for dump in self.tables for chunk in dump.chunks)


async def write_backup(database: Database, path: Path, *, now_ms: int) -> Manifest:
    """Write all that a database holds into a new file, readable by its owner alone.

    Raises:
        ConfigError: the file exists (a backup never replaces another), or can't be written.
    """
    if path.exists():
        raise ConfigError(f"{path} exists: name a new file for the backup", code="backup_exists")
    temporary = path.with_name(path.name + ".part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
                manifest = await _dump(database, tar, now_ms)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ConfigError(f"can't write the backup {path}: {error.strerror}", code="backup_not_written") from error
    return manifest


async def restore_backup(url: str, path: Path) -> Manifest:
    """Fill an empty database from a backup.

    Raises:
        ConfigError: the backup is damaged or of a newer schema, or the database is not empty; nothing is changed then.
    """
    manifest = await asyncio.to_thread(verify_backup, path)
    _refuse_unknown_schema(manifest)
    database = connect_lazily(parse_url(url))
    try:
        async with first_transaction(database) as connection:
            await _clear_empty(connection)
            newest = max(manifest.migrations)
            await migrate(connection, [migration for migration in MIGRATIONS if migration.number <= newest])
            await _fill(connection, path, manifest)
            await migrate(connection)
    finally:
        await database.aclose()
    return manifest


def verify_backup(path: Path) -> Manifest:
    """Return a backup's manifest after every chunk was hashed and counted.

    Raises:
        ConfigError: not a backup, of another format, or damaged; says where.
    """
    seen: dict[str, tuple[str, int]] = {}
    manifest: Manifest | None = None
    try:
        for name, data in _members(path):
            if name == _MANIFEST:
                manifest = msgspec.json.decode(data, type=Manifest)
            else:
                seen[name] = (hashlib.sha256(data).hexdigest(), len(msgspec.msgpack.decode(data, type=list[list[Any]])))
    except (OSError, EOFError, tarfile.TarError, msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path} is not a whole backup: {error}", code="backup_damaged") from error
    if manifest is None:
        raise ConfigError(f"{path} is not a whole backup: it has no {_MANIFEST}", code="backup_damaged")
    if manifest.format != FORMAT:
        raise ConfigError(f"{path} has format {manifest.format}, this steelyard reads {FORMAT}", code="backup_format")
    listed = {chunk.member: (chunk.sha256, chunk.rows) for dump in manifest.tables for chunk in dump.chunks}
    wrong = sorted(name for name in listed.keys() | seen.keys() if listed.get(name) != seen.get(name))
    if wrong:
        raise ConfigError(f"{path} is damaged: {wrong[0]} is missing, added or changed", code="backup_damaged")
    return manifest


async def _dump(database: Database, tar: tarfile.TarFile, now_ms: int) -> Manifest:
    dumps = []
    async with database.read() as connection:
        migrations = await applied_migrations(connection)
        for source in METADATA.tables.values():
            if source is migrations_applied:
                continue
            chunks: list[Chunk] = []
            rows = await connection.stream(select(source))
            async for part in rows.partitions(_CHUNK_ROWS):
                data = msgspec.msgpack.encode([tuple(row) for row in part])
                member = f"{source.name}/{len(chunks):06d}.msgpack"
                await asyncio.to_thread(_add, tar, member, data)
                chunks.append(Chunk(member, len(part), hashlib.sha256(data).hexdigest()))
            # SQLAlchemy names are of a subclass of str, which msgspec does not take.
            dumps.append(TableDump(str(source.name), [str(column.name) for column in source.columns], chunks))
    manifest = Manifest(FORMAT, now_ms, migrations, dumps)
    _add(tar, _MANIFEST, msgspec.json.encode(manifest))
    return manifest


async def _clear_empty(connection: AsyncConnection) -> None:
    def names(sync: Connection) -> set[str]:
        return set(inspect(sync).get_table_names())

    present = await connection.run_sync(names)
    for name in sorted(present - {migrations_applied.name}):
        is_ours = name in METADATA.tables
        if not is_ours or (await connection.execute(select(func.count()).select_from(table(name)))).scalar_one():
            raise ConfigError(
                f"the database is not empty (table {name}): restore into a new one", code="database_not_empty"
            )
    for source in reversed(METADATA.tables.values()):  # those that refer to others come after them
        if source.name in present:
            await connection.execute(text(f'DROP TABLE "{source.name}"'))


async def _fill(connection: AsyncConnection, path: Path, manifest: Manifest) -> None:
    targets = {chunk.member: dump for dump in manifest.tables for chunk in dump.chunks}
    for name, data in _members(path):  # in the order of the dump: what is referred to comes first
        if name in targets:
            dump = targets[name]
            rows = msgspec.msgpack.decode(data, type=list[list[Any]])
            values = [dict(zip(dump.columns, row, strict=True)) for row in rows]
            await connection.execute(table(dump.name, *(column(name) for name in dump.columns)).insert(), values)


def _refuse_unknown_schema(manifest: Manifest) -> None:
    known = {migration.number: migration.checksum for migration in MIGRATIONS}
    if not manifest.migrations or any(known.get(number) != sum_ for number, sum_ in manifest.migrations.items()):
        raise ConfigError(
            f"the backup has schema {max(manifest.migrations, default=0)}, which is not one of this steelyard's "
            f"(it knows {max(known)}): use the release that wrote it, or a newer one",
            code="backup_schema",
        )


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, mode="r|gz") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() and member.size <= _MAX_CHUNK_BYTES else None
            if file is None:
                raise ValueError(f"{member.name} is no chunk of a backup")
            yield member.name, file.read()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
