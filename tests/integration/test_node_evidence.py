"""Evidence of a node on real sockets: committed to by the receipt, kept with its batch, served, and forgotten."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_node_crash import _start
from tests.link_world import DOMAIN, GATEWAY_KEY, LIMITS, until
from tests.node_twins import HandGateway, Ordered
from tests.node_world import SETTINGS, NodeWorld, build_letters, offer_service, open_node_world
from tests.service_world import SAMPLES, body

from steelyard.errors import Unavailable
from steelyard.link.server import LinkServer
from steelyard.node import evidence_desk
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import FinishReason, Grade
from steelyard.services.port import Context, Result
from steelyard.storage.node_evidence import load_evidence

SEED = 7


def chat_order(world: NodeWorld, **fields: Any) -> Ordered:
    """Order an answer of the little model."""
    asked = body(SAMPLES["chat.completions"], **{"max_tokens": 12, "temperature": 1, **fields})
    is_stream = bool(fields.get("stream"))
    return world.order(body=asked, is_stream=is_stream, grade=int(Grade.STATISTICAL), max_cost=10**6)


async def fetched(world: NodeWorld, call: Ordered) -> bytes | None:
    """The evidence of a call, asked for over the link."""
    assert call.receipt is not None
    assert world.gateway.link is not None
    return await world.gateway.link.fetch_evidence(call.receipt.struct_hash())


@pytest.mark.parametrize("is_stream", [False, True])
def test_receipt_commits_to_evidence_that_replays(tmp_path: Path, is_stream: bool) -> None:
    """The root is the evidence's that the node shows, and a checker finds each token to be the sampler's choice."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_letters())]) as world:
            call = chat_order(world, stream=is_stream)
            await call.ended.wait()
            await until(lambda: world.gateway.batches)
            receipt, evidence = call.receipt, await fetched(world, call)
            assert receipt is not None
            assert evidence is not None
            assert receipt.evidence_hash == evidence_root(evidence) != ZERO32
            assert len(evidence) <= 12 + 40 * receipt.units_out
            service = build_letters()
            request = service.parse("chat.completions", body(SAMPLES["chat.completions"], max_tokens=12, temperature=1))
            result = Result(
                content=call.content,
                units_in=receipt.units_in,
                units_out=receipt.units_out,
                finish=FinishReason(receipt.finish_reason),
            )
            replayed = await service.replay(request, result, evidence, Context(seed=SEED))
            assert service.compare(result, evidence, replayed).distance == 0.0

    asyncio.run(story())


def test_exact_kind_commits_to_none_and_shows_none(tmp_path: Path) -> None:
    """An echo is checked by its content: its receipt has the zero root, and nothing is kept."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            call = world.order("hello")
            await call.ended.wait()
            await until(lambda: world.gateway.batches)
            assert call.receipt is not None
            assert call.receipt.evidence_hash == ZERO32
            assert await fetched(world, call) is None

    asyncio.run(story())


def test_cancelled_stream_commits_to_what_was_made(tmp_path: Path) -> None:
    """Who hangs up gets a receipt whose evidence spells at least what was sent."""

    async def story() -> None:
        letters = build_letters([*b"a long answer that is never heard to its end" * 3])
        async with open_node_world(tmp_path, services=[offer_service(letters)]) as world:
            asked = body(SAMPLES["chat.completions"], max_tokens=100, stream=True)
            call = world.order(body=asked, is_stream=True, grants=0, grade=int(Grade.STATISTICAL), max_cost=10**6)
            await until(lambda: len(call.pieces) >= 10)
            assert world.gateway.link is not None
            world.gateway.link.cancel_call(call.call_id)
            await call.ended.wait()
            assert call.receipt is not None
            assert call.receipt.finish_reason == FinishReason.CANCELLED
            await until(lambda: world.gateway.batches)
            evidence = await fetched(world, call)
            assert evidence is not None
            assert call.receipt.evidence_hash == evidence_root(evidence)
            request = letters.parse("chat.completions", asked)
            result = Result(
                content=call.content,
                units_in=call.receipt.units_in,
                units_out=call.receipt.units_out,
                finish=FinishReason.CANCELLED,
            )
            await letters.replay(request, result, evidence, Context(seed=SEED))

    asyncio.run(story())


def test_evidence_survives_restarts_and_is_forgotten_in_time(tmp_path: Path) -> None:
    """It is there after a kill, gone after its time, and what is gone is deleted and not only hidden."""

    async def story() -> None:
        services = [offer_service(build_letters())]
        async with open_node_world(tmp_path, services=services, evidence_keep_s=3.0) as world:
            call = chat_order(world)
            await call.ended.wait()
            await until(lambda: world.gateway.batches)
            before = await fetched(world, call)
            assert before is not None
            await world.kill_node()
            await world.start_node()
            assert await fetched(world, call) == before
            await asyncio.sleep(3.0)
            assert await fetched(world, call) is None
            assert call.receipt is not None
            world.node._desk._now_ms = lambda: 2**62
            forgetting = asyncio.create_task(world.node._desk.run())
            receipt = call.receipt.struct_hash()
            async with asyncio.timeout(5):
                while await load_evidence(world.database, receipt, GATEWAY_KEY.account, now_ms=0) is not None:  # noqa: ASYNC110  # a row has no event
                    await asyncio.sleep(0.01)
            forgetting.cancel()

    asyncio.run(story())


def test_evidence_is_shown_to_nobody_but_its_gateway(tmp_path: Path) -> None:
    """Its tokens spell the answer: another gateway that knows the receipt's hash learns nothing."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_letters())]) as world:
            call = chat_order(world)
            await call.ended.wait()
            await until(lambda: world.gateway.batches)
            assert call.receipt is not None
            receipt = call.receipt.struct_hash()
            assert await load_evidence(world.database, receipt, GATEWAY_KEY.account, now_ms=0) is not None
            assert await load_evidence(world.database, receipt, b"\x66" * 20, now_ms=0) is None
            assert world.gateway.link is not None
            assert await world.gateway.link.fetch_evidence(b"\x00" * 32) is None

    asyncio.run(story())


def test_asks_beyond_the_bound_are_left_unanswered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that asks without end is answered at the node's pace, and the node keeps no more than its bound."""
    monkeypatch.setattr(evidence_desk, "MAX_WAITING", 3)
    monkeypatch.setattr("steelyard.link.provider_link.ASK_S", 1.0)

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            link = world.gateway.link
            assert link is not None
            asked = [link.fetch_evidence(bytes([n]) * 32) for n in range(8)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, Unavailable)]
            assert 0 < answers.count(None) < 8
            assert {error.code for error in refused} == {"evidence_timeout"}
            call = world.order("still served")
            await call.ended.wait()
            assert call.content == b"still served"

    asyncio.run(story())


def test_node_killed_by_sigkill_shows_what_its_signed_receipts_name(tmp_path: Path) -> None:
    """A process that dies with its batch sent has its evidence on disk; the next process serves it."""

    async def story() -> None:
        gateway = HandGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await server.start("127.0.0.1", 0)
        world = NodeWorld(tmp_path, None, gateway, server, port, SETTINGS, {}, *[None] * 4, [], [])  # type: ignore[arg-type]
        process = await _start(tmp_path, port, "chat")
        try:
            await asyncio.wait_for(gateway.up.wait(), 20)
            calls = [chat_order(world) for _ in range(5)]
            await asyncio.gather(*(call.ended.wait() for call in calls))
            await until(lambda: gateway.lanes[gateway.lane].count == 5)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            gateway.up.clear()
            process = await _start(tmp_path, port, "chat")
            await asyncio.wait_for(gateway.up.wait(), 20)
            for call in calls:
                evidence = await fetched(world, call)
                assert evidence is not None
                assert call.receipt is not None
                assert evidence_root(evidence) == call.receipt.evidence_hash
        finally:
            process.kill()
            await process.wait()
            await server.aclose()

    asyncio.run(story())
