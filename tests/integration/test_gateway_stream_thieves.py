"""Clients and providers that try to have streams paid by the gateway: whoever asked pays, whoever stalls is known."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway_faults import WORDS, list_rows, read_raw_stream, settle_spent
from tests.gateway_node import ScriptedNode
from tests.gateway_world import MODEL, World, open_world, until
from tests.integration.test_relay_hedge import prefer
from tests.integration.test_relay_http import BALANCE, open_relay

from steelyard.gateway import attempt as attempt_module
from steelyard.link.port import GatewayLink, Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import FinishReason, Receipt, content_hash
from steelyard.protocol.pricing import call_cost


def bill_unseen(node: ScriptedNode, units_in: int = 7, *, is_said: bool = True) -> None:
    """Let a node that is stopped before anything was shown bill the prompt: a piece that says so was on its way."""

    def on_cancel(link: GatewayLink, call_id: bytes) -> None:
        node._keep(bill(link, call_id))

    async def bill(link: GatewayLink, call_id: bytes) -> None:
        (call,) = [request for request in node.requests if request.order.call_id == call_id]
        order, now_ms = call.order, time.time_ns() // 1_000_000
        cost = call_cost(units_in, 0, order.price_in, order.price_out)
        receipt = Receipt(
            order.struct_hash(), 0, content_hash(call.salt, b""), ZERO32, units_in, 0, cost,
            now_ms, now_ms, int(FinishReason.CANCELLED),
        )  # fmt: skip
        piece = Piece(b"", units_in, 0)
        is_stream = call.api != "rpc"
        if is_stream and is_said:
            await link.send_piece(call_id, piece)
        link.send_done(call_id, receipt, None if is_stream else piece)
        node.cancelled.append(call_id)

    node.on_cancel = on_cancel  # type: ignore[method-assign]


async def hang_up_unserved(world: World) -> None:
    """Ask for a stream, and go before anything of it came."""
    body: dict[str, Any] = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": WORDS}]}
    headers = {"authorization": f"Bearer {world.secret}"}
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.post(world.base_url + "/chat/completions", json=body, headers=headers))
        await until(lambda: any(node.requests for node in world.nodes))
        await asyncio.sleep(0.2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def test_client_that_leaves_before_its_stream_begins_pays_what_its_provider_bills(tmp_path: Path) -> None:
    """Else a key could have the gateway pay providers for nothing, as often as it likes."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            (node,) = world.nodes
            node.gate.clear()
            bill_unseen(node)
            await hang_up_unserved(world)
            await until(lambda: bool(node.cancelled))
            await until(lambda: world.gateway.settlement.in_flight == 0)
            order = node.requests[0].order
            assert await settle_spent(world) == call_cost(7, 0, order.price_in, order.price_out) > 0

    asyncio.run(story())


def test_stream_is_billed_for_what_its_pieces_said_and_no_more(tmp_path: Path) -> None:
    """A provider that stalls, is stopped and bills work that it never sent breaks the rules, and is paid nothing."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, first_byte_s=0.2) as world:
            for node in world.nodes:
                bill_unseen(node, is_said=False)
                node.gate.clear()
            asking = asyncio.create_task(read_raw_stream(world))
            await until(lambda: any(node.requests for node in world.nodes))
            thief = next(node for node in world.nodes if node.requests)
            for node in world.nodes:
                if node is not thief:
                    node.gate.set()
            assert b"[DONE]" in await asking
            await until(lambda: bool(thief.cancelled))
            await until(lambda: world.gateway.settlement.in_flight == 0)
            assert world.gateway.metrics.events["bad_total"] == 1
            assert {row.provider for row in await list_rows(world) if row.cost_nano} == {
                node.key.account for node in world.nodes if node is not thief
            }
            assert world.gateway.settlement.escrow.reserved_nano == 0

    asyncio.run(story())


@pytest.mark.parametrize("has_begun", [False, True])
def test_provider_whose_silence_lets_another_answer_has_failed(tmp_path: Path, has_begun: bool) -> None:
    """What it bills when it is stopped is paid and no success: who stalls every stream would be asked for ever."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, first_byte_s=0.2, stall_s=0.2) as world:
            first: list[ScriptedNode] = []
            for node in world.nodes:
                plain = node.on_call

                def on_call(link: Any, request: Any, *, is_stream: bool, node: Any = node, plain: Any = plain) -> None:
                    if not first:
                        first.append(node)
                        if has_begun:
                            node.stall_after = 3
                        else:
                            node.gate.clear()
                            bill_unseen(node)
                    plain(link, request, is_stream=is_stream)

                node.on_call = on_call  # type: ignore[method-assign]
            assert b"[DONE]" in await read_raw_stream(world)
            await until(lambda: world.gateway.settlement.in_flight == 0)
            (listing,) = world.gateway.catalogue.listings.values()
            record = next(s.record for s in listing.sellers if s.link.provider == first[0].key.account)
            assert (record.successes, record.failures, record.last_reason) == (0, 1, "stalled")

    asyncio.run(story())


def test_client_that_leaves_while_two_were_asked_pays_one_of_them(tmp_path: Path) -> None:
    """The provider that was asked beside the first is the gateway's cost, whoever leaves."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, first_byte_s=0.1) as world:
            for node in world.nodes:
                node.gate.clear()
                bill_unseen(node)
            leaving = asyncio.create_task(hang_up_unserved(world))
            await until(lambda: all(node.requests for node in world.nodes))
            await leaving
            await until(lambda: all(node.cancelled for node in world.nodes))
            await until(lambda: world.gateway.settlement.in_flight == 0)
            order = world.nodes[0].requests[0].order
            assert await settle_spent(world) == call_cost(7, 0, order.price_in, order.price_out)
            assert world.gateway.settlement.escrow.reserved_nano == 0

    asyncio.run(story())


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "slow"}], ids=["short cut", "asgi"])
def test_caller_that_leaves_during_a_read_pays_what_its_provider_bills(tmp_path: Path, headers: dict[str, str]) -> None:
    """The relay's reads may be hedged, and are nobody's gift all the same."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2, relay_hedge_share=0.0) as (world, _):
            prefer(world, 0)
            node = world.nodes[0]
            node.gate.clear()
            bill_unseen(node)
            sent = headers | {"authorization": f"Bearer {world.secret}"}
            url = world.base_url.removesuffix("/v1") + "/rpc/eth"
            async with aiohttp.ClientSession() as session:
                asking = asyncio.create_task(session.post(url, json=BALANCE, headers=sent))
                await until(lambda: bool(node.requests))
                await asyncio.sleep(0.2)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await until(lambda: bool(node.cancelled))
            await until(lambda: world.gateway.settlement.in_flight == 0)
            order = node.requests[0].order
            assert await settle_spent(world) == call_cost(7, 0, order.price_in, order.price_out) > 0

    asyncio.run(story())


def test_provider_that_was_not_needed_and_stays_silent_holds_none_of_the_keys_money(tmp_path: Path) -> None:
    """What is paid for by itself is settled before its last events leave: nothing may be reserved for it then."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2, first_byte_s=0.2) as world:
            for node in world.nodes:
                node.gate.clear()
                node.on_cancel = lambda link, call_id: None  # type: ignore[method-assign]
            asking = asyncio.create_task(read_raw_stream(world))
            await until(lambda: any(node.requests for node in world.nodes))
            for node in world.nodes:
                if not node.requests:
                    node.gate.set()
            assert b"[DONE]" in await asking
            assert world.key is not None
            assert world.gateway.settlement.in_flight == 1
            assert world.gateway.meters.meter(world.key.budget_id).reserved_nano == 0
            assert world.gateway.settlement.escrow.reserved_nano > 0

    asyncio.run(story())


@pytest.mark.parametrize("goes_on", [False, True])
def test_stream_without_end_is_stopped_at_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """What waits for a receipt lies in memory: a provider that sends on is dropped, and no cut answer looks whole."""
    monkeypatch.setattr(attempt_module, "MAX_STREAM_BYTES", 2_000)

    async def story() -> None:
        async with open_world(tmp_path) as world:
            (node,) = world.nodes
            if goes_on:
                node.on_cancel = lambda link, call_id: None  # type: ignore[method-assign]
                node.spoil_piece = lambda piece: Piece(b"x" * 900, piece.units_in, piece.units_out)
            body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "word " * 1_000}]}
            raw, headers, url = b"", {"authorization": f"Bearer {world.secret}"}, world.base_url + "/chat/completions"
            with suppress(aiohttp.ClientError):
                async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as reply:
                    async for line in reply.content:
                        raw += line
            assert b"[DONE]" not in raw
            await until(lambda: world.gateway.settlement.in_flight == 0)
            assert world.gateway.metrics.events["bad_message"] == int(goes_on)
            assert bool(node.cancelled) != goes_on

    asyncio.run(story())
