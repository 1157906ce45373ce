"""What checks need of storage, on both databases: evidence that is kept for a while, and the feed of batches."""

from __future__ import annotations

import asyncio

import pytest
from tests.databases import KINDS
from tests.integration.test_storage_lanes import batch_of, open_both
from tests.ledger_rows import call_row, digest, fresh, lane_of, next_batch

from steelyard.protocol.messages import Lane
from steelyard.storage import batch_feed, calls, lanes, node_evidence
from steelyard.storage.operations import Operation
from steelyard.storage.writer import GroupWriter

pytestmark = pytest.mark.parametrize("kind", KINDS)

GATEWAY, OTHER = b"g" * 20, b"h" * 20


async def keep(writer: GroupWriter, number: int, until_ms: int, gateway: bytes = GATEWAY) -> None:
    """Keep some evidence."""
    step = node_evidence.keep_evidence(digest("receipt", number), gateway, b"%d" % number * 5000, until_ms=until_ms)
    await writer.submit_flushed(Operation((step,)))


def test_evidence_is_served_to_its_gateway_until_its_time(kind: str) -> None:
    """Whole, to the gateway that paid, and neither to another nor after its time."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            await keep(writer, 1, 1_000)
            found = await node_evidence.load_evidence(database, digest("receipt", 1), GATEWAY, now_ms=999)
            assert found == b"1" * 5000
            for receipt, gateway, now_ms in ((1, OTHER, 0), (1, GATEWAY, 1_000), (2, GATEWAY, 0)):
                asked = digest("receipt", receipt)
                assert await node_evidence.load_evidence(database, asked, gateway, now_ms=now_ms) is None

    asyncio.run(main())


def test_evidence_is_forgotten_after_its_time_and_not_before(kind: str) -> None:
    """Whatever is past goes, however much there is; the rest stays."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            steps = tuple(
                node_evidence.keep_evidence(digest("receipt", n), GATEWAY, b"x", until_ms=n) for n in range(1_200)
            )
            await writer.submit_flushed(Operation(steps))
            assert await node_evidence.forget_evidence(database, now_ms=1_100) == 1_101
            assert await node_evidence.forget_evidence(database, now_ms=1_100) == 0
            left = [
                await node_evidence.load_evidence(database, digest("receipt", n), GATEWAY, now_ms=0)
                for n in (1_100, 1_101)
            ]
            assert left == [None, b"x"]

    asyncio.run(main())


async def add_batch(writer: GroupWriter, lane: Lane, first: int, count: int) -> None:
    """Write a lane's first batch with its calls."""
    writer.submit(lanes.open_lane(lane, "gateway-0", now_ms=5))
    for number in range(first, first + count):
        writer.submit(calls.insert_call(call_row(number, lane)))
    after, signed = next_batch(fresh(lane), count, count * 7)
    noted = batch_feed.note_calls(lane.key, 1, [digest("call", n)[:16] for n in range(first, first + count)])
    await writer.submit_flushed(Operation((*batch_of(after, signed, first, count).steps, noted)))


def test_feed_gives_each_batch_once_with_its_calls_in_the_order_of_its_leaves(kind: str) -> None:
    """Numbers begin at 1 without a gap; what came later has a higher one; a page ends where it was asked to."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            assert await batch_feed.load_feed(database, GATEWAY, after=0, limit=9) == []
            assert await batch_feed.find_cursor(database, lane_of(1), 1) is None
            await add_batch(writer, lane_of(1), 0, 3)
            (first,) = await batch_feed.load_feed(database, GATEWAY, after=0, limit=9)
            assert (first.cursor, first.stored.signed.batch.lane) == (1, lane_of(1))
            assert [call.receipt_hash for call in first.calls if call] == list(first.stored.leaves)
            assert first.stored.leaves == tuple(digest("receipt", n) for n in range(3))
            for number in (2, 3, 4):
                await add_batch(writer, lane_of(number), number * 10, 2)
            assert [fed.cursor for fed in await batch_feed.load_feed(database, GATEWAY, after=1, limit=2)] == [2, 3]
            assert [fed.cursor for fed in await batch_feed.load_feed(database, GATEWAY, after=3, limit=2)] == [4]
            assert await batch_feed.load_feed(database, OTHER, after=0, limit=9) == []
            assert await batch_feed.find_cursor(database, lane_of(1), 1) == 1

    asyncio.run(main())


def test_feed_read_by_many_at_once_gives_one_number_to_a_batch(kind: str) -> None:
    """Readers that number at the same time agree, and numbers are distinct."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            for number in range(8):
                await add_batch(writer, lane_of(number), number * 10, 1)
            seen = await asyncio.gather(*(batch_feed.load_feed(database, GATEWAY, after=0, limit=50) for _ in range(4)))
            for fed in seen:
                assert [one.cursor for one in fed] == list(range(1, 9))
                assert [one.stored for one in fed] == [one.stored for one in seen[0]]

    asyncio.run(main())


def test_feed_shows_a_lost_row_as_none(kind: str) -> None:
    """A batch whose call's row is not there is told from one that is whole."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane = lane_of(1)
            writer.submit(lanes.open_lane(lane, "gateway-0", now_ms=5))
            writer.submit(calls.insert_call(call_row(0, lane)))
            after, signed = next_batch(fresh(lane), 2, 14)
            noted = batch_feed.note_calls(lane.key, 1, [digest("call", n)[:16] for n in (0, 1)])
            await writer.submit_flushed(Operation((*batch_of(after, signed, 0, 2).steps, noted)))
            (fed,) = await batch_feed.load_feed(database, GATEWAY, after=0, limit=9)
            assert [call is None for call in fed.calls] == [False, True]

    asyncio.run(main())
