"""Connections break, processes restart: what goes on, what ends, and how soon the link is back."""

from __future__ import annotations

import asyncio
import time

from tests.link_raw import RawGateway, RawNode
from tests.link_world import (
    DOMAIN,
    GATEWAY_KEY,
    LANE,
    LIMITS,
    PROVIDER_KEY,
    EchoNode,
    RecordingGateway,
    build_voucher,
    linked,
    until,
    with_limits,
)

from steelyard.errors import ChainUnreachable
from steelyard.link.client import LinkClient
from steelyard.link.server import LinkServer
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, SignedBatch
from steelyard.protocol.messages import Batch


def test_cut_connection_is_back_within_two_seconds() -> None:
    """Five cuts in a row: each time the same session is up again within 2 s, and in-flight streams go on."""

    async def scenario() -> None:
        async with linked(cuts=[], node=EchoNode(step=1)) as world:
            assert world.proxy is not None
            session = world.link.session
            call = world.call(b"z" * 300, is_stream=True, grants=0)
            slowest_s = 0.0
            for cut in range(5):
                await until(lambda cut=cut: len(call.pieces) >= 40 * cut)  # type: ignore[misc]
                world.gateway.up.clear()
                started = time.perf_counter()
                world.proxy.cut()
                await asyncio.wait_for(world.gateway.up.wait(), 3)
                slowest_s = max(slowest_s, time.perf_counter() - started)
                call.link.grant_pieces(call.call_id, 60)
            assert slowest_s < 2.0
            await call.ended.wait()
            assert call.content == b"z" * 300
            assert world.link.session == session
            assert world.gateway.refused == world.node.refused == []
            assert len(world.gateway.downs) == 5

    asyncio.run(scenario())


def test_link_is_back_within_two_seconds_after_an_outage() -> None:
    """However long the gateway was away, once it listens again the link is up within 2 s."""

    async def scenario() -> None:
        async with linked(cuts=[], limits=with_limits(resume_window_s=20.0)) as world:
            assert world.proxy is not None
            world.proxy.is_open = False
            world.proxy.cut()
            await until(lambda: world.gateway.downs)
            await asyncio.sleep(3.0)
            world.gateway.up.clear()
            world.proxy.is_open = True
            started = time.perf_counter()
            await asyncio.wait_for(world.gateway.up.wait(), 3)
            assert time.perf_counter() - started < 2.0

    asyncio.run(scenario())


def test_link_cut_while_the_chain_is_silent_goes_on_without_it() -> None:
    """Both ends know each other: the session is resumed though neither could ask a chain who the other is."""

    async def scenario() -> None:
        async with linked(cuts=[]) as world:
            assert world.proxy is not None
            session = world.link.session
            world.node.refuse_with = world.gateway.refuse_with = ChainUnreachable("no endpoint answers")
            world.gateway.up.clear()
            world.proxy.cut()
            await asyncio.wait_for(world.gateway.up.wait(), 3)
            assert world.link.session == session

    asyncio.run(scenario())


def test_node_whose_chain_was_silent_while_it_dialled_dials_again() -> None:
    """A chain that doesn't answer is no reason to give up a gateway: a node once stayed away for ever."""

    async def scenario() -> None:
        node = EchoNode()
        node.refuse_with = ChainUnreachable("no endpoint answers")
        async with linked(node=node, wait=False) as world:
            await until(lambda: node.refused)
            assert not world.task.done()
            node.refuse_with = None
            await asyncio.wait_for(world.gateway.up.wait(), 4)

    asyncio.run(scenario())


def test_call_opened_while_the_link_is_down_fails_at_once() -> None:
    """Nothing waits for a provider that isn't there; calls of before the cut go on when it is back."""

    async def scenario() -> None:
        async with linked(cuts=[]) as world:
            assert world.proxy is not None
            world.node.hold.clear()
            before = world.call(b"before")
            await until(lambda: world.node.tasks)
            world.proxy.is_open = False
            world.proxy.cut()
            await until(lambda: not world.link.is_up)
            down = world.call(b"down")
            assert down.failure is None
            await down.ended.wait()
            assert down.failure is not None
            assert down.failure.code == "link_lost"
            world.node.hold.set()
            world.link.send_voucher(build_voucher(9))
            world.proxy.is_open = True
            await before.ended.wait()
            assert before.content == b"before"
            await until(lambda: [signed.voucher.cumulative for signed in world.node.vouchers] == [9])

    asyncio.run(scenario())


def test_node_that_stays_away_loses_its_calls_after_the_resume_window() -> None:
    """Beyond the window calls fail with link_lost, the node is asked to cancel its own, and a new session begins."""

    async def scenario() -> None:
        async with linked(cuts=[], limits=with_limits(resume_window_s=0.3)) as world:
            assert world.proxy is not None
            world.node.hold.clear()
            call = world.call(b"x", is_stream=True)
            await until(lambda: world.node.tasks)
            session = world.link.session
            world.proxy.is_open = False
            world.proxy.cut()
            await call.ended.wait()
            assert call.failure is not None
            assert call.failure.code == "link_lost"
            await until(lambda: world.node.cancelled == [call.call_id])
            assert world.server.links == ()
            world.proxy.is_open = True
            await until(lambda: len(world.node.ups) == 2)
            assert world.link.session != session

    asyncio.run(scenario())


def test_restarted_gateway_begins_a_new_session_and_the_node_cancels() -> None:
    """A gateway that knows no session gets its lanes' later batches asked for, and old calls end at the node."""

    async def scenario() -> None:
        gateway, node = RecordingGateway(), EchoNode()
        first = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await first.start("127.0.0.1", 0)
        client = LinkClient(f"ws://127.0.0.1:{port}", PROVIDER_KEY, DOMAIN, node, limits=LIMITS)
        task = asyncio.create_task(client.run())
        await asyncio.wait_for(gateway.up.wait(), 5)
        await until(lambda: client.link)
        node.hold.clear()
        from tests.link_world import World

        world = World(gateway, node, first, client, None, port, task)
        call = world.call(b"x", is_stream=True)
        await until(lambda: node.tasks)
        old = client.link
        await first.aclose()
        assert call.failure is not None
        gateway.lanes = [LaneState(lane=LANE, seq=4, count=9, cumulative=77)]
        gateway.up.clear()
        second = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        await second.start("127.0.0.1", port)
        started = time.perf_counter()
        await asyncio.wait_for(gateway.up.wait(), 5)
        assert time.perf_counter() - started < 2.0
        await until(lambda: len(node.ups) == 2)
        assert node.cancelled == [call.call_id]
        assert list(node.ups[1][1]) == gateway.lanes
        assert old is not None
        assert old.is_over
        await client.aclose()
        await task
        await second.aclose()

    asyncio.run(scenario())


def test_restarted_node_gets_the_highest_vouchers_again() -> None:
    """A node that lost its session hears each lane's last voucher on the new one, and its old calls fail."""

    async def scenario() -> None:
        async with linked() as world:
            world.node.hold.clear()
            call = world.call(b"x")
            for total, lane_id in ((5, 7), (9, 7), (3, 8)):
                world.link.send_voucher(build_voucher(total, lane_id))
            await until(lambda: len(world.node.vouchers) == 3)
            second_node = EchoNode()
            second = LinkClient(
                f"ws://127.0.0.1:{world.port}", PROVIDER_KEY, DOMAIN, second_node, limits=LIMITS, jitter=lambda: 0.0
            )
            await world.client.aclose()
            task = asyncio.create_task(second.run())
            await call.ended.wait()
            assert call.failure is not None
            await until(lambda: len(second_node.vouchers) == 2)
            assert {(s.voucher.lane_id, s.voucher.cumulative) for s in second_node.vouchers} == {(7, 9), (8, 3)}
            await second.aclose()
            await task

    asyncio.run(scenario())


def test_second_connection_of_a_provider_replaces_the_first() -> None:
    """The newest connection wins: a machine that died without a word doesn't lock its successor out."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await server.start("127.0.0.1", 0)
        first = await RawNode.dial(port)
        second = await RawNode.dial(port)
        await asyncio.wait_for(first.lost.wait(), 2)
        assert first.goodbye is not None
        assert len(server.links) == 1
        assert server.links[0].session == second.ready.session
        await server.aclose()

    asyncio.run(scenario())


def test_session_of_another_provider_or_a_false_count_is_not_resumed() -> None:
    """A session belongs to its account, and its counts are checked."""

    async def scenario() -> None:
        from steelyard.protocol.signing import SigningKey

        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await server.start("127.0.0.1", 0)
        victim = await RawNode.dial(port)
        thief = await RawNode.dial(port, SigningKey(b"\x09" * 32), session=victim.ready.session)
        assert not thief.ready.is_resumed
        assert thief.ready.session != victim.ready.session
        liar = RawNode.dial(port, session=victim.ready.session, received=1000)
        try:
            await liar
        except ConnectionError as error:
            assert str(error) == "bad_message"  # noqa: PT017  # the goodbye's code is the message
        else:
            raise AssertionError("a false count was taken")
        await until(lambda: gateway.refused)
        await server.aclose()

    asyncio.run(scenario())


def test_stream_buffer_is_bounded_while_the_gateway_is_away() -> None:
    """With the connection gone the node's stream stops after 64 KiB instead of filling memory."""

    async def scenario() -> None:
        async with linked(cuts=[], node=EchoNode(step=4096)) as world:
            assert world.proxy is not None
            world.node.hold.clear()
            call = world.call(b"q" * (1 << 20), is_stream=True)
            await until(lambda: world.node.tasks)
            world.proxy.is_open = False
            world.proxy.cut()
            await until(lambda: not world.node_link.is_up)
            world.node.hold.set()
            await asyncio.sleep(0.1)
            outbox = world.node_link.pipe.outbox
            assert 64 * 1024 <= outbox.size_bytes < 64 * 1024 + 2 * 4096
            world.proxy.is_open = True
            await call.ended.wait()
            assert call.content == b"q" * (1 << 20)

    asyncio.run(scenario())


def test_gateway_that_forgets_sessions_is_dialled_with_the_old_session_named() -> None:
    """The client asks to resume; an answer with a new session ends the old one's calls."""

    async def scenario() -> None:
        gateway, node = RawGateway(), EchoNode()
        port = await gateway.start()
        client = LinkClient(f"ws://127.0.0.1:{port}", PROVIDER_KEY, DOMAIN, node, limits=LIMITS)
        task = asyncio.create_task(client.run())
        await asyncio.wait_for(gateway.connected.wait(), 5)
        gateway.wire.abort()
        await until(lambda: gateway.sessions == 2)
        assert gateway.proofs[1].session == (1).to_bytes(16, "big")
        await until(lambda: len(node.ups) == 2)
        await client.aclose()
        await task
        await gateway.aclose()

    asyncio.run(scenario())


def test_last_batches_before_a_goodbye_are_still_taken() -> None:
    """A node that stops in order is paid for its last batches: the gateway finishes what it received."""

    async def scenario() -> None:
        async with linked() as world:
            world.gateway.batch_gate.clear()
            for seq in range(1, 6):
                batch = Batch(LANE.gateway, LANE.provider, LANE.service_id, 7, seq, ZERO32, ZERO32, 1, seq)
                world.node_link.send_batch(SignedBatch(batch, b"\x00" * 65), [seq.to_bytes(16, "big")])
            await world.client.aclose()
            await until(lambda: world.server.links == ())
            assert world.gateway.batches == []
            world.gateway.batch_gate.set()
            await until(lambda: len(world.gateway.batches) == 5)

    asyncio.run(scenario())


def test_frozen_network_is_noticed_by_pings_and_dialled_again() -> None:
    """No reset, no goodbye, just silence: both ends hang up after their pings, and streams go on over a new one."""

    async def scenario() -> None:
        limits = with_limits(ping_s=0.3, resume_window_s=10.0)
        async with linked(cuts=[], limits=limits, node=EchoNode(step=1)) as world:
            assert world.proxy is not None
            call = world.call(b"f" * 200, is_stream=True, grants=0)
            await until(lambda: len(call.pieces) == limits.window_pieces)
            world.gateway.up.clear()
            world.proxy.freeze()
            started = time.perf_counter()
            await asyncio.wait_for(world.gateway.up.wait(), 5)
            assert time.perf_counter() - started < 2.0
            call.link.grant_pieces(call.call_id, 200)
            await call.ended.wait()
            assert call.content == b"f" * 200
            assert len(world.node.ups) == 1

    asyncio.run(scenario())
