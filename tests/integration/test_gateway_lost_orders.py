"""Orders whose link was lost, and lanes whose history was: each is paid once, by whatever comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import openai
import pytest
from tests.gateway_faults import break_node, list_rows, read_raw_stream, settle_spent
from tests.gateway_world import LIMITS, MODEL, World, open_world, until

from steelyard.gateway.call_marks import key_mark, mark_call
from steelyard.gateway.order_tags import OrderTagger
from steelyard.link.port import LeafEntry
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Receipt
from steelyard.protocol.pricing import call_cost
from steelyard.storage.lanes import find_place


def test_lost_order_stays_reserved_until_its_receipt_or_deadline(tmp_path: Path) -> None:
    """A provider that vanished may have done the work: its highest cost is held, then freed."""

    async def story() -> None:
        async with open_world(tmp_path, deadline_s=2.0, grace_s=0.2) as world:
            world.nodes[0].cut_after = 2
            await read_raw_stream(world)
            meter = world.gateway.meters.meter(world.key.budget_id)  # type: ignore[union-attr]
            (lost,) = world.gateway.settlement.lost.values()
            assert meter.reserved_nano == lost.request.order.max_cost
            await until(lambda: not world.gateway.settlement.lost)
            assert meter.reserved_nano == 0
            assert [row.status for row in await list_rows(world)] == ["lost"]
            assert await settle_spent(world) == 0

    asyncio.run(story())


def test_lost_order_whose_receipt_comes_late_is_settled_by_it(tmp_path: Path) -> None:
    """A node that comes back with a signed batch is paid for what it did, and the key is charged that."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            node = world.nodes[0]
            node.batches_by_itself = False
            node.gate.clear()
            asking = asyncio.create_task(read_raw_stream(world))
            await until(lambda: len(node.requests) == 1)
            assert node.client is not None
            node.client.abort()  # the connection dies, the work goes on
            node.gate.set()
            assert b"[DONE]" not in await asking
            assert len(world.gateway.settlement.lost) == 1
            await until(lambda: any(node.waiting.values()))
            node.send_batches(None)
            node.dial(world.running.address.link_url, LIMITS)
            await until(lambda: not world.gateway.settlement.lost)
            (row,) = await list_rows(world)
            assert row.receipt_hash is not None
            assert row.cost_nano > 0
            (lane,) = [lane for lane in world.gateway.payer.lanes.values() if lane.state.count]
            assert lane.state.cumulative == row.cost_nano
            await until(lambda: lane.signed_nano == row.cost_nano)

    asyncio.run(story())


def test_receipt_that_comes_after_its_order_was_given_up_fills_its_row(tmp_path: Path) -> None:
    """The lost row gets the receipt and its batch, and the key is charged what was shown to it."""

    async def story() -> None:
        async with open_world(tmp_path, deadline_s=1.5, grace_s=0.1) as world:
            node = world.nodes[0]
            node.cut_after = 2
            await read_raw_stream(world)
            await until(lambda: not world.gateway.settlement.lost)
            assert [row.status for row in await list_rows(world)] == ["lost"]
            (call,) = node.requests
            order = call.order
            cost = call_cost(2, 2, order.price_in, order.price_out)
            receipt = Receipt(order.struct_hash(), 0, ZERO32, ZERO32, 2, 2, cost, 1, 2, 4)
            node.waiting[order.lane] = [LeafEntry(order, call.tag, receipt)]
            node.send_batches(None)
            node.dial(world.running.address.link_url, LIMITS)
            await until(lambda: any(lane.state.count for lane in world.gateway.payer.lanes.values()))
            await world.gateway.recovery.run_due()
            (row,) = await list_rows(world)
            assert (row.receipt_hash, row.cost_nano) == (receipt.struct_hash(), cost)
            place = await find_place(world.database, order.lane, row)
            assert place is not None
            assert place[0].signed.batch.seq == 1
            assert row.status == "cut"
            assert world.key is not None
            assert row.key_id == world.key.key_id
            assert await settle_spent(world) == cost

    asyncio.run(story())


def test_call_that_comes_back_is_charged_to_a_key_younger_than_this_run(tmp_path: Path) -> None:
    """Another process may have made the call, with a key that did not exist when this one started."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node, payer = world.nodes[0], world.gateway.payer
            assert world.key is not None
            await world.ask("one")
            await until(lambda: len(node.vouchers) == 1)
            (first,) = node.requests
            ident = mark_call(world.gateway.recovery.secret, b"\x01" * 8, key_mark(world.key.key_id))
            order = msgspec.structs.replace(first.order, call_id=ident)
            tag = OrderTagger(payer.tag_secret)(order.struct_hash())
            cost = call_cost(1, 1, order.price_in, order.price_out)
            receipt = Receipt(order.struct_hash(), 0, ZERO32, ZERO32, 1, 1, cost, 1, 2, 0)
            node.waiting[order.lane] = [LeafEntry(order, tag, receipt)]
            node.send_batches(None)
            node.resend(node.link, order.lane, 1)
            await until(lambda: len(node.vouchers) == 2)
            rows = {row.call_id: row for row in await list_rows(world)}
            assert rows[ident].key_id == world.key.key_id

    asyncio.run(story())


@pytest.mark.parametrize("is_stream", [False, True])
def test_provider_that_lost_a_lane_is_given_a_new_one_and_serves_on(tmp_path: Path, is_stream: bool) -> None:
    """`lane_lost` retires the lane for good, and the client sees nothing of it; it is paid for what it proved."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            await world.ask("one")
            await until(lambda: len(node.vouchers) == 1)
            old = node.vouchers[0].voucher.lane
            break_node(node, "lane_lost", times=3)
            answers = await asyncio.gather(*(_text(world, f"{number} hi", is_stream) for number in range(3)))
            assert answers == ["0 hi", "1 hi", "2 hi"]
            lanes = {request.order.lane for request in node.requests[-3:]}
            assert len(lanes) == 1
            assert old not in lanes
            await world.stop_gateway()
            await world.start_gateway()
            assert world.gateway.payer.lanes[old].is_closed
            await world.until_linked(node.key.account)
            await world.ask("later")
            assert node.requests[-1].order.lane in lanes

    asyncio.run(story())


def test_provider_that_disowns_a_lane_never_used_gets_no_further_one(tmp_path: Path) -> None:
    """There was no history to lose: it is a failure like any other, and costs no lanes."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            break_node(world.nodes[0], "lane_lost")
            for _ in range(4):
                with pytest.raises(openai.APIStatusError):
                    await world.ask("x")
            assert len(world.gateway.payer.lanes) == 1

    asyncio.run(story())


async def _text(world: World, text: str, is_stream: bool) -> str:
    async with world.client() as client:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], stream=is_stream
        )
        if is_stream:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
        return str(answer.choices[0].message.content)
