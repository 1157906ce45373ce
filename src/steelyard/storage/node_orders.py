"""The orders that a node has receipts for: what it must still know after a restart, so that none is run twice.

1. A replayed order would give two receipts for one order and part, a provable lie; the table refuses it, and the node
   refuses it before the work.

Law: docs/spec/node.md, section 2.
"""

from __future__ import annotations

from sqlalchemy import and_, select

from steelyard.storage.database import Database
from steelyard.storage.schema import node_batches, node_receipts


async def load_order_bytes(database: Database, *, since_ms: int) -> list[bytes]:
    """Return the orders (msgpack) whose receipts were batched at or after a Unix time in milliseconds."""
    query = (
        select(node_receipts.c.order_bytes)
        .join(
            node_batches,
            and_(node_batches.c.lane_key == node_receipts.c.lane_key, node_batches.c.seq == node_receipts.c.batch_seq),
        )
        .where(node_batches.c.created_ms >= since_ms)
    )
    async with database.read() as connection:
        return list((await connection.execute(query)).scalars())
