"""Providers that try to be paid twice, or for what they did not do: refused, recorded, and nothing is signed for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.gateway_node import ScriptedNode
from tests.gateway_world import MODEL, World, open_world, until

from steelyard.link.port import CallRequest, Failure, GatewayLink, LeafEntry, Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, extend_lane
from steelyard.protocol.messages import Receipt, content_hash
from steelyard.protocol.pricing import call_cost
from steelyard.storage.calls import list_calls

CONTENT = b"hello there"


def _receipt(call: CallRequest, units_in: int) -> Receipt:
    order = call.order
    cost = call_cost(units_in, 0, order.price_in, order.price_out)
    return Receipt(order.struct_hash(), 0, content_hash(call.salt, CONTENT), ZERO32, units_in, 0, cost, 1, 2, 0)


def _highest_receipt(call: CallRequest) -> Receipt:
    return _receipt(call, call.order.max_cost * 1_000_000 // call.order.price_in)


def _send_batch(
    link: GatewayLink, node: ScriptedNode, state: LaneState, call: CallRequest, receipt: Receipt
) -> LaneState:
    state, signed = extend_lane(state, [receipt.struct_hash()], [receipt.cost], node.key, node.domain)
    link.send_batch(signed, [call.order.call_id], (LeafEntry(call.order, call.tag, receipt),))
    return state


async def _held_call(node: ScriptedNode) -> CallRequest:
    """The call that a node with a closed gate was given; the script answers it, not the node."""
    await until(lambda: bool(node.requests))
    call = node.requests[-1]
    await until(lambda: call.order.call_id in node._runs)
    node._runs[call.order.call_id].cancel()
    return call


async def _until_refused(world: World) -> None:
    await until(lambda: world.gateway.metrics.events["bad_total"] > 0)


def test_batch_over_a_call_in_flight_is_refused(tmp_path: Path) -> None:
    """An order that is still open can't come back by its tag, so that its receipt can't be batched a second time."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            node = world.nodes[0]
            node.batches_by_itself = False
            node.gate.clear()
            asking = asyncio.create_task(world.ask("hello there"))
            call = await _held_call(node)
            receipt = _receipt(call, 3)
            link = node.link
            state = _send_batch(link, node, LaneState(lane=call.order.lane), call, receipt)
            await asyncio.sleep(0.2)
            link.send_done(call.order.call_id, receipt, Piece(CONTENT, 3, 0))
            await asyncio.sleep(0.2)
            _send_batch(link, node, state, call, receipt)
            await _until_refused(world)
            await asyncio.gather(asking, return_exceptions=True)
            await asyncio.sleep(0.3)
            assert not node.vouchers
            assert all(lane.state.count == 0 for lane in world.gateway.payer.lanes.values())

    asyncio.run(story())


def test_provider_that_batches_a_call_and_then_fails_it_is_paid_nothing(tmp_path: Path) -> None:
    """The highest cost can't be taken for work that another provider does."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, voucher_age_s=0.1) as world:
            for each in world.nodes:
                each.gate.clear()
            asking = asyncio.create_task(world.ask("hello there"))
            await until(lambda: any(each.requests for each in world.nodes))
            thief = next(each for each in world.nodes if each.requests)
            call = await _held_call(thief)
            link = thief.link
            _send_batch(link, thief, LaneState(lane=call.order.lane), call, _highest_receipt(call))
            await asyncio.sleep(0.2)
            link.send_fail(call.order.call_id, Failure("busy", "the test says so"))
            for each in world.nodes:
                each.gate.set()
            assert (await asking).choices[0].message.content == "hello there"
            await _until_refused(world)
            await asyncio.sleep(0.3)
            assert not thief.vouchers
            await world.gateway.writer.flush()
            assert {row.provider for row in await list_calls(world.database) if row.cost_nano} <= {
                each.key.account for each in world.nodes if each is not thief
            }

    asyncio.run(story())


@pytest.mark.parametrize("code", ["link_lost", "deadline"])
def test_provider_that_fails_a_call_in_the_gateways_own_words_is_paid_nothing_later(tmp_path: Path, code: str) -> None:
    """A link that stands was not lost, and a deadline has not passed before its time: no receipt may follow."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, voucher_age_s=0.1) as world:
            for each in world.nodes:
                each.gate.clear()
            asking = asyncio.create_task(world.ask("hello there"))
            await until(lambda: any(each.requests for each in world.nodes))
            thief = next(each for each in world.nodes if each.requests)
            call = await _held_call(thief)
            thief.link.send_fail(call.order.call_id, Failure(code, "the test says so"))
            await asyncio.sleep(0.2)
            assert not world.gateway.settlement.lost
            _send_batch(thief.link, thief, LaneState(lane=call.order.lane), call, _highest_receipt(call))
            await _until_refused(world)
            for each in world.nodes:
                each.gate.set()
            await asyncio.gather(asking, return_exceptions=True)
            assert not thief.vouchers
            assert world.gateway.settlement.escrow.reserved_nano == 0

    asyncio.run(story())


def test_provider_that_says_it_was_cancelled_unasked_has_failed(tmp_path: Path) -> None:
    """Whoever refuses calls in that word is no less to blame than with another."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            (node,) = world.nodes
            node.failure, node.failures_left = Failure("cancelled", "nobody asked for it", is_retryable=False), -1
            assert await _post(world, is_stream=False) >= 500
            (listing,) = world.gateway.catalogue.listings.values()
            assert listing.sellers[0].record.failures == 1

    asyncio.run(story())


@pytest.mark.parametrize(("is_stream", "is_last"), [(False, True), (True, True), (True, False)])
def test_piece_that_is_no_text_ends_its_call_and_frees_the_money(
    tmp_path: Path, is_stream: bool, is_last: bool
) -> None:
    """The client is told at once, also when the piece came with the receipt; nothing stays reserved."""

    async def story() -> None:
        async with open_world(tmp_path, max_attempts=1) as world:
            node = world.nodes[0]
            node.gate.clear()
            asking = asyncio.create_task(_post(world, is_stream=is_stream))
            call = await _held_call(node)
            link, bad = node.link, Piece(b"\xff\xfe", 0, 0)
            if not is_last:
                await link.send_piece(call.order.call_id, bad)
            else:
                receipt = msgspec.structs.replace(_receipt(call, 1), response_hash=content_hash(call.salt, bad.content))
                link.send_done(call.order.call_id, receipt, bad)
            async with asyncio.timeout(5):
                assert await asking >= 500
            settlement = world.gateway.settlement
            assert world.key is not None
            assert (settlement.in_flight, len(settlement.lost)) == (0, 0)
            assert world.gateway.meters.meter(world.key.budget_id).reserved_nano == 0
            assert sum(world.gateway.metrics.events.values()) == 1

    asyncio.run(story())


async def _post(world: World, *, is_stream: bool) -> int:
    body = {"model": MODEL, "stream": is_stream, "messages": [{"role": "user", "content": "hello there"}]}
    status, _, _ = await world.post("/chat/completions", body)
    return status
