"""A database of an earlier schema goes on with this one: nothing that it knew is lost, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from tests.databases import KINDS, empty_database_url
from tests.ledger_rows import call_row, digest, lane_of, receipt_row
from tests.link_world import build_order

from steelyard.errors import Fault
from steelyard.protocol.messages import Lane
from steelyard.storage import calls, lanes, node_ledger
from steelyard.storage.database import Database, connect_lazily, open_database, parse_url
from steelyard.storage.migrate import migrate
from steelyard.storage.migrations import MIGRATIONS
from steelyard.storage.operations import Operation
from steelyard.storage.writer import open_writer

pytestmark = pytest.mark.parametrize("kind", KINDS)

LANE = lane_of(1)
LEAVES = [digest("receipt", number) for number in range(4)]


async def make_first_schema(url: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Make a database of schema 1 with these rows by table."""
    database = connect_lazily(parse_url(url))
    async with database.begin() as connection:
        await migrate(connection, MIGRATIONS[:1])
        for table, values in rows.items():
            columns = list(values[0])
            named = ", ".join(f":{column}" for column in columns)
            await connection.execute(text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({named})"), values)
    await database.aclose()


def first_call(number: int, batch_seq: int | None, leaf_index: int | None, **changed: Any) -> dict[str, Any]:
    """Return a row of schema 1's `calls`."""
    row = {**msgspec.structs.asdict(call_row(number, LANE)), **changed}
    del row["after_seq"], row["why"], row["charged_nano"]
    return {**row, "batch_seq": batch_seq, "leaf_index": leaf_index}


def lane_columns(lane: Lane) -> dict[str, Any]:
    """Return the columns that every lane's row begins with."""
    names = ("lane_key", "gateway", "provider", "service_id", "lane_id")
    values = (lane.key, lane.gateway, lane.provider, lane.service_id, lane.lane_id.to_bytes(8, "big"))
    return dict(zip(names, values, strict=True))


def batch_columns(seq: int, leaves: list[bytes], total: int) -> dict[str, Any]:
    """Return a row of `batches`."""
    return {
        "lane_key": LANE.key,
        "seq": seq,
        "prev_head": digest("head", seq - 1),
        "head": digest("head", seq),
        "receipts_root": digest("root", seq),
        "count": len(leaves),
        "total_count": total,
        "cumulative_nano": 7 * total,
        "signature": b"s" * 65,
        "leaves": b"".join(leaves),
        "created_ms": seq,
    }


async def refuse(database: Database, operation: Operation) -> None:
    """Await that the writer of a database refuses a write."""

    def crash(error: BaseException) -> None:
        raise AssertionError(error)

    writer = await open_writer(database, on_failure=lambda *_: None, on_crash=crash)
    with pytest.raises(Fault, match="refused"):
        await writer.submit_flushed(operation)
    await writer.aclose()


def test_calls_of_the_first_schema_are_found_in_their_batches(kind: str) -> None:
    """Rows, their places and the guard against paying twice survive; calls without a batch wait for a later one."""

    async def main() -> None:
        async with empty_database_url(kind) as url:
            lane = {**lane_columns(LANE), "process": "g", "seq": 2, "head": digest("head", 2), "opened_ms": 1}
            lost = {"status": "lost", "receipt_hash": None, "receipt_bytes": None, "cost_nano": 0}
            rows = [first_call(0, 1, 0), first_call(1, 1, 1), first_call(2, 2, 0), first_call(3, None, None)]
            await make_first_schema(
                url,
                {
                    "lanes": [{**lane, "batched_count": 3, "signed_head": bytes(32)}],
                    "batches": [batch_columns(1, LEAVES[:2], 2), batch_columns(2, LEAVES[2:3], 3)],
                    "calls": [*rows, first_call(4, None, None, **lost)],
                },
            )
            database = await open_database(url)
            found = [(await calls.find_call(database, call_row(number).call_id))[0] for number in range(5)]
            assert [row.after_seq for row in found] == [0, 0, 1, 2, 2]
            assert msgspec.structs.replace(found[2], after_seq=0) == call_row(2, LANE)
            assert found[4].receipt_hash is None
            places = [await lanes.find_place(database, LANE, row) for row in found]
            assert [place and (place[0].signed.batch.seq, place[1]) for place in places] == [
                (1, 0),
                (1, 1),
                (2, 0),
                None,
                None,
            ]
            await refuse(database, calls.insert_call(call_row(1, LANE)))
            await database.aclose()

    asyncio.run(main())


def test_receipts_of_the_first_schema_stay_a_refusal_to_sign_again(kind: str) -> None:
    """The node's receipts are read back in order, and none of their orders can be billed a second time."""

    async def main() -> None:
        async with empty_database_url(kind) as url:
            orders = [build_order(bytes([number]) * 16, 10**13) for number in range(3)]
            receipts = [
                msgspec.structs.replace(
                    receipt_row(number),
                    call_id=order.call_id,
                    order_hash=order.struct_hash(),
                    order_bytes=msgspec.msgpack.encode(order),
                )
                for number, order in enumerate(orders)
            ]
            first = [
                {
                    name: value
                    for name, value in {
                        **msgspec.structs.asdict(receipt),
                        "lane_key": LANE.key,
                        "batch_seq": 1,
                        "leaf_index": leaf,
                    }.items()
                    if name != "call_id"
                }
                for leaf, receipt in enumerate(receipts)
            ]
            lane = {**lane_columns(LANE), "seq": 1, "head": digest("head", 1), "count": 3, "cumulative_nano": 21}
            await make_first_schema(
                url,
                {
                    "node_lanes": [{**lane, "voucher_head": bytes(32), "opened_ms": 1}],
                    "node_batches": [batch_columns(1, LEAVES[:3], 3)],
                    "node_receipts": first,
                },
            )
            database = await open_database(url)
            assert await node_ledger.load_receipts(database, LANE.key, to_seq=1) == receipts
            (known,) = await node_ledger.load_lanes(database)
            after = msgspec.structs.replace(known.state, seq=2, head=digest("head", 2), count=4, cumulative=28)
            stored = (await node_ledger.load_batches(database, LANE))[0].signed
            batch = msgspec.structs.replace(stored.batch, seq=2, prev_head=known.state.head, count=1, cumulative=28)
            again = msgspec.structs.replace(stored, batch=batch)
            await refuse(database, node_ledger.record_batch(after, again, [receipts[1]], now_ms=2))
            await database.aclose()

    asyncio.run(main())
