"""The evidence that a node keeps: written with its receipt's batch, served for a while, then forgotten.

1. It is one write with the batch, so whoever holds a signed receipt can ask for what it names.
2. It is served to the gateway that paid for the call alone: its tokens spell the answer.

Law: docs/spec/node.md, section 7.
"""

from __future__ import annotations

from sqlalchemy import delete, select

from steelyard.storage.database import Database
from steelyard.storage.operations import Row, Statement, insert_into
from steelyard.storage.schema import node_evidence

_INSERT = insert_into(node_evidence)
_AT_ONCE = 500


def keep_evidence(receipt_hash: bytes, gateway: bytes, evidence: bytes, *, until_ms: int) -> tuple[Statement, Row]:
    """Return the step that keeps a receipt's evidence, for the operation that writes its batch."""
    return _INSERT, (receipt_hash, gateway, evidence, until_ms)


async def load_evidence(database: Database, receipt_hash: bytes, gateway: bytes, *, now_ms: int) -> bytes | None:
    """Return the evidence of a receipt of this gateway's, or None: there is none, or not any more."""
    query = select(node_evidence.c.evidence).where(
        node_evidence.c.receipt_hash == receipt_hash,
        node_evidence.c.gateway == gateway,
        node_evidence.c.until_ms > now_ms,
    )
    async with database.read() as connection:
        found = (await connection.execute(query)).scalar()
    return None if found is None else bytes(found)


async def find_evidence(database: Database, receipt_hash: bytes) -> bytes | None:
    """Return the evidence of a receipt whoever's it is, as long as it is there: for a demand on chain."""
    query = select(node_evidence.c.evidence).where(node_evidence.c.receipt_hash == receipt_hash)
    async with database.read() as connection:
        found = (await connection.execute(query)).scalar()
    return None if found is None else bytes(found)


async def forget_evidence(database: Database, *, now_ms: int) -> int:
    """Forget what was kept long enough, in small transactions; return how many."""
    old = select(node_evidence.c.receipt_hash).where(node_evidence.c.until_ms <= now_ms).limit(_AT_ONCE)
    forgotten = 0
    while True:
        async with database.begin() as connection:
            gone = await connection.execute(delete(node_evidence).where(node_evidence.c.receipt_hash.in_(old)))
        forgotten += gone.rowcount
        if gone.rowcount < _AT_ONCE:
            return forgotten
