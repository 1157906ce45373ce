"""Providers and clients that fail in the middle: nothing looks whole that isn't, and the money is settled."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import msgspec
import openai
import pytest
from tests.gateway_faults import WORDS, break_node, list_rows, read_raw_stream, settle_spent
from tests.gateway_world import MODEL, open_world, until

from steelyard.link.port import Piece
from steelyard.storage.events import list_events


@pytest.mark.parametrize("code", ["credit_window", "busy", "engine_error", "not_served"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_failed_provider_is_replaced_before_the_first_byte(tmp_path: Path, code: str, is_stream: bool) -> None:
    """The client sees one answer; only the provider that gave it is paid."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            break_node(world.nodes[0], code)
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
            paid = [row for row in await list_rows(world) if row.receipt_hash is not None]
            assert {row.provider for row in paid} == {world.nodes[1].key.account}
            assert await settle_spent(world) == sum(row.cost_nano for row in paid)

    asyncio.run(story())


def test_request_that_the_engine_refuses_is_400_and_not_tried_elsewhere(tmp_path: Path) -> None:
    """`invalid_request` is the client's fault, wherever it is found."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            for node in world.nodes:
                break_node(node, "invalid_request", retryable=False)
            status, reply, _ = await world.post(
                "/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
            )
            assert (status, reply["error"]["code"]) == (400, "invalid_request")
            assert sum(len(node.requests) for node in world.nodes) == 1
            assert await settle_spent(world) == 0

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
            raw = await read_raw_stream(world)
            assert b"[DONE]" not in raw
            last = json.loads(raw.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
            assert last["error"]["code"] == "provider_lost"
            assert last["choices"][0]["finish_reason"] == "error"

    asyncio.run(story())


def test_engine_that_breaks_mid_stream_is_billed_for_what_came(tmp_path: Path) -> None:
    """The receipt says ERROR: the client gets an in-band error, the key pays for what it got."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            node = await world.add_node(0, options={"delay_ms": "20"})
            node.engine_breaks_after = 4
            raw = await read_raw_stream(world)
            assert b"provider_lost" in raw
            (row,) = await list_rows(world)
            assert row.status == "cut"
            assert 0 < row.cost_nano == await settle_spent(world)

    asyncio.run(story())


def test_engine_that_breaks_whole_answers_is_replaced_at_our_cost(tmp_path: Path) -> None:
    """A cut answer that nobody saw is not charged to the key; the call is done elsewhere."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world:
            world.nodes[0].engine_breaks_after = 0
            for number in range(5):
                answer = await world.ask(f"{number} hi")
                assert answer.choices[0].message.content == f"{number} hi"
            charged = [row.cost_nano for row in await list_rows(world) if row.key_id is not None]
            assert await settle_spent(world) == sum(charged)

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
            rows = await list_rows(world)
            assert [row.status for row in rows] == (["cut"] if is_stream else ["failed"])
            assert await settle_spent(world) == rows[0].cost_nano
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
            paid = [row for row in await list_rows(world) if row.receipt_hash is not None]
            assert {row.provider for row in paid} == {honest.key.account}
            assert await settle_spent(world) == sum(row.cost_nano for row in paid)

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
            break_node(world.nodes[0], "engine_error", times=3)
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
