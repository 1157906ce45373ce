"""The short cut when something goes wrong under way: order is kept, nothing is answered twice, nobody left waiting."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_node import ScriptedNode
from tests.gateway_world import MODEL, World, open_world, until
from tests.raw_http import RawReply, open_raw

from steelyard.gateway.http_protocol import GatewayProtocol
from steelyard.link.port import Failure
from steelyard.storage.calls import list_calls

CHAT = "/v1/chat/completions"


def _chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def _text(reply: RawReply) -> str:
    return str(reply.json["choices"][0]["message"]["content"])


def _quick(world: World, count: int = 1) -> bool:
    """Whether so many calls are in flight below ASGI."""
    return world.gateway.fast.in_flight == count


async def _hold(world: World) -> ScriptedNode:
    """The only node, warm, with its gate shut: calls stay in flight."""
    await world.ask()
    world.nodes[0].gate.clear()
    return world.nodes[0]


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """What comes behind a call in flight waits for it: whole calls, a stream, a page, a refusal."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            node = await _hold(world)
            raw.send(
                raw.post(CHAT, _chat("one")),
                raw.get("/healthz"),
                raw.post(CHAT, _chat("two", stream=True)),
                raw.post(CHAT, b"{"),
                raw.post(CHAT, _chat("three")),
            )
            await until(lambda: _quick(world))
            node.gate.set()
            assert _text(await raw.read()) == "one"
            assert (await raw.read()).status == 200
            assert b"[DONE]" in (await raw.read()).body
            assert (await raw.read()).status == 400
            assert _text(await raw.read()) == "three"
            raw.send(raw.post(CHAT, _chat("four")))
            assert _text(await raw.read()) == "four"

    asyncio.run(story())


def test_client_that_hangs_up_stops_the_provider_at_once(tmp_path: Path) -> None:
    """The order is cancelled, the request counts as 499, the reservation is freed, and the gateway is well."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            node = await _hold(world)
            async with open_raw(world.base_url, world.secret) as raw:
                raw.send(raw.post(CHAT, _chat("one")))
                await until(lambda: _quick(world))
            await until(lambda: node.cancelled == [node.requests[-1].order.call_id])
            await until(lambda: world.gateway.settlement.in_flight == 0)
            assert _quick(world, 0)
            assert world.gateway.metrics.replies["chat.completions", 499] == 1
            assert world.gateway.settlement.escrow.reserved_nano == 0
            node.gate.set()
            assert (await world.ask("two")).choices[0].message.content == "two"

    asyncio.run(story())


@pytest.mark.parametrize("is_pipelined", [False, True])
def test_failed_provider_is_replaced_and_the_order_kept(tmp_path: Path, is_pipelined: bool) -> None:
    """The first attempt fails below ASGI, the second is made above it; one answer, and one row for each attempt."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world, open_raw(world.base_url, world.secret) as raw:
            await world.ask()
            for node in world.nodes:
                node.failure, node.failures_left = Failure("busy", "the test says so"), 1
            retries = sum(world.gateway.metrics.retries.values())
            for text in ("one", "two"):
                behind = [raw.post(CHAT, _chat("behind"))] if is_pipelined else []
                raw.send(raw.post(CHAT, _chat(text)), *behind)
                reply = await raw.read()
                if reply.status == 200:  # both may be resting after their refusals: then it is a 503, and in its place
                    assert _text(reply) == text
                else:
                    assert reply.status == 503
                for _ in behind:
                    assert (await raw.read()).status in (200, 503)
                await asyncio.sleep(0.1)
            assert sum(world.gateway.metrics.retries.values()) > retries
            assert _quick(world, 0)
            assert world.gateway.hangups.count == 0
            await world.gateway.writer.flush()
            rows = await list_calls(world.database)
            assert {row.status for row in rows} == {"done", "failed"}

    asyncio.run(story())


def test_call_that_nobody_can_serve_is_refused_in_shape(tmp_path: Path) -> None:
    """A request that is wrong for the engine is 400, a bad receipt from the only provider 503."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            await world.ask()
            node = world.nodes[0]
            node.failure, node.failures_left = Failure("invalid_request", "too long for it", False), 1
            raw.send(raw.post(CHAT, _chat("one")))
            reply = await raw.read()
            assert (reply.status, reply.json["error"]["message"]) == (400, "too long for it")
            await node.kill()
            raw.send(raw.post(CHAT, _chat("two")))
            reply = await raw.read()
            assert (reply.status, reply.json["error"]["code"]) == (503, "no_provider")
            assert reply.header("retry-after")

    asyncio.run(story())


def test_answer_to_a_slow_reader_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the transport holds too much for this client, the answer goes the way that waits."""

    async def story() -> None:
        finish = GatewayProtocol.finish

        def finish_late(self: GatewayProtocol) -> None:
            self.pause_writing()
            asyncio.get_running_loop().call_later(0.05, self.resume_writing)
            finish(self)

        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            await world.ask()
            monkeypatch.setattr(GatewayProtocol, "finish", finish_late)
            raw.send(raw.post(CHAT, _chat("one")))
            assert _text(await raw.read()) == "one"
            assert world.gateway.metrics.replies["chat.completions", 200] == 2

    asyncio.run(story())


def test_stop_lets_a_call_in_flight_end(tmp_path: Path) -> None:
    """It is answered, told that the connection closes, and settled before the gateway is gone."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            node = await _hold(world)
            raw.send(raw.post(CHAT, _chat("one")))
            await until(lambda: _quick(world))
            stop = asyncio.create_task(world.stop_gateway())
            await asyncio.sleep(0.2)
            assert not stop.done()
            node.gate.set()
            reply = await raw.read()
            assert (_text(reply), reply.header("connection")) == ("one", "close")
            assert await raw.is_closed()
            await stop
            await world.start_gateway()
            assert {row.status for row in await list_calls(world.database)} == {"done"}

    asyncio.run(story())


def test_stop_that_waited_long_enough_hangs_up(tmp_path: Path) -> None:
    """A provider that never answers holds a stop for `drain_s`, no longer."""

    async def story() -> None:
        async with open_world(tmp_path, drain_s=1) as world, open_raw(world.base_url, world.secret) as raw:
            node = await _hold(world)
            raw.send(raw.post(CHAT, _chat("one")))
            await until(lambda: _quick(world))
            await asyncio.wait_for(world.stop_gateway(), 10)
            assert await raw.is_closed()
            assert node.cancelled
            await world.start_gateway()

    asyncio.run(story())


def test_bug_in_the_short_cut_is_logged_and_answered_the_ordinary_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours costs time, not the answer."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            await world.ask()

            def crash(*_: Any) -> None:
                raise RuntimeError("the test says so")

            monkeypatch.setattr(world.gateway.fast.work, "begin", crash)
            raw.send(raw.post(CHAT, _chat("one")))
            assert _text(await raw.read()) == "one"

    asyncio.run(story())
