"""The short cut for whole calls: whatever is asked, it answers as the ordinary way does, byte for byte."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_world import MODEL, World, open_world
from tests.raw_http import RawConnection, RawReply, open_raw

from steelyard.gateway.work import Work

CHAT = "/v1/chat/completions"
VARIABLE = re.compile(rb"0x[0-9a-f]{64}|(?:call_|chatcmpl-|cmpl-|req_)[0-9a-f]+|\"created\":\d+|\w{3}, \d\d .{17} GMT")


def _chat(text: str = "hello there", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def _fixed(reply: RawReply) -> tuple[int, bytes, bytes]:
    """A reply without what differs from call to call."""
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in reply.headers)
    return reply.status, VARIABLE.sub(b"?", head), VARIABLE.sub(b"?", reply.body)


async def _both(raw: RawConnection, path: str, body: Any, **headers: str) -> tuple[RawReply, RawReply]:
    """The same request with a declared length, and in chunks, which the short cut leaves alone."""
    raw.send(raw.post(path, body, **headers))
    fast = await raw.read()
    raw.send(raw.post_in_chunks(path, body, **headers))
    return fast, await raw.read()


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The APIs of the requests that went the ordinary way."""
    seen: list[str] = []
    answer = Work.answer

    async def note(self: Work, api: str, *args: Any) -> int:
        seen.append(api)
        return await answer(self, api, *args)

    monkeypatch.setattr(Work, "answer", note)
    return seen


async def _warm(world: World, ordinary: list[str]) -> None:
    await world.ask()  # the first call waits for a lease
    ordinary.clear()


def test_whole_call_is_answered_with_the_same_bytes(tmp_path: Path, ordinary: list[str]) -> None:
    """Status, headers in their order, and body; for both APIs, a browser, and a caller's own request id."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            await _warm(world, ordinary)
            prompt = {"model": MODEL, "prompt": "hello % there"}
            for path, body, headers in (
                (CHAT, _chat(), {}),
                (CHAT, _chat("äöü %s €"), {"x_request_id": "mine-1"}),
                (CHAT, _chat(max_tokens=3), {"x_request_id": "no good", "origin": "https://shop.example"}),
                ("/v1/completions", prompt, {"x_steelyard_private": "true"}),
            ):
                fast, slow = await _both(raw, path, body, **headers)
                assert len(ordinary) == 1, "the first of the two took the short cut"
                ordinary.clear()
                assert _fixed(fast) == _fixed(slow)
                assert fast.status == 200

    asyncio.run(story())


def test_whole_call_counts_and_is_kept_like_any_other(tmp_path: Path, ordinary: list[str]) -> None:
    """Metrics, the call's row and its proof, and the budget: a short cut for time alone."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            await _warm(world, ordinary)
            metrics = world.gateway.metrics
            replies, answered = metrics.replies["chat.completions", 200], sum(metrics.answered.counts)
            fast, _ = await _both(raw, CHAT, _chat(), x_steelyard_private="1")
            assert metrics.replies["chat.completions", 200] == replies + 2
            assert sum(metrics.answered.counts) == answered + 2
            assert world.gateway.fast.in_flight == 0 == world.gateway.settlement.in_flight
            await world.gateway.writer.flush()
            status, call, _ = await world.get(f"/calls/{fast.header('x-steelyard-call')}")
            assert status == 200
            assert call["cost_nano"] == int(fast.header("x-steelyard-cost-nano") or -1)

    asyncio.run(story())


def test_refused_call_is_told_the_same(tmp_path: Path, ordinary: list[str]) -> None:
    """Every refusal is the ordinary way's own, whatever the short cut had looked at before it gave up."""

    async def story() -> None:
        async with open_world(tmp_path, max_body_bytes=10_000) as world, open_raw(world.base_url, "x") as raw:
            await _warm(world, ordinary)
            good = f"Bearer {world.secret}"
            poor = "Bearer " + await world.new_key("poor", limit_nano=1)
            for body, key, status in (
                (_chat(), "", 401),
                (_chat(), "Bearer sk-steelyard-nobody", 401),
                (b"{", good, 400),
                (_chat(temperature=3), good, 400),
                (_chat(model="echo-2"), good, 404),
                ({"model": 7}, good, 400),
                (_chat(), poor, 402),
            ):
                fast, slow = await _both(raw, CHAT, body, authorization=key)
                assert (fast.status, slow.status) == (status, status)
                assert _fixed(fast) == _fixed(slow)
            assert len(ordinary) == 14
            raw.send(raw.post(CHAT, b"x" * 10_001, authorization=good))
            assert (await raw.read()).status == 413
            fast, slow = await _both(raw, "/v1/embeddings", {"model": MODEL, "input": "x"}, authorization=good)
            assert _fixed(fast) == _fixed(slow)
            assert fast.status == 400

    asyncio.run(story())


def test_rate_limit_counts_each_request_once(tmp_path: Path, ordinary: list[str]) -> None:
    """Three a minute are three, by whatever way: a request that is replayed takes no second turn."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            await _warm(world, ordinary)
            key = "Bearer " + await world.new_key("slow", requests_per_minute=5, limit_nano=10**9)
            statuses = []
            for body in (_chat(), _chat(temperature=3), _chat(), _chat(stream=True), _chat(), _chat(), _chat()):
                raw.send(raw.post(CHAT, body, authorization=key))
                statuses.append((await raw.read()).status)
            assert statuses == [200, 400, 200, 200, 200, 429, 429]
            assert len(ordinary) == 5, "two good ones were quick; the first, the odd and the refused were not"

    asyncio.run(story())


def test_what_is_not_whole_or_not_plain_goes_the_ordinary_way(tmp_path: Path, ordinary: list[str]) -> None:
    """Streams, Expect, Idempotency-Key, HTTP/1.0, a connection to be closed, a query, a large body."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            await _warm(world, ordinary)
            for body, path, headers in (
                (_chat(stream=True), CHAT, {}),
                (_chat(), CHAT, {"expect": "100-continue"}),
                (_chat(), CHAT, {"idempotency_key": "one"}),
                (_chat(), CHAT, {"connection": "close"}),
                (_chat(), CHAT + "?x=1", {}),
                (_chat("word " * 20_000), CHAT, {}),
            ):
                async with open_raw(world.base_url, world.secret) as raw:
                    raw.send(raw.post(path, body, **headers))
                    if "expect" in headers:
                        assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                    reply = await raw.read()
                    assert reply.status == 200, reply
                    assert ordinary == ["chat.completions"], headers
                    ordinary.clear()
                    if "connection" in headers:
                        assert await raw.is_closed()
            async with open_raw(world.base_url, world.secret) as raw:
                raw.send(raw.post(CHAT, _chat()).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
                assert (await raw.read()).header("connection") == "close"
                assert ordinary == ["chat.completions"]

    asyncio.run(story())


def test_requests_in_odd_packets_are_read_whole(tmp_path: Path, ordinary: list[str]) -> None:
    """A request that comes byte by byte, and two whose border lies inside a packet."""

    async def story() -> None:
        async with open_world(tmp_path) as world, open_raw(world.base_url, world.secret) as raw:
            await _warm(world, ordinary)
            for byte in raw.post(CHAT, _chat("one")):
                raw.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await raw.read()).json["choices"][0]["message"]["content"] == "one"
            two, three = raw.post(CHAT, _chat("two")), raw.post(CHAT, _chat("three"))
            raw.send(two, three[:100])
            assert (await raw.read()).json["choices"][0]["message"]["content"] == "two"
            raw.send(three[100:])
            assert (await raw.read()).json["choices"][0]["message"]["content"] == "three"
            assert ordinary == []

    asyncio.run(story())
