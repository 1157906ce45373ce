"""Providers and clients that fail in the middle: nothing looks whole that isn't, and the money is settled."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import msgspec
import openai
import pytest
from tests.gateway_node import ScriptedNode
from tests.gateway_world import LIMITS, MODEL, World, open_world, until

from steelyard.gateway.call_marks import key_mark, mark_call
from steelyard.gateway.order_tags import OrderTagger
from steelyard.link.port import Failure, LeafEntry, Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Receipt
from steelyard.protocol.pricing import call_cost
from steelyard.storage.budgets import load_budget
from steelyard.storage.calls import CallRow, list_calls
from steelyard.storage.events import list_events
from steelyard.storage.lanes import find_place

WORDS = "one two three four five six seven eight nine ten"


async def _rows(world: World) -> list[CallRow]:
    await world.gateway.writer.flush()
    return await list_calls(world.database)


async def _spent(world: World) -> int:
    """What the key's budget counts as spent, with everything idle given back."""
    assert world.key is not None
    for _ in range(50):  # a sweep of the gateway's own may be under way, and give back only what it found
        await world.gateway.meters.sweep(idle_s=0.0)
        budget = await load_budget(world.database, world.key.budget_id)
        if not budget.leased_nano:
            break
        await asyncio.sleep(0.1)
    assert budget.leased_nano == 0
    return budget.spent_nano


def _break(node: ScriptedNode, code: str, times: int = -1, retryable: bool = True) -> None:
    node.failure, node.failures_left = Failure(code, "the test says so", retryable), times


@pytest.mark.parametrize("code", ["credit_window", "busy", "engine_error", "not_served"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_failed_provider_is_replaced_before_the_first_byte(tmp_path: Path, code: str, is_stream: bool) -> None:
    """The client sees one answer; only the provider that gave it is paid."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            _break(world.nodes[0], code)
            number = 0
            while number < 6 or (not world.nodes[0].requests and number < 100):  # routing is a draw
                async with world.client() as client:
                    answer = await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": f"{number} {WORDS}"}], stream=is_stream
                    )
                    if is_stream:
                        parts = [c.choices[0].delta.content or "" async for c in answer]
                        assert "".join(parts) == f"{number} {WORDS}"
                number += 1
            assert len(world.nodes[1].requests) == number
            assert world.nodes[0].requests
            paid = [row for row in await _rows(world) if row.receipt_hash is not None]
            assert {row.provider for row in paid} == {world.nodes[1].key.account}
            assert await _spent(world) == sum(row.cost_nano for row in paid)

    asyncio.run(story())


def test_request_that_the_engine_refuses_is_400_and_not_tried_elsewhere(tmp_path: Path) -> None:
    """`invalid_request` is the client's fault, wherever it is found."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            for node in world.nodes:
                _break(node, "invalid_request", retryable=False)
            status, reply, _ = await world.post(
                "/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
            )
            assert (status, reply["error"]["code"]) == (400, "invalid_request")
            assert sum(len(node.requests) for node in world.nodes) == 1
            assert await _spent(world) == 0

    asyncio.run(story())


def test_provider_killed_mid_stream_ends_in_an_in_band_error(tmp_path: Path) -> None:
    """The openai client raises; the raw stream has an error with finish_reason error, and no [DONE]."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            world.nodes[0].cut_after = 3
            seen: list[str] = []

            async def read() -> None:
                async with world.client() as client:
                    stream = await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": WORDS}], stream=True
                    )
                    async for chunk in stream:
                        seen.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came must survive

            with pytest.raises(openai.APIError) as raised:
                await read()
            assert "".join(seen) == "one two three "
            assert "not the whole answer" in str(raised.value)
            node = await world.add_node(1)
            node.cut_after = 2
            raw = await _raw_stream(world)
            assert b"[DONE]" not in raw
            last = json.loads(raw.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
            assert last["error"]["code"] == "provider_lost"
            assert last["choices"][0]["finish_reason"] == "error"

    asyncio.run(story())


async def _raw_stream(world: World) -> bytes:
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": WORDS}]}
    headers = {"authorization": f"Bearer {world.secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(world.base_url + "/chat/completions", json=body, headers=headers) as reply,
    ):
        return await reply.read()


def test_lost_order_stays_reserved_until_its_receipt_or_deadline(tmp_path: Path) -> None:
    """A provider that vanished may have done the work: its highest cost is held, then freed."""

    async def story() -> None:
        async with open_world(tmp_path, deadline_s=2.0, grace_s=0.2) as world:
            world.nodes[0].cut_after = 2
            await _raw_stream(world)
            meter = world.gateway.meters.meter(world.key.budget_id)  # type: ignore[union-attr]
            (lost,) = world.gateway.settlement.lost.values()
            assert meter.reserved_nano == lost.request.order.max_cost
            await until(lambda: not world.gateway.settlement.lost)
            assert meter.reserved_nano == 0
            assert [row.status for row in await _rows(world)] == ["lost"]
            assert await _spent(world) == 0

    asyncio.run(story())


def test_lost_order_whose_receipt_comes_late_is_settled_by_it(tmp_path: Path) -> None:
    """A node that comes back with a signed batch is paid for what it did, and the key is charged that."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            node = world.nodes[0]
            node.batches_by_itself = False
            node.gate.clear()
            asking = asyncio.create_task(_raw_stream(world))
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
            (row,) = await _rows(world)
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
            await _raw_stream(world)
            await until(lambda: not world.gateway.settlement.lost)
            assert [row.status for row in await _rows(world)] == ["lost"]
            (call,) = node.requests
            order = call.order
            cost = call_cost(2, 2, order.price_in, order.price_out)
            receipt = Receipt(order.struct_hash(), 0, ZERO32, ZERO32, 2, 2, cost, 1, 2, 4)
            node.waiting[order.lane] = [LeafEntry(order, call.tag, receipt)]
            node.send_batches(None)
            node.dial(world.running.address.link_url, LIMITS)
            await until(lambda: any(lane.state.count for lane in world.gateway.payer.lanes.values()))
            await world.gateway.recovery.run_due()
            (row,) = await _rows(world)
            assert (row.receipt_hash, row.cost_nano) == (receipt.struct_hash(), cost)
            place = await find_place(world.database, order.lane, row)
            assert place is not None
            assert place[0].signed.batch.seq == 1
            assert row.status == "cut"
            assert world.key is not None
            assert row.key_id == world.key.key_id
            assert await _spent(world) == cost

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
            assert node.client is not None
            assert node.client.link is not None
            node.resend(node.client.link, order.lane, 1)
            await until(lambda: len(node.vouchers) == 2)
            rows = {row.call_id: row for row in await _rows(world)}
            assert rows[ident].key_id == world.key.key_id

    asyncio.run(story())


def test_engine_that_breaks_mid_stream_is_billed_for_what_came(tmp_path: Path) -> None:
    """The receipt says ERROR: the client gets an in-band error, the key pays for what it got."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            node = await world.add_node(0, options={"delay_ms": "20"})
            node.engine_breaks_after = 4
            raw = await _raw_stream(world)
            assert b"provider_lost" in raw
            (row,) = await _rows(world)
            assert row.status == "cut"
            assert 0 < row.cost_nano == await _spent(world)

    asyncio.run(story())


def test_engine_that_breaks_whole_answers_is_replaced_at_our_cost(tmp_path: Path) -> None:
    """A cut answer that nobody saw is not charged to the key; the call is done elsewhere."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            world.nodes[0].engine_breaks_after = 0
            for number in range(5):
                answer = await world.ask(f"{number} hi")
                assert answer.choices[0].message.content == f"{number} hi"
            charged = [row.cost_nano for row in await _rows(world) if row.key_id is not None]
            assert await _spent(world) == sum(charged)

    asyncio.run(story())


@pytest.mark.parametrize("is_stream", [False, True])
def test_client_that_hangs_up_stops_the_engine_and_pays_for_what_was_sent(tmp_path: Path, is_stream: bool) -> None:
    """http.disconnect cancels the provider; the receipt for what was sent is settled."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            node = await world.add_node(0, options={"delay_ms": "60"})
            body = {"model": MODEL, "stream": is_stream, "messages": [{"role": "user", "content": WORDS * 5}]}
            headers = {"authorization": f"Bearer {world.secret}"}
            async with aiohttp.ClientSession() as session:
                if is_stream:
                    async with session.post(world.base_url + "/chat/completions", json=body, headers=headers) as reply:
                        await reply.content.readany()
                        reply.close()
                else:
                    node.gate.clear()
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.3):
                            await session.post(world.base_url + "/chat/completions", json=body, headers=headers)
            await until(lambda: len(node.cancelled) == 1)
            await until(lambda: world.gateway.settlement.in_flight == 0)
            rows = await _rows(world)
            assert [row.status for row in rows] == (["cut"] if is_stream else ["failed"])
            assert await _spent(world) == rows[0].cost_nano
            assert (rows[0].cost_nano > 0) is is_stream

    asyncio.run(story())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"cost": 1}, "bad_total"),
        ({"units_out": 10**6, "cost": 2 * 10**6 + 16}, "bad_total"),
        ({"response_hash": b"\x01" * 32}, "bad_message"),
        ({"order_hash": b"\x01" * 32}, "bad_message"),
        ({"part": 1}, "bad_message"),
    ],
)
def test_bad_receipt_drops_the_peer_and_the_client_is_served_elsewhere(
    tmp_path: Path, change: dict[str, object], code: str
) -> None:
    """Nothing is paid to the liar, the event is recorded, the answer comes from an honest provider."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=1) as world:
            liar = world.nodes[0]
            liar.spoil_receipt = lambda receipt: msgspec.structs.replace(receipt, **change)
            status, reply, _ = await world.post(
                "/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "hi there"}]}
            )
            assert status == 503
            assert "bad_receipt" in reply["error"]["message"]
            honest = await world.add_node(1)
            answer = await world.ask("hi there")
            assert answer.choices[0].message.content == "hi there"
            assert honest.requests
            await world.gateway.writer.flush()
            events = await list_events(world.database, peer="0x" + liar.key.account.hex())
            assert code in [event.code for event in events]
            paid = [row for row in await _rows(world) if row.receipt_hash is not None]
            assert {row.provider for row in paid} == {honest.key.account}
            assert await _spent(world) == sum(row.cost_nano for row in paid)

    asyncio.run(story())


def test_answer_that_is_not_utf8_drops_the_peer(tmp_path: Path) -> None:
    """What can't be shown isn't paid, streamed or not."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            world.nodes[0].spoil_piece = lambda piece: Piece(b"\xff\xfe", piece.units_in, piece.units_out)
            status, _, _ = await world.post(
                "/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
            )
            assert status == 503
            await until(lambda: sum(world.gateway.metrics.events.values()) > 0)

    asyncio.run(story())


def test_breaker_rests_a_provider_that_keeps_failing(tmp_path: Path) -> None:
    """After three failures in a row it is not asked, and the refusal says so."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            _break(world.nodes[0], "engine_error", times=3)
            body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
            for _ in range(3):
                await world.post("/chat/completions", body)
            status, reply, headers = await world.post("/chat/completions", body)
            assert status == 503
            assert "breaker_open" in reply["error"]["message"]
            assert len(world.nodes[0].requests) == 3
            assert int(headers["retry-after"]) >= 1
            world.gateway.catalogue.listings[MODEL].sellers[0].record.open_until_s = 0
            assert (await world.ask("x")).choices[0].message.content == "x"

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
            _break(node, "lane_lost", times=3)
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
            _break(world.nodes[0], "lane_lost")
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
