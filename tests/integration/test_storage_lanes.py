"""Both sides of a lane in the database: what only goes up, what is refused twice, what is found after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.databases import KINDS, open_test_database
from tests.ledger_rows import call_row, digest, fresh, lane_of, next_batch, receipt_row, voucher_for

from steelyard.errors import BadRequest, Fault
from steelyard.protocol.lanes import LaneState, SignedBatch
from steelyard.storage import calls, lanes, node_ledger
from steelyard.storage.database import Database
from steelyard.storage.operations import Operation
from steelyard.storage.writer import GroupWriter, open_writer

pytestmark = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def open_both(kind: str) -> AsyncIterator[tuple[Database, GroupWriter]]:
    """Give an empty database and a writer that must neither refuse unasked nor crash."""

    def fail(*told: object) -> None:
        raise AssertionError(told)

    async with open_test_database(kind) as database:
        writer = await open_writer(database, on_failure=fail, on_crash=fail)
        try:
            yield database, writer
        finally:
            await writer.aclose()


async def refuse(writer: GroupWriter, operation: Operation) -> None:
    """Await that the database refuses a write."""
    with pytest.raises(Fault) as fault:
        await writer.submit_flushed(operation)
    assert fault.value.code == "write_refused"


def batch_of(state: LaneState, signed: SignedBatch, first: int, count: int) -> Operation:
    """Return the gateway's write of a batch of the calls `first` to `first + count - 1`."""
    numbers = range(first, first + count)
    return lanes.record_batch(state, signed, [digest("receipt", n) for n in numbers], now_ms=1)


def test_gateway_lane_is_found_again_as_it_was_left(kind: str) -> None:
    """Lanes, batches, vouchers and the calls' places come back after a restart, whole uint64 lane ids included."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane, other = lane_of(1), lane_of(2)
            states, signed = [fresh(lane)], []
            writer.submit(lanes.open_lane(lane, "gateway-0", now_ms=5))
            writer.submit(lanes.open_lane(other, "gateway-1", now_ms=6))
            for number in range(70):
                writer.submit(calls.insert_call(call_row(number, lane)))
            for seq, count in ((1, 64), (2, 3)):
                after, batch = next_batch(states[-1], count, count * 7)
                states.append(after)
                signed.append(batch)
                await writer.submit_flushed(batch_of(after, batch, 0 if seq == 1 else 64, count))
            await writer.submit_flushed(lanes.record_voucher(voucher_for(states[1]), now_ms=8))
            (found,) = await lanes.load_lanes(database, process="gateway-0")
            assert found == lanes.GatewayLane(states[2], "gateway-0", 64 * 7, 64, states[1].head, 5)
            assert [found.state for found in await lanes.load_lanes(database)] == [states[2], fresh(other)]
            assert [found.process for found in await lanes.load_lanes(database, provider=other.provider)] == [
                "gateway-1"
            ]
            stored = await lanes.load_batches(database, lane)
            assert [batch.signed for batch in stored] == signed
            assert [batch.head for batch in stored] == [states[1].head, states[2].head]
            assert stored[1].leaves == tuple(digest("receipt", n) for n in (64, 65, 66))
            assert [batch.total_count for batch in await lanes.load_batches(database, lane, after_seq=1)] == [67]
            assert await lanes.last_voucher(database, lane) == voucher_for(states[1])
            assert await lanes.last_voucher(database, other) is None

    asyncio.run(main())


def test_call_is_found_in_the_batch_that_proves_its_receipt(kind: str) -> None:
    """Batch and leaf are found after where the lane stood at the receipt; a receipt that no batch holds has none."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane, other = lane_of(1), lane_of(2)
            state, states = fresh(lane), []
            writer.submit(lanes.open_lane(lane, "gateway-0", now_ms=5))
            writer.submit(lanes.open_lane(other, "gateway-0", now_ms=6))
            for seq, count in ((1, 64), (2, 3), (3, 1)):
                state, batch = next_batch(state, count, count * 7)
                states.append(state)
                first = {1: 0, 2: 64, 3: 66}[seq]  # the third repeats the last one of the second
                await writer.submit_flushed(batch_of(state, batch, first, count))
            places = {}
            for number, after_seq in ((0, 0), (63, 0), (65, 0), (65, 1), (66, 2), (65, 2), (67, 0)):
                row = msgspec.structs.replace(call_row(number, lane), after_seq=after_seq)
                found = await lanes.find_place(database, lane, row)
                places[number, after_seq] = found and (found[0].signed.batch.seq, found[0].head, found[1])
            heads = [state.head for state in states]
            assert places == {
                (0, 0): (1, heads[0], 0),
                (63, 0): (1, heads[0], 63),
                (65, 0): (2, heads[1], 1),
                (65, 1): (2, heads[1], 1),
                (66, 2): (3, heads[2], 0),
                (65, 2): None,
                (67, 0): None,
            }
            assert await lanes.find_place(database, other, call_row(0, other)) is None
            failed = msgspec.structs.replace(call_row(0, lane), receipt_hash=None)
            assert await lanes.find_place(database, lane, failed) is None

    asyncio.run(main())


def test_receipt_seen_across_two_leaves_is_in_no_batch(kind: str) -> None:
    """Bytes that only stand over the border of two hashes are no leaf."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane = lane_of(1)
            state, batch = next_batch(fresh(lane), 2, 14)
            writer.submit(lanes.open_lane(lane, "gateway-0", now_ms=5))
            await writer.submit_flushed(batch_of(state, batch, 0, 2))
            across = (digest("receipt", 0) + digest("receipt", 1))[16:48]
            row = msgspec.structs.replace(call_row(0, lane), receipt_hash=across)
            assert await lanes.find_place(database, lane, row) is None

    asyncio.run(main())


def test_gateway_lane_refuses_what_does_not_follow(kind: str) -> None:
    """A second lane, a batch out of order, under another head or for less: a failed write that changes nothing."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane = lane_of(1)
            first, batch = next_batch(fresh(lane), 2, 20)
            second, next_ = next_batch(first, 1, 5)
            await writer.submit_flushed(lanes.open_lane(lane, "gateway-0", now_ms=5))
            await refuse(writer, lanes.open_lane(lane, "gateway-1", now_ms=6))
            await refuse(writer, batch_of(second, next_, 0, 1))
            await writer.submit_flushed(batch_of(first, batch, 0, 2))
            await refuse(writer, batch_of(first, batch, 0, 2))
            fork, forked = next_batch(msgspec.structs.replace(first, head=digest("fork")), 1, 5)
            await refuse(writer, batch_of(fork, forked, 2, 1))
            less, lower = next_batch(first, 1, -1)
            await refuse(writer, batch_of(less, lower, 2, 1))
            assert (await lanes.load_lanes(database))[0].state == first
            assert len(await lanes.load_batches(database, lane)) == 1
            unknown, stray = next_batch(fresh(lane_of(9)), 1, 5)
            await refuse(writer, batch_of(unknown, stray, 2, 1))

    asyncio.run(main())


def test_gateway_never_signs_twice_or_for_less_or_for_more(kind: str) -> None:
    """A second voucher for one count, a lower total, one above what was batched: each is a failed write."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane = lane_of(1)
            states = [fresh(lane)]
            writer.submit(lanes.open_lane(lane, "gateway-0", now_ms=5))
            for seq in range(3):
                after, batch = next_batch(states[-1], 1, 10)
                states.append(after)
                await writer.submit_flushed(batch_of(after, batch, seq, 1))
            await writer.submit_flushed(lanes.record_voucher(voucher_for(states[2]), now_ms=1))
            await refuse(writer, lanes.record_voucher(voucher_for(states[2]), now_ms=2))
            await refuse(writer, lanes.record_voucher(voucher_for(states[1]), now_ms=2))
            more, _ = next_batch(states[3], 1, 10)
            await refuse(writer, lanes.record_voucher(voucher_for(more), now_ms=2))
            dearer = msgspec.structs.replace(states[3], cumulative=31)
            await refuse(writer, lanes.record_voucher(voucher_for(dearer), now_ms=2))
            cheaper = msgspec.structs.replace(states[3], cumulative=19)
            await refuse(writer, lanes.record_voucher(voucher_for(cheaper), now_ms=2))
            assert (await lanes.load_lanes(database))[0].signed_cumulative_nano == 20
            await writer.submit_flushed(lanes.record_voucher(voucher_for(states[3]), now_ms=3))
            assert await lanes.last_voucher(database, lane) == voucher_for(states[3])

    asyncio.run(main())


def test_total_beyond_the_database_is_refused_before_it_is_written(kind: str) -> None:
    """A uint128 that no column holds is a refusal of its own, not a wrapped number."""

    async def main() -> None:
        async with open_both(kind) as (_, writer):
            after, batch = next_batch(fresh(lane_of(1)), 1, 2**63)
            with pytest.raises(BadRequest, match="cumulative"):
                batch_of(after, batch, 0, 1)
            with pytest.raises(BadRequest, match="cumulative"):
                lanes.record_voucher(voucher_for(after), now_ms=1)
            with pytest.raises(BadRequest, match="cost_nano"):
                calls.insert_call(call_row(1, cost_nano=-1))
            await writer.flush()

    asyncio.run(main())


def node_batch(state: LaneState, signed: SignedBatch, first: int, count: int) -> Operation:
    """Return the node's write of a batch of the receipts `first` to `first + count - 1`."""
    return node_ledger.record_batch(state, signed, [receipt_row(first + n) for n in range(count)], now_ms=1)


def test_node_lane_is_found_again_as_it_was_left(kind: str) -> None:
    """Lanes, batches with their receipts, heads and the best voucher come back after a restart."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane = lane_of(3)
            first, batch = next_batch(fresh(lane), 3, 21)
            second, next_ = next_batch(first, 2, 14)
            writer.submit(node_ledger.open_lane(lane, now_ms=4))
            await writer.submit_flushed(node_batch(first, batch, 0, 3))
            await writer.submit_flushed(node_batch(second, next_, 3, 2))
            await writer.submit_flushed(node_ledger.record_voucher(voucher_for(first), now_ms=2))
            (found,) = await node_ledger.load_lanes(database)
            assert found == node_ledger.NodeLane(second, 21, 3, first.head, 0, 0, 4)
            assert await node_ledger.load_lanes(database, gateway=b"x" * 20) == []
            stored = await node_ledger.load_batches(database, lane, after_seq=1)
            assert [(item.signed, item.head, item.total_count) for item in stored] == [(next_, second.head, 5)]
            receipts = await node_ledger.load_receipts(database, lane.key, to_seq=2)
            assert receipts == [receipt_row(number) for number in range(5)]
            assert await node_ledger.load_receipts(database, lane.key, after_seq=1, to_seq=2) == receipts[3:]
            assert await node_ledger.known_heads(database, lane.key) == {first.head: (21, 3), second.head: (35, 5)}
            assert await node_ledger.last_voucher(database, lane) == voucher_for(first)

    asyncio.run(main())


def test_node_never_signs_two_batches_of_one_number_or_one_order_twice(kind: str) -> None:
    """What a provider must not sign twice is a failed insert, and takes the whole batch with it."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane, other = lane_of(3), lane_of(4)
            first, batch = next_batch(fresh(lane), 2, 14)
            second, next_ = next_batch(first, 2, 14)
            elsewhere, stray = next_batch(fresh(other), 1, 7)
            writer.submit(node_ledger.open_lane(lane, now_ms=4))
            writer.submit(node_ledger.open_lane(other, now_ms=5))
            await writer.submit_flushed(node_batch(first, batch, 0, 2))
            await refuse(writer, node_batch(first, batch, 5, 2))
            await refuse(writer, node_batch(second, next_, 1, 2))
            await refuse(writer, node_batch(elsewhere, stray, 1, 1))
            assert [found.state for found in await node_ledger.load_lanes(database)] == [first, fresh(other)]
            assert len(await node_ledger.load_receipts(database, lane.key, to_seq=9)) == 2
            await writer.submit_flushed(node_batch(second, next_, 2, 2))

    asyncio.run(main())


def test_node_voucher_only_rises_and_stays_within_what_was_served(kind: str) -> None:
    """The same voucher again, a lower one, one for more than was batched: the best one stays."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane = lane_of(3)
            first, batch = next_batch(fresh(lane), 1, 7)
            second, next_ = next_batch(first, 1, 7)
            third, _ = next_batch(second, 1, 7)
            writer.submit(node_ledger.open_lane(lane, now_ms=4))
            await writer.submit_flushed(node_batch(first, batch, 0, 1))
            await writer.submit_flushed(node_batch(second, next_, 1, 1))
            await writer.submit_flushed(node_ledger.record_voucher(voucher_for(second), now_ms=2))
            for state in (second, first, third):
                await refuse(writer, node_ledger.record_voucher(voucher_for(state), now_ms=3))
            assert await node_ledger.last_voucher(database, lane) == voucher_for(second)

    asyncio.run(main())


def test_redemptions_add_up_once_and_are_taken_back_with_their_block(kind: str) -> None:
    """The same event twice is a failed insert; a reorganised block's payments vanish from the lane."""

    async def main() -> None:
        async with open_both(kind) as (database, writer):
            lane = lane_of(3)
            first, batch = next_batch(fresh(lane), 1, 70)
            writer.submit(node_ledger.open_lane(lane, now_ms=4))
            await writer.submit_flushed(node_batch(first, batch, 0, 1))
            paid = [
                node_ledger.Redemption(digest("tx", block), 0, block, lane.key, 70, amount, 1, first.head)
                for block, amount in ((10, 30), (11, 25), (12, 15))
            ]
            stray = node_ledger.Redemption(digest("tx", 9), 1, 9, digest("unknown lane"), 5, 5, 1, first.head)
            for redemption in (*paid, stray):
                await writer.submit_flushed(node_ledger.record_redemption(redemption))
            await refuse(writer, node_ledger.record_redemption(paid[1]))
            (found,) = await node_ledger.load_lanes(database)
            assert (found.redeemed_nano, found.paid_nano) == (70, 70)
            await node_ledger.forget_redemptions(database, from_block=11)
            (found,) = await node_ledger.load_lanes(database)
            assert (found.redeemed_nano, found.paid_nano) == (70, 30)
            assert await node_ledger.load_redemptions(database, lane.key) == paid[:1]
            await node_ledger.forget_redemptions(database, from_block=0)
            (found,) = await node_ledger.load_lanes(database)
            assert (found.redeemed_nano, found.paid_nano) == (0, 0)

    asyncio.run(main())
