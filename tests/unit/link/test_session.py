"""A session's state: acknowledgements, replay, credits."""

from __future__ import annotations

import pytest

from steelyard.errors import BadMessage
from steelyard.link.limits import ACK_BYTES, ACK_FRAMES, RateMeter
from steelyard.link.port import Failure, Piece
from steelyard.link.session import MAX_GRANTED, GatewayCall, GatewayCalls, Inbox, NodeCalls, NodeStream, Outbox
from steelyard.protocol.messages import Receipt


class _Sink:
    def on_piece(self, piece: Piece) -> None: ...

    def on_done(self, receipt: Receipt) -> None: ...

    def on_fail(self, failure: Failure) -> None: ...


def test_outbox_replays_exactly_what_is_not_acknowledged() -> None:
    """After an acknowledgement of n frames the rest is kept, in order."""
    outbox = Outbox()
    for number in range(5):
        outbox.push(bytes([number]))
    outbox.acknowledge(2)
    assert outbox.frames() == [b"\x02", b"\x03", b"\x04"]
    assert (outbox.acknowledged, outbox.sent, outbox.size_bytes) == (2, 5, 3)
    outbox.acknowledge(5)
    assert outbox.frames() == []
    assert outbox.size_bytes == 0


@pytest.mark.parametrize("received", [1, 6])
def test_outbox_refuses_an_impossible_acknowledgement(received: int) -> None:
    """A peer can't take an acknowledgement back, nor acknowledge what was never sent."""
    outbox = Outbox()
    for number in range(5):
        outbox.push(bytes([number]))
    outbox.acknowledge(2)
    with pytest.raises(BadMessage):
        outbox.acknowledge(received)


def test_stream_has_room_again_when_its_bytes_are_acknowledged() -> None:
    """A stream's buffer is bounded by its own bytes, and whoever waits is told once."""
    outbox, stream = Outbox(), NodeStream(pieces=9)
    told: list[int] = []
    outbox.push(b"x" * 60, stream)
    outbox.push(b"other")
    outbox.push(b"x" * 40, stream)
    assert not stream.has_room(100)
    stream.on_room = lambda: told.append(1)
    outbox.acknowledge(1)
    assert stream.has_room(100)
    outbox.acknowledge(3)
    assert stream.buffered_bytes == 0
    assert told == [1]


def test_inbox_is_due_by_frames_or_by_bytes() -> None:
    """Acknowledgements are rare, and never late enough to fill a stream's buffer."""
    inbox = Inbox()
    assert not inbox.take(ACK_FRAMES - 1, 10)
    assert inbox.take(1, 10)
    assert inbox.tell() == ACK_FRAMES
    assert not inbox.is_untold
    assert inbox.take(1, ACK_BYTES)
    assert inbox.is_untold


def test_gateway_call_refuses_a_piece_beyond_its_window() -> None:
    """Each piece spends a grant; grants are gathered until a quarter of the window."""
    call = GatewayCall(_Sink(), 0, granted=8)
    for _ in range(8):
        call.spend_piece()
    with pytest.raises(BadMessage):
        call.spend_piece()
    assert call.grant(1, 8) == 0
    assert call.grant(1, 8) == 2
    call.spend_piece()


def test_gateway_call_without_stream_takes_no_piece_and_no_grant() -> None:
    """The result of a call that doesn't stream comes with its receipt."""
    call = GatewayCall(_Sink(), 0, granted=0)
    assert call.grant(100, 8) == 0
    with pytest.raises(BadMessage):
        call.spend_piece()


def test_gateway_calls_expire_by_deadline() -> None:
    """Only calls whose deadline has passed are given up."""
    calls = GatewayCalls()
    for number in (1, 2, 3):
        calls.open(bytes([number]) * 16, GatewayCall(_Sink(), number * 100, 0))
    assert [call_id[0] for call_id, _ in calls.expire(250)] == [1, 2]
    assert len(calls) == 1


def test_node_calls_refuse_an_id_in_flight_and_turn_away_one_too_many() -> None:
    """Twice the same id is a breach; one call too many is only busy."""
    calls = NodeCalls(2)
    assert calls.open(b"\x01" * 16, 1)
    with pytest.raises(BadMessage):
        calls.open(b"\x01" * 16, 1)
    assert calls.open(b"\x02" * 16, 1)
    assert not calls.open(b"\x03" * 16, 1)
    assert calls.close(b"\x01" * 16)
    assert not calls.close(b"\x01" * 16)


def test_node_calls_bound_what_a_gateway_may_grant() -> None:
    """A grant for a call that has ended is passed over, an absurd sum of grants is a breach."""
    calls = NodeCalls(2)
    calls.grant(b"\x01" * 16, 5)
    calls.open(b"\x01" * 16, 1)
    calls.grant(b"\x01" * 16, MAX_GRANTED - 1)
    with pytest.raises(BadMessage):
        calls.grant(b"\x01" * 16, 1)


def test_rate_meter_lets_bursts_pass_and_refuses_a_flood() -> None:
    """A bucket of 10 with 5 a second: 10 at once, then 5 a second, then no more."""
    meter = RateMeter(5, 10, 0.0)
    meter.take(10, 0.0)
    meter.take(5, 1.0)
    with pytest.raises(BadMessage) as caught:
        meter.take(6, 2.0)
    assert caught.value.code == "flood"
