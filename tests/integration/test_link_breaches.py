"""Whoever breaks the rules is dropped with a recorded reason, and nobody else's calls suffer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from picows import WSMsgType
from tests.link_raw import RawGateway, RawNode
from tests.link_world import (
    DOMAIN,
    GATEWAY_KEY,
    LIMITS,
    PROVIDER_KEY,
    Call,
    EchoNode,
    RecordingGateway,
    build_offer,
    build_order,
    build_receipt,
    build_voucher,
    linked,
    until,
    with_limits,
)

from steelyard.errors import PeerError, Refusal
from steelyard.link.client import LinkClient
from steelyard.link.frames import Ack, Cancel, Done, Grant, Open, Part, Pay, Terms, encode_frame, join_frames
from steelyard.link.port import CallRequest, Piece
from steelyard.link.server import LinkServer
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.signing import Domain, SigningKey

OTHER_KEY = SigningKey(b"\x09" * 32)
CALL_ID = b"\x01" * 16


def _open_call(server: LinkServer, *, is_stream: bool) -> Call:
    link = server.links[0]
    call = Call(link, CALL_ID, grants=0)
    link.open_call(
        CallRequest(build_order(CALL_ID), b"\x00" * 16, b"\x00" * 32, "echo", b""), call, is_stream=is_stream
    )
    return call


def _part() -> Part:
    return Part(CALL_ID, Piece(b"x", 0, 1))


GATEWAY_BREACHES: dict[str, tuple[str, Callable[[RawNode], None]]] = {
    "garbage": ("bad_message", lambda node: node.send_message(b"\xff\xfe garbage")),
    "text": ("text", lambda node: node.wire._transport.send(WSMsgType.TEXT, b"hello")),  # type: ignore[union-attr]
    "a frame of the other direction": ("bad_message", lambda node: node.send(Cancel(CALL_ID))),
    "a second handshake": ("bad_message", lambda node: node.send_message(join_frames([b"\x95\x01\x01\x00\x00\x00"]))),
    "an oversize frame": ("oversize", lambda node: node.send_message(b"\x00" * (2 << 20))),
    "an oversize message": (
        "oversize",
        lambda node: [
            node.wire._transport.send(WSMsgType(0 if n else 2), b"\x00" * (1 << 20), n == 11)  # type: ignore[union-attr,func-returns-value]
            for n in range(12)
        ],
    ),
    "fragments out of order": (
        "bad_message",
        lambda node: node.wire._transport.send(WSMsgType.CONTINUATION, b"x"),  # type: ignore[union-attr]
    ),
    "an impossible acknowledgement": ("bad_message", lambda node: node.send(Ack(5000))),
    "more pieces than granted": ("bad_message", lambda node: node.send(*[_part()] * 65)),
    "a receipt out of range": (
        "bad_message",
        lambda node: node.send(Done(CALL_ID, build_receipt(build_order(CALL_ID), -1), None)),
    ),
    "offers of somebody else": ("bad_message", lambda node: node.send(Terms((build_offer(OTHER_KEY),)))),
    "a flood": ("flood", lambda node: [node.send(*[Ack(0)] * 1000) for _ in range(20)]),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("name", GATEWAY_BREACHES)
def test_node_that_breaks_the_rules_is_dropped_and_recorded(name: str) -> None:
    """The gateway says goodbye with the code, records it with the proven account, and fails the calls in flight."""
    code, misbehave = GATEWAY_BREACHES[name]

    async def scenario() -> None:
        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, with_limits(messages_per_s=100, burst_messages=10_000))
        node = await RawNode.dial(await server.start("127.0.0.1", 0))
        call = _open_call(server, is_stream=True)
        misbehave(node)
        await until(lambda: gateway.refused)
        account, error = gateway.refused[0]
        assert account == PROVIDER_KEY.account
        assert isinstance(error, PeerError)
        assert error.code == code
        await call.ended.wait()
        assert call.failure is not None
        assert call.failure.code == "link_lost"
        assert server.links == ()
        assert len(gateway.downs) == 1
        await asyncio.wait_for(node.lost.wait(), 2)
        await server.aclose()

    asyncio.run(scenario())


def test_breach_of_one_node_does_not_touch_another() -> None:
    """While one node is dropped, the other's stream goes on."""

    async def scenario() -> None:
        async with linked(node=EchoNode(step=1)) as world:
            honest = world.call(b"y" * 500, is_stream=True)
            bad = await RawNode.dial(world.port, OTHER_KEY)
            bad.send_message(b"garbage")
            await asyncio.wait_for(bad.lost.wait(), 2)
            await honest.ended.wait()
            assert honest.content == b"y" * 500

    asyncio.run(scenario())


NODE_BREACHES: dict[str, tuple[str, Callable[[RawGateway], None]]] = {
    "garbage": ("bad_message", lambda gateway: gateway.send_message(b"\xff garbage")),
    "a frame of the other direction": ("bad_message", lambda gateway: gateway.send(_part())),
    "a call opened twice": ("bad_message", lambda gateway: gateway.send(*[_opening(b"x")] * 2)),
    "a body over the limit": ("oversize", lambda gateway: gateway.send(_opening(b"x" * 2000))),
    "an absurd grant": ("bad_message", lambda gateway: gateway.send(_opening(b""), *[Grant(CALL_ID, 65_536)] * 17)),
    "an impossible acknowledgement": ("bad_message", lambda gateway: gateway.send(Ack(9))),
    "a voucher out of range": ("bad_message", lambda gateway: gateway.send(Pay(build_voucher(-1)))),
    "a flood": ("flood", lambda gateway: [gateway.send(*[Ack(0)] * 1000) for _ in range(20)]),  # type: ignore[func-returns-value]
}


def _opening(body: bytes) -> Open:
    return Open(CallRequest(build_order(CALL_ID), b"\x00" * 16, b"\x00" * 32, "echo", body), 4)


@pytest.mark.parametrize("name", NODE_BREACHES)
def test_gateway_that_breaks_the_rules_is_dropped_and_recorded(name: str) -> None:
    """The node says goodbye with the code, records it, cancels its calls, and dials again."""
    code, misbehave = NODE_BREACHES[name]

    async def scenario() -> None:
        gateway, node = RawGateway(), EchoNode()
        node.hold.clear()
        port = await gateway.start()
        limits = with_limits(messages_per_s=100, burst_messages=10_000, max_body_bytes=1000)
        client = LinkClient(f"ws://127.0.0.1:{port}/link", PROVIDER_KEY, DOMAIN, node, limits=limits)
        task = asyncio.create_task(client.run())
        await asyncio.wait_for(gateway.connected.wait(), 5)
        misbehave(gateway)
        await until(lambda: node.refused)
        assert node.refused[0][0] == GATEWAY_KEY.account
        assert node.refused[0][1].code == code
        assert node.cancelled == ([CALL_ID] if node.calls else [])
        await until(lambda: gateway.sessions == 2)
        assert gateway.proofs[1].session == b""
        await client.aclose()
        await task
        await gateway.aclose()

    asyncio.run(scenario())


def test_callback_that_raises_a_peer_error_drops_the_link() -> None:
    """A receipt that fails the gateway's checks, or a voucher that fails the node's, ends the session by its code."""

    async def scenario() -> None:
        async with linked() as world:
            call = world.call(b"x")
            error = PeerError("the receipt lies", code="bad_receipt")

            def refuse(receipt: object) -> None:
                raise error

            call.on_done = refuse  # type: ignore[method-assign,assignment]
            await until(lambda: world.gateway.refused)
            assert world.gateway.refused[0] == (PROVIDER_KEY.account, error)
            await until(lambda: len(world.node.ups) == 2 and world.server.links)

            def refuse_voucher(signed: object) -> None:
                raise PeerError("a lower total", code="bad_total")

            world.node.on_voucher_hook = refuse_voucher
            world.link.send_voucher(build_voucher(5))
            await until(lambda: world.node.refused)
            assert world.node.refused[0][1].code == "bad_total"

    asyncio.run(scenario())


def test_node_that_is_not_admitted_is_told_why_and_dials_again() -> None:
    """A refusal by the gateway's registry check reaches the node by code, and admission later succeeds."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        gateway.refuse_with = Refusal("this provider has no stake", code="not_staked")
        async with linked(gateway=gateway, wait=False) as world:
            await until(lambda: gateway.refused)
            assert gateway.refused[0][0] == PROVIDER_KEY.account
            assert world.node.refused == []
            gateway.refuse_with = None
            await asyncio.wait_for(gateway.up.wait(), 5)

    asyncio.run(scenario())


def test_gateway_that_is_not_in_the_registry_is_not_served() -> None:
    """The node hangs up before it proves itself, and records the proven gateway."""

    async def scenario() -> None:
        node = EchoNode()
        node.refuse_with = Refusal("this gateway has no stake", code="not_staked")
        async with linked(node=node, wait=False) as world:
            await until(lambda: node.refused)
            assert node.refused[0][0] == GATEWAY_KEY.account
            assert not world.gateway.up.is_set()
            node.refuse_with = None
            await asyncio.wait_for(world.gateway.up.wait(), 5)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("key", "domain", "channel", "code"),
    [
        (GATEWAY_KEY, DOMAIN, ZERO32, "own_account"),
        (PROVIDER_KEY, Domain(31415, b"\x06" * 32), ZERO32, "other_deployment"),
        (PROVIDER_KEY, Domain(1, DOMAIN.salt), ZERO32, "other_deployment"),
    ],
)
def test_wrong_hello_is_refused_and_recorded(key: SigningKey, domain: Domain, channel: bytes, code: str) -> None:
    """A wrong account, salt or chain is named to the dialler and recorded by the gateway."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await server.start("127.0.0.1", 0)
        with pytest.raises(ConnectionError, match=code):
            await RawNode.dial(port, key, domain, channel=channel)
        await until(lambda: gateway.refused)
        assert gateway.refused[0][1].code == code
        await server.aclose()

    asyncio.run(scenario())


def test_silent_and_talkative_strangers_are_dropped() -> None:
    """Who doesn't shake hands in time, or says too much first, is dropped and recorded without an account."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, with_limits(handshake_s=0.2))
        port = await server.start("127.0.0.1", 0)
        silent, talkative = RawNode(), RawNode()
        await silent.connect(port)
        await talkative.connect(port)
        talkative.send_message(b"\x00" * 4096)
        await asyncio.wait_for(silent.lost.wait(), 3)
        await asyncio.wait_for(talkative.lost.wait(), 3)
        assert {(account, error.code) for account, error in gateway.refused} == {
            (None, "handshake_timeout"),
            (None, "oversize"),
        }
        await server.aclose()

    asyncio.run(scenario())


def test_crowd_of_strangers_is_bounded() -> None:
    """Beyond the limit of unproven connections a dialler is told to come later, and an honest one gets in after."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, with_limits(max_pending=4, handshake_s=0.5))
        port = await server.start("127.0.0.1", 0)
        strangers = [RawNode() for _ in range(4)]
        for stranger in strangers:
            await stranger.connect(port)
        with pytest.raises(Exception, match="503"):
            await RawNode().connect(port)
        node = EchoNode()
        client = LinkClient(f"ws://127.0.0.1:{port}", PROVIDER_KEY, DOMAIN, node, limits=LIMITS)
        task = asyncio.create_task(client.run())
        await asyncio.wait_for(gateway.up.wait(), 5)
        await client.aclose()
        await task
        await server.aclose()

    asyncio.run(scenario())


def test_crowd_from_one_address_leaves_room_for_others() -> None:
    """One address may have few unproven connections; those beyond are told so and don't take the others' room."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        limits = with_limits(max_pending=8, max_pending_per_host=3, handshake_s=2.0)
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, limits)
        port = await server.start("127.0.0.1", 0)
        strangers = [RawNode() for _ in range(12)]
        for stranger in strangers:
            await stranger.connect(port)
        for stranger in strangers[3:]:
            await asyncio.wait_for(stranger.lost.wait(), 1)
        assert not any(stranger.lost.is_set() for stranger in strangers[:3])
        assert {error.code for _, error in gateway.refused} == {"crowd"}
        await server.aclose()

    asyncio.run(scenario())


def test_peer_that_never_acknowledges_is_dropped() -> None:
    """A node that stays connected and reads nothing can't hold memory beyond the resume window."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, with_limits(resume_window_s=0.5))
        await RawNode.dial(await server.start("127.0.0.1", 0))
        call = _open_call(server, is_stream=False)
        await asyncio.wait_for(call.ended.wait(), 5)
        assert gateway.refused[0][1].code == "not_acknowledged"
        await server.aclose()

    asyncio.run(scenario())


def test_unknown_path_is_not_found() -> None:
    """Only /link is a link."""

    async def scenario() -> None:
        server = LinkServer(GATEWAY_KEY, DOMAIN, RecordingGateway(), LIMITS)
        port = await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"404" in await asyncio.wait_for(reader.readline(), 2)
        writer.close()
        await server.aclose()

    asyncio.run(scenario())


def test_frames_encode_to_what_the_raw_peer_sends() -> None:
    """The raw peer speaks the same bytes as the real one, or the tests above would prove nothing."""
    assert join_frames([encode_frame(Ack(1))]) == b"\x91\x92\x06\x01"
