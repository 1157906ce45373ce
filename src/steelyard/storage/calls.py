"""The gateway's calls: one row per order that reached a provider, written when it ended.

1. An order is paid for once: its call id and hash are the key, a second row with them is a failed insert. The call id
   is inside the hash, so the hash alone decides; it comes first because it is led by the gateway's clock. A receipt
   that comes late fills a row that has none.
2. A row is not touched again when a batch proves its receipt: `after_seq` says where the lane stood when the receipt
   came, and the batch is one of those after it (`lanes.find_place`).
3. No prompt and no answer is kept here: hashes, numbers and the salt that opens the hashes for the client.

Law: docs/spec/storage.md, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, func, select, tuple_, update

from steelyard.storage.amounts import checked_nano
from steelyard.storage.database import Database
from steelyard.storage.operations import Operation, Statement, insert_into
from steelyard.storage.schema import calls

_INSERT = insert_into(calls)
_FILL = Statement(
    "fill calls",
    update(calls)
    .where(
        calls.c.call_id == bindparam("of_call"),
        calls.c.order_hash == bindparam("of_order"),
        calls.c.receipt_hash.is_(None),
    )
    .values(
        status=bindparam("to_status"),
        receipt_hash=bindparam("to_receipt_hash"),
        receipt_bytes=bindparam("to_receipt_bytes"),
        cost_nano=bindparam("to_cost"),
        charged_nano=bindparam("to_charged"),
        finished_ms=bindparam("to_finished"),
        after_seq=bindparam("to_after_seq"),
    ),
    (
        "of_call",
        "of_order",
        "to_status",
        "to_receipt_hash",
        "to_receipt_bytes",
        "to_cost",
        "to_charged",
        "to_finished",
        "to_after_seq",
    ),
)


class CallRow(msgspec.Struct, frozen=True):
    """One row of `calls`, its fields in the table's order. A struct, not a dataclass: it is built on the hot path.

    Args:
        order_hash, receipt_hash: 32 bytes; receipt fields are None while no receipt came. call_id: 16 bytes.
        key_id: the API key, None for a call that the gateway no longer knew (rebuilt from its tag).
        run_id: the run of the gateway process whose slices paid for it. salt: 32 bytes, None if it is lost.
        order_bytes, receipt_bytes: msgpack of `Order` and `Receipt`. cost_nano: 0 without a receipt.
        status: `done`, `cut`, `failed`, or another word of the gateway's.
        after_seq: how many batches the lane had when the receipt came; its own batch is a later one.
        charged_nano: what the key paid with this order, of the order itself or others of the call; None on rows from
            before it was kept: then it is the cost.
        why: how the provider was chosen and who was passed over, as the gateway packs it; None if it isn't known.
    """

    order_hash: bytes
    call_id: bytes
    key_id: str | None
    run_id: bytes | None
    provider: bytes
    service_id: bytes
    lane_key: bytes
    order_bytes: bytes
    salt: bytes | None
    status: str
    receipt_hash: bytes | None
    receipt_bytes: bytes | None
    cost_nano: int
    created_ms: int
    finished_ms: int
    after_seq: int = 0
    why: bytes | None = None
    charged_nano: int | None = None


def insert_call(row: CallRow) -> Operation:
    """Return the write of a call that ended.

    Raises:
        BadRequest: its cost is more than the database can hold.
    """
    checked_nano(row.cost_nano, "cost_nano")
    checked_nano(row.charged_nano or 0, "charged_nano")
    return Operation(((_INSERT, msgspec.structs.astuple(row)),))


def fill_call(row: CallRow) -> Operation:
    """Return the write of a receipt that came after its call's row was given up as lost.

    Its status, receipt, cost, charge, finish and `after_seq` are set; it fails without a row, or on one with a receipt.

    Raises:
        BadRequest: its cost is more than the database can hold.
    """
    cost = checked_nano(row.cost_nano, "cost_nano")
    receipt = (row.receipt_hash, row.receipt_bytes, cost, row.charged_nano, row.finished_ms, row.after_seq)
    return Operation(((_FILL, (row.call_id, row.order_hash, row.status, *receipt)),))


async def find_call(database: Database, call_id: bytes) -> list[CallRow]:
    """Return the orders that were sent for a call, the first one first; more than one if a provider failed."""
    query = select(calls).where(calls.c.call_id == call_id).order_by(calls.c.created_ms)
    async with database.read() as connection:
        return [CallRow(*row) for row in await connection.execute(query)]


async def list_calls(
    database: Database,
    *,
    key_id: str | None = None,
    before_ms: int | None = None,
    limit: int = 50,
) -> list[CallRow]:
    """Return the latest calls, newest first, of one key or of all, created before a time."""
    query = select(calls).order_by(calls.c.created_ms.desc()).limit(limit)
    if key_id is not None:
        query = query.where(calls.c.key_id == key_id)
    if before_ms is not None:
        query = query.where(calls.c.created_ms < before_ms)
    async with database.read() as connection:
        return [CallRow(*row) for row in await connection.execute(query)]


async def known_orders(database: Database, orders: Sequence[tuple[bytes, bytes]]) -> dict[bytes, CallRow]:
    """Return those of the orders (call id and hash) that have a row, by hash: what must not be counted twice."""
    query = select(calls).where(tuple_(calls.c.call_id, calls.c.order_hash).in_(orders))
    async with database.read() as connection:
        return {row[0]: CallRow(*row) for row in await connection.execute(query)}


async def spent_in_run(database: Database, run_id: bytes, *, key_id: str | None = None, since_ms: int = 0) -> int:
    """Return what the calls of one run cost in nano, or what one key paid for its own: what a slice is reconciled to.

    Args:
        since_ms: when the run began, so that older rows need not be looked at.
    """
    amount = calls.c.cost_nano if key_id is None else func.coalesce(calls.c.charged_nano, calls.c.cost_nano)
    query = select(func.coalesce(func.sum(amount), 0)).where(calls.c.run_id == run_id, calls.c.created_ms >= since_ms)
    if key_id is not None:
        query = query.where(calls.c.key_id == key_id)
    async with database.read() as connection:
        return int((await connection.execute(query)).scalar_one())
