"""Whatever a proven peer sends, the door stays open for the others, and the peer is served or dropped with a reason."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from tests.link_raw import RawNode
from tests.link_world import (
    DOMAIN,
    GATEWAY_KEY,
    LANE,
    LIMITS,
    Call,
    RecordingGateway,
    build_offer,
    build_order,
    build_receipt,
    linked,
)

from steelyard.link.frames import Ack, Ask, Cancel, Chain, Done, Fail, Goodbye, Grant, Open, Part, Show, Terms
from steelyard.link.port import CallRequest, Failure, Piece
from steelyard.link.server import LinkServer
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Batch
from steelyard.protocol.signing import SigningKey

STRANGER = SigningKey(b"\x09" * 32)
_ids = st.sampled_from([bytes([n]) * 16 for n in range(4)])
_numbers = st.sampled_from([-1, 0, 1, 63, 2**32, 2**63, 2**64 - 1])
_bytes = st.sampled_from([b"", b"x", b"\x01" * 31, b"\x01" * 32, b"\x01" * 65, b"y" * 2_000])


@st.composite
def _frames(draw: st.DrawFn) -> object:
    call_id, number, data = draw(_ids), draw(_numbers), draw(_bytes)
    piece = Piece(data, draw(_numbers), number)
    batch = Batch(LANE.gateway, LANE.provider, data, 7, number, ZERO32, ZERO32, draw(_numbers), number)
    return draw(
        st.sampled_from(
            [
                Ack(number),
                Part(call_id, piece),
                Part(data, piece),
                Done(call_id, build_receipt(build_order(call_id), number), draw(st.sampled_from([None, piece]))),
                Fail(call_id, Failure("busy" * draw(st.integers(0, 40)), "", retry_after_s=float(draw(_numbers)))),
                Chain(SignedBatch(batch, data), (call_id,) * draw(st.integers(0, 70)), ()),
                Terms((build_offer(draw(st.sampled_from([STRANGER, GATEWAY_KEY]))),)),
                Goodbye("x", "y", draw(st.booleans())),
                Show(data, draw(st.booleans()), number, draw(_numbers), data),
                Ask(b"\x01" * 32),
                Cancel(call_id),
                Grant(call_id, 5),
                Open(CallRequest(build_order(call_id), b"\x00" * 16, ZERO32, "echo", data), 1),
                data,
            ]
        )
    )


@given(messages=st.lists(st.lists(_frames(), min_size=1, max_size=5), min_size=1, max_size=12))
def test_any_frames_of_a_proven_node_leave_the_door_open_for_others(messages: list[list[object]]) -> None:
    """Frames in any order with any fields: afterwards every call of the bad link has ended at most once, the breach is
    recorded if the link is gone, and an honest node's call goes through.
    """

    async def scenario() -> None:
        async with linked() as world:
            bad = await RawNode.dial(world.port, STRANGER)
            (link,) = [link for link in world.server.links if link.provider == STRANGER.account]
            calls = [Call(link, bytes([n]) * 16, grants=0) for n in range(3)]
            for call in calls:
                request = CallRequest(build_order(call.call_id), b"\x00" * 16, ZERO32, "echo", b"")
                link.open_call(request, call, is_stream=call.call_id[0] == 1)
            for frames in messages:
                sendable = [frame for frame in frames if not isinstance(frame, bytes)]
                if sendable:
                    bad.send(*sendable)  # type: ignore[arg-type]
                for frame in frames:
                    if isinstance(frame, bytes):
                        bad.send_message(frame)
                await asyncio.sleep(0)
            honest = next(link for link in world.server.links if link.provider != STRANGER.account)
            call = Call(honest, b"\x77" * 16)
            request = CallRequest(build_order(call.call_id), b"\x00" * 16, ZERO32, "echo", b"still here")
            honest.open_call(request, call, is_stream=False)
            await asyncio.wait_for(call.ended.wait(), 5)
            assert call.content == b"still here"
            bad.wire.abort()
            await asyncio.sleep(0)
            assert all(call.ends <= 1 for call in calls)
            has_said_goodbye = any(isinstance(frame, Goodbye) and frame.is_over for m in messages for frame in m)
            if link not in world.server.links and not has_said_goodbye:
                assert [account for account, _ in world.gateway.refused] == [STRANGER.account]

    asyncio.run(scenario())


@given(first=st.lists(st.binary(max_size=600), min_size=1, max_size=4))
def test_any_first_words_of_a_stranger_are_refused(first: list[bytes]) -> None:
    """Before the handshake nothing but a handshake is heard; whatever else comes ends the connection."""

    async def scenario() -> None:
        gateway = RecordingGateway()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        stranger = RawNode()
        await stranger.connect(await server.start("127.0.0.1", 0))
        for message in first:
            stranger.send_message(message)
        await asyncio.wait_for(stranger.lost.wait(), 5)
        assert len(gateway.refused) == 1
        assert gateway.refused[0][0] is None
        assert server.links == ()
        await server.aclose()

    asyncio.run(scenario())
