"""Idempotency keys: the same request twice is done once and answered twice.

1. Beginning is an insert: of two requests with one key, one wins, whichever process they reach.
2. A request that did not end is forgotten, so that it can be tried again; a process that died forgets at its start.

Law: docs/spec/storage.md, section 8.
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from steelyard.errors import Conflict
from steelyard.storage.database import Database
from steelyard.storage.schema import idempotency


async def begin_request(
    database: Database,
    key_id: str,
    idem_key: str,
    request_hash: bytes,
    *,
    process: str,
    now_ms: int,
    expires_ms: int,
) -> bytes | None:
    """Claim an idempotency key: None means go on (then `finish_request` or `drop_request`), bytes are the answer.

    Raises:
        Conflict: the key came before with another body (`idempotency_mismatch`), or its first request still runs
            (`idempotency_running`).
    """
    mine = (idempotency.c.key_id == key_id, idempotency.c.idem_key == idem_key)
    row = (key_id, idem_key, request_hash, process, "running", None, now_ms, expires_ms)
    names = (column.name for column in idempotency.c)
    async with database.begin() as connection:
        await connection.execute(delete(idempotency).where(*mine, idempotency.c.expires_ms <= now_ms))
        try:
            async with connection.begin_nested():
                await connection.execute(insert(idempotency).values(dict(zip(names, row, strict=True))))
            return None
        except IntegrityError:
            earlier = (await connection.execute(select(idempotency).where(*mine))).first()
    if earlier is not None and earlier.request_hash != request_hash:
        raise Conflict(
            f"Idempotency-Key {idem_key!r} came before with another body: use a new key for a new request",
            code="idempotency_mismatch",
        )
    if earlier is None or earlier.state == "running":
        raise Conflict(
            f"the first request with Idempotency-Key {idem_key!r} still runs: retry in a second",
            code="idempotency_running",
            retry_after_s=1.0,
        )
    return bytes(earlier.response)


async def finish_request(database: Database, key_id: str, idem_key: str, response: bytes) -> None:
    """Keep the answer of a request for whoever sends it again."""
    mine = (idempotency.c.key_id == key_id, idempotency.c.idem_key == idem_key)
    async with database.begin() as connection:
        await connection.execute(update(idempotency).where(*mine).values(state="done", response=response))


async def drop_request(database: Database, key_id: str, idem_key: str) -> None:
    """Forget a request that did not end with an answer worth keeping: it may be tried again."""
    await _delete(
        database, idempotency.c.key_id == key_id, idempotency.c.idem_key == idem_key, idempotency.c.state == "running"
    )


async def drop_crashed(database: Database, process: str) -> int:
    """Forget what a process of this name left running; called at its start. Returns how many there were."""
    return await _delete(database, idempotency.c.process == process, idempotency.c.state == "running")


async def drop_expired(database: Database, *, now_ms: int) -> int:
    """Forget what expired; returns how many there were."""
    return await _delete(database, idempotency.c.expires_ms <= now_ms)


async def _delete(database: Database, *where: object) -> int:
    async with database.begin() as connection:
        return (await connection.execute(delete(idempotency).where(*where))).rowcount  # type: ignore[arg-type]
