"""A validator's memory: feeds read, secrets, verdicts in the order in which they were reached, suspicions, votes.

1. What follows from one read of a feed (its place, the verdicts, the suspicions) is one transaction: a restart neither
   repeats nor skips a call.
2. A secret is on disk before its commitment leaves; a vote's salt before its hash does.
3. `material` is what a challenge would show; it is dropped once it can't be used any more.

Law: docs/spec/storage.md; docs/spec/validator.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from steelyard.storage.database import Database
from steelyard.storage.schema import (
    validator_feeds,
    validator_secrets,
    validator_suspicions,
    validator_verdicts,
    validator_votes,
    validator_waiting,
)
from steelyard.storage.waiting import WaitingRow, add_waiting, end_waiting

_AT_ONCE = 500


class VerdictRow(msgspec.Struct, frozen=True):
    """One row of `validator_verdicts`, its fields in the table's order.

    Args:
        number: counts up from 1. outcome: of `protocol.messages.Outcome`. reason: its stable word, "" for PASS.
        selected_by: ``rate``, ``boost``, ``newcomer`` or ``probe``. micro_nats: logarithm of the answer's e-value.
        evidence_hash: what the verdict's message names. material: for a challenge, or None.
    """

    number: int
    receipt_hash: bytes
    epoch: int
    provider: bytes
    service_id: bytes
    gateway: bytes
    outcome: int
    reason: str
    selected_by: str
    micro_nats: int
    tokens: int
    evidence_hash: bytes
    signature: bytes
    material: bytes | None
    created_ms: int


class SecretRow(msgspec.Struct, frozen=True):
    """A secret for one epoch, and what the chain knows of it."""

    epoch: int
    secret: bytes
    is_committed: bool
    is_revealed: bool


async def save_read(
    database: Database,
    gateway: bytes,
    feed_state: bytes,
    verdicts: Iterable[VerdictRow],
    suspicions: Iterable[tuple[bytes, bytes, bytes]],
    waiting: Iterable[WaitingRow] = (),
) -> None:
    """Write what a read of a gateway's feed came to; `suspicions` are (provider, service id, state)."""
    async with database.begin() as connection:
        await connection.execute(delete(validator_feeds).where(validator_feeds.c.gateway == gateway))
        await connection.execute(insert(validator_feeds).values(gateway=gateway, state=feed_state))
        await _add_verdicts(connection, verdicts, suspicions)
        await add_waiting(connection, waiting)


async def save_waited(
    database: Database, verdict: VerdictRow, suspicions: Iterable[tuple[bytes, bytes, bytes]]
) -> None:
    """Write the verdict on a call whose check waited for evidence, and let it wait no more."""
    async with database.begin() as connection:
        await _add_verdicts(connection, [verdict], suspicions)
        await end_waiting(connection, verdict.receipt_hash)


async def _add_verdicts(
    connection: AsyncConnection, verdicts: Iterable[VerdictRow], suspicions: Iterable[tuple[bytes, bytes, bytes]]
) -> None:
    rows = [msgspec.structs.asdict(row) for row in verdicts]
    if rows:
        await connection.execute(insert(validator_verdicts), rows)
    for provider, service_id, state in suspicions:
        where = (validator_suspicions.c.provider == provider, validator_suspicions.c.service_id == service_id)
        await connection.execute(delete(validator_suspicions).where(*where))
        await connection.execute(
            insert(validator_suspicions).values(provider=provider, service_id=service_id, state=state)
        )


async def load_feed(database: Database, gateway: bytes) -> bytes | None:
    """Return how far a gateway's feed was read, or None."""
    async with database.read() as connection:
        query = select(validator_feeds.c.state).where(validator_feeds.c.gateway == gateway)
        state: bytes | None = (await connection.execute(query)).scalar_one_or_none()
        return state


async def load_suspicions(database: Database) -> dict[tuple[bytes, bytes], bytes]:
    """Return all suspicions by (provider, service id)."""
    async with database.read() as connection:
        rows = await connection.execute(select(validator_suspicions))
        return {(provider, service_id): state for provider, service_id, state in rows}


async def last_number(database: Database) -> int:
    """Return the number of the last verdict, 0 before the first."""
    async with database.read() as connection:
        query = select(func.coalesce(func.max(validator_verdicts.c.number), 0))
        return int((await connection.execute(query)).scalar_one())


async def load_verdicts(
    database: Database,
    *,
    epoch: int | None = None,
    pair: tuple[bytes, bytes] | None = None,
    after: int = 0,
    limit: int = 100_000,
) -> list[VerdictRow]:
    """Return verdicts in their order: of one epoch, of one (provider, service id), or all after a number."""
    query = select(validator_verdicts).where(validator_verdicts.c.number > after)
    if epoch is not None:
        query = query.where(validator_verdicts.c.epoch == epoch)
    if pair is not None:
        query = query.where(validator_verdicts.c.provider == pair[0], validator_verdicts.c.service_id == pair[1])
    async with database.read() as connection:
        rows = await connection.execute(query.order_by(validator_verdicts.c.number).limit(limit))
        return [VerdictRow(*row) for row in rows]


async def load_verdicts_on(database: Database, receipts: Sequence[bytes]) -> list[VerdictRow]:
    """Return the verdicts on some receipts, in their order."""
    found: list[VerdictRow] = []
    async with database.read() as connection:
        for start in range(0, len(receipts), _AT_ONCE):
            part = receipts[start : start + _AT_ONCE]
            query = select(validator_verdicts).where(validator_verdicts.c.receipt_hash.in_(part))
            found += [VerdictRow(*row) for row in await connection.execute(query)]
    return sorted(found, key=lambda row: row.number)


async def known_receipts(database: Database, receipts: Sequence[bytes]) -> set[bytes]:
    """Return those of the receipts on which there is a verdict, or a check that waits for evidence."""
    async with database.read() as connection:
        known: set[bytes] = set()
        for table in (validator_verdicts, validator_waiting):
            query = select(table.c.receipt_hash).where(table.c.receipt_hash.in_(receipts))
            known |= set((await connection.execute(query)).scalars())
        return known


async def forget_material(database: Database, before_ms: int) -> None:
    """Drop what challenges would show of verdicts reached before a time."""
    where = (validator_verdicts.c.created_ms < before_ms, validator_verdicts.c.material.is_not(None))
    async with database.begin() as connection:
        await connection.execute(update(validator_verdicts).where(*where).values(material=None))


async def save_secret(database: Database, epoch: int, secret: bytes) -> None:
    """Keep the secret of an epoch; a second one for it is a failed insert."""
    async with database.begin() as connection:
        await connection.execute(
            insert(validator_secrets).values(epoch=epoch, secret=secret, is_committed=0, is_revealed=0)
        )


async def mark_secret(database: Database, epoch: int, *, is_committed: bool = True, is_revealed: bool = False) -> None:
    """Note what the chain knows of a secret."""
    values = {"is_committed": int(is_committed), "is_revealed": int(is_revealed)}
    async with database.begin() as connection:
        await connection.execute(update(validator_secrets).where(validator_secrets.c.epoch == epoch).values(**values))


async def load_secrets(database: Database, *, since: int = 0) -> dict[int, SecretRow]:
    """Return the secrets of all epochs from one on."""
    query = select(validator_secrets).where(validator_secrets.c.epoch >= since)
    async with database.read() as connection:
        rows = await connection.execute(query)
        return {epoch: SecretRow(epoch, secret, bool(done), bool(shown)) for epoch, secret, done, shown in rows}


async def save_vote(database: Database, case_id: int, epoch: int, vote: int, salt: bytes) -> None:
    """Keep a vote (`Outcome`) on a case's panel before its hash leaves; a second one is a failed insert."""
    async with database.begin() as connection:
        await connection.execute(insert(validator_votes).values(case_id=case_id, epoch=epoch, vote=vote, salt=salt))


async def load_vote(database: Database, case_id: int, epoch: int) -> tuple[int, bytes] | None:
    """Return (vote, salt) that was kept for a panel, or None."""
    query = select(validator_votes.c.vote, validator_votes.c.salt).where(
        validator_votes.c.case_id == case_id, validator_votes.c.epoch == epoch
    )
    async with database.read() as connection:
        row = (await connection.execute(query)).first()
        return None if row is None else (int(row[0]), row[1])
