"""Evidence over real sockets: whole, missing, late, asked for by many, over a connection that breaks."""

from __future__ import annotations

import asyncio
import os

import pytest
from tests.link_raw import RawNode
from tests.link_world import PROVIDER_KEY, World, linked, until

from steelyard.errors import TooLarge, Unavailable
from steelyard.link import asks
from steelyard.link.frames import Show
from steelyard.link.limits import MAX_SHOW_CHUNKS, SHOW_BYTES
from steelyard.protocol.signing import SigningKey

RECEIPT = b"\x07" * 32


@pytest.mark.parametrize("size", [0, 1, SHOW_BYTES, SHOW_BYTES + 1, 5 * SHOW_BYTES - 3])
def test_evidence_comes_whole_whatever_its_size(size: int) -> None:
    """Empty, of one chunk, and of several."""

    async def scenario() -> None:
        async with linked() as world:
            world.node.evidence[RECEIPT] = os.urandom(size)
            assert await world.link.fetch_evidence(RECEIPT) == world.node.evidence[RECEIPT]

    asyncio.run(scenario())


def test_evidence_that_is_not_there_is_none() -> None:
    """An unknown receipt is answered, and the next ask goes on."""

    async def scenario() -> None:
        async with linked() as world:
            assert await world.link.fetch_evidence(RECEIPT) is None
            world.node.evidence[RECEIPT] = b"now"
            assert await world.link.fetch_evidence(RECEIPT) == b"now"

    asyncio.run(scenario())


def test_evidence_survives_a_connection_that_is_cut() -> None:
    """Chunks that were on the way when the connection broke are sent again; the evidence is the same."""

    async def scenario() -> None:
        async with linked(cuts=[300_000, 700_000]) as world:
            world.node.evidence[RECEIPT] = os.urandom(4 * SHOW_BYTES)
            assert await world.link.fetch_evidence(RECEIPT) == world.node.evidence[RECEIPT]
            assert world.proxy is not None
            assert world.proxy.connections >= 2

    asyncio.run(scenario())


def test_asks_for_one_receipt_share_one_answer() -> None:
    """Ten who ask at once cost the provider one look."""

    async def scenario() -> None:
        async with linked() as world:
            world.node.evidence[RECEIPT] = b"evidence"
            assert set(await asyncio.gather(*(world.link.fetch_evidence(RECEIPT) for _ in range(10)))) == {b"evidence"}
            assert world.node.asked == [RECEIPT]

    asyncio.run(scenario())


async def refusal(world: World, receipt_hash: bytes) -> str:
    """The code with which an ask is refused."""
    with pytest.raises(Unavailable) as caught:
        await world.link.fetch_evidence(receipt_hash)
    return caught.value.code


def test_silent_provider_is_given_up_and_asks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight asks may wait; a ninth is refused at once; silence ends each, and then there is room again."""
    monkeypatch.setattr("steelyard.link.provider_link.ASK_S", 0.3)

    async def scenario() -> None:
        async with linked() as world:
            receipts = [bytes([n]) * 32 for n in range(asks.MAX_ASKS)]
            world.node.mute |= set(receipts)
            waiting = [asyncio.create_task(refusal(world, receipt)) for receipt in receipts]
            await until(lambda: len(world.node.asked) == asks.MAX_ASKS)
            assert await refusal(world, b"\x77" * 32) == "evidence_busy"
            assert set(await asyncio.gather(*waiting)) == {"evidence_timeout"}
            world.node.evidence[b"\x77" * 32] = b"later"
            assert await world.link.fetch_evidence(b"\x77" * 32) == b"later"

    asyncio.run(scenario())


def test_lost_link_ends_an_ask() -> None:
    """Who waits hears when the session is over, and who asks a link that is down hears at once."""

    async def scenario() -> None:
        async with linked() as world:
            world.node.mute.add(RECEIPT)
            link = world.link
            waiting = asyncio.create_task(link.fetch_evidence(RECEIPT))
            await until(lambda: world.node.asked)
            await world.client.aclose()
            with pytest.raises(Unavailable) as caught:
                await waiting
            assert caught.value.code == "link_lost"
            with pytest.raises(Unavailable, match="no connection"):
                await link.fetch_evidence(RECEIPT)

    asyncio.run(scenario())


def test_chunks_that_nobody_asked_for_or_out_of_order_are_passed_over() -> None:
    """A provider can neither fill a gateway's memory nor mix up an answer with chunks at will."""

    async def scenario() -> None:
        async with linked() as world:
            bad = await RawNode.dial(world.port, SigningKey(b"\x09" * 32))
            (link,) = [link for link in world.server.links if link.provider != PROVIDER_KEY.account]
            for index in range(MAX_SHOW_CHUNKS):
                bad.send(Show(b"\x01" * 32, True, index, MAX_SHOW_CHUNKS, bytes(1000)))
            fetching = asyncio.create_task(link.fetch_evidence(RECEIPT))
            await asyncio.sleep(0.05)
            bad.send(Show(RECEIPT, True, 1, 2, b"b"), Show(RECEIPT, True, 0, 3, b"x"), Show(RECEIPT, True, 1, 2, b"y"))
            bad.send(Show(RECEIPT, True, 0, 2, b"a"), Show(RECEIPT, True, 1, 2, b"b"))
            assert await fetching == b"ab"
            assert link._asks._asks == {}
            bad.wire.abort()

    asyncio.run(scenario())


def test_evidence_beyond_the_law_is_refused_by_its_sender() -> None:
    """More than 64 chunks never leave a node."""

    async def scenario() -> None:
        async with linked() as world:
            with pytest.raises(TooLarge):
                await world.node_link.send_evidence(RECEIPT, bytes(SHOW_BYTES * MAX_SHOW_CHUNKS + 1))

    asyncio.run(scenario())
