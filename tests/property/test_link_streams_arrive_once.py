"""However often and wherever a link is torn, each stream arrives whole, in order, exactly once."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from tests.link_world import LANE, EchoNode, build_voucher, linked, until, with_limits

from steelyard.errors import BadMessage
from steelyard.link.frames import FrameDecoder, ToGateway, ToNode
from steelyard.link.limits import MAX_FRAMES_PER_MESSAGE
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.messages import Batch

_cuts = st.lists(st.integers(min_value=600, max_value=20_000), min_size=1, max_size=4)
_streams = st.lists(st.integers(min_value=0, max_value=3_000), min_size=1, max_size=12)


@given(cuts=_cuts, sizes=_streams, step=st.integers(min_value=1, max_value=200), data=st.data())
def test_link_torn_anywhere_delivers_every_stream_whole_and_once(
    cuts: list[int], sizes: list[int], step: int, data: st.DataObject
) -> None:
    """Connections are cut after random byte counts; streams, batches and vouchers all arrive once and in order.

    The sinks themselves refuse a piece after the end and a second end.
    """
    whole = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))

    async def scenario() -> None:
        async with linked(cuts=cuts, node=EchoNode(step=step), limits=with_limits(resume_window_s=20.0)) as world:
            bodies = [bytes((index * 7 + place) % 256 for place in range(size)) for index, size in enumerate(sizes)]
            while not world.link.is_up:
                await world.gateway.up.wait()
            calls = [world.call(body, is_stream=not flat) for body, flat in zip(bodies, whole, strict=True)]
            session = world.link.session
            for seq in range(1, 40):
                batch = Batch(LANE.gateway, LANE.provider, LANE.service_id, 7, seq, ZERO32, ZERO32, 1, seq)
                world.node_link.send_batch(SignedBatch(batch, b"\x00" * 65), [seq.to_bytes(16, "big")])
                world.link.send_voucher(build_voucher(seq))
            await asyncio.wait_for(asyncio.gather(*(call.ended.wait() for call in calls)), 20)
            assert [call.failure for call in calls] == [None] * len(calls)
            assert [call.content for call in calls] == bodies
            assert all(call.ends == 1 for call in calls)
            await until(lambda: len(world.gateway.batches) == len(world.node.vouchers) == 39)
            assert [signed.batch.seq for signed, _, _ in world.gateway.batches] == list(range(1, 40))
            assert [signed.voucher.cumulative for signed in world.node.vouchers] == list(range(1, 40))
            assert world.link.session == session
            assert len(world.node.ups) == 1

    asyncio.run(scenario())


@given(message=st.binary(max_size=4096))
def test_any_bytes_are_frames_or_a_bad_message(message: bytes) -> None:
    """No bytes make a decoder raise anything else, or return more frames than a message may hold."""
    for direction in (ToGateway, ToNode):
        try:
            frames = FrameDecoder[object](direction).decode(message)
        except BadMessage:
            continue
        assert 1 <= len(frames) <= min(MAX_FRAMES_PER_MESSAGE, len(message))


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=16) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=40,
)


@given(frames=st.lists(st.tuples(st.integers(0, 20), st.lists(_values, max_size=6)), min_size=1, max_size=6))
def test_any_wellformed_msgpack_is_frames_or_a_bad_message(frames: list[tuple[int, list[object]]]) -> None:
    """Arrays that look like frames, with any values in any places, are refused or within their types."""
    import msgspec

    message = msgspec.msgpack.encode([[tag, *values] for tag, values in frames])
    for direction in (ToGateway, ToNode):
        try:
            decoded = FrameDecoder[object](direction).decode(message)
        except BadMessage:
            continue
        assert len(decoded) == len(frames)
