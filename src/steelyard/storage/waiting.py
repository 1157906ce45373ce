"""Checks that wait for evidence: what a validator knows of the call, and how far asking for it is.

1. A check begins to wait in the transaction that reads its call, and ends in the one that writes its verdict: a restart
   neither loses nor doubles it.

Law: docs/spec/storage.md; docs/spec/validator.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from steelyard.storage.database import Database
from steelyard.storage.schema import validator_waiting


class WaitingRow(msgspec.Struct, frozen=True):
    """One row of `validator_waiting`, its fields in the table's order.

    Args:
        epoch: of the call. content: the validator's own record of it. step: how far it is, the validator's number.
        due_s: when to go on, in Unix seconds of the chain; 0: at once. block: the chain's newest when it began.
    """

    receipt_hash: bytes
    epoch: int
    content: bytes
    step: int = 0
    due_s: int = 0
    block: int = 0


async def add_waiting(connection: AsyncConnection, rows: Iterable[WaitingRow]) -> None:
    """Write checks that begin to wait, inside the caller's transaction."""
    values = [msgspec.structs.asdict(row) for row in rows]
    if values:
        await connection.execute(insert(validator_waiting), values)


async def end_waiting(connection: AsyncConnection, receipt_hash: bytes) -> None:
    """Let a check wait no more, inside the transaction that writes its verdict."""
    await connection.execute(delete(validator_waiting).where(validator_waiting.c.receipt_hash == receipt_hash))


async def move_waiting(database: Database, row: WaitingRow) -> None:
    """Note how far a check is."""
    values = {"step": row.step, "due_s": row.due_s, "block": row.block}
    where = validator_waiting.c.receipt_hash == row.receipt_hash
    async with database.begin() as connection:
        await connection.execute(update(validator_waiting).where(where).values(**values))


async def load_waiting(database: Database) -> list[WaitingRow]:
    """Return the checks that wait, the oldest epoch first."""
    query = select(validator_waiting).order_by(validator_waiting.c.epoch, validator_waiting.c.receipt_hash)
    async with database.read() as connection:
        return [WaitingRow(*row) for row in await connection.execute(query)]


async def is_epoch_waiting(database: Database, epoch: int) -> bool:
    """Say whether a check of an epoch waits still."""
    query = select(validator_waiting.c.receipt_hash).where(validator_waiting.c.epoch == epoch).limit(1)
    async with database.read() as connection:
        return (await connection.execute(query)).first() is not None
