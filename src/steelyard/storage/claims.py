"""One process per name: two gateways called alike would share lanes and take each other's slices for crashed.

1. A claim ends with the process however it dies: a file lock beside SQLite, an advisory lock in PostgreSQL.

Law: docs/spec/storage.md, section 5.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sqlalchemy import text

from steelyard.errors import ConfigError
from steelyard.storage.database import Database


@asynccontextmanager
async def claim_process(database: Database, process: str) -> AsyncIterator[None]:
    """Hold the name of a process while the block runs.

    Raises:
        ConfigError: a process of that name runs on this database already.
    """
    digest = hashlib.sha256(process.encode()).digest()
    taken = ConfigError(
        f"a process named {process!r} runs on this database already: stop it, or give this one another name "
        "(a node's and a validator's is its --wallet, a gateway's its --process)",
        code="process_name_taken",
    )
    if database.kind == "sqlite":
        with _lock_file(Path(f"{database.url.database}-{digest.hex()[:16]}.lock"), taken):
            yield
        return
    key = int.from_bytes(digest[:8], "big", signed=True)
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        if not (await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key})).scalar_one():
            raise taken
        try:
            yield
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


@contextmanager
def _lock_file(path: Path, taken: ConfigError) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise taken from error
        yield
