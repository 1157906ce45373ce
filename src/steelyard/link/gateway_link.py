"""A node's end of one link: hands calls to the node, sends pieces, receipts and batches.

1. A piece waits until the gateway has granted it and the stream's buffer has room: memory is bounded per stream.
2. Whatever breaks the rules ends the session and is recorded.
3. When the session ends, the node is asked to cancel every call in flight: what was sent gets its receipt all the same.

Law: docs/spec/link.md, section 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from steelyard.errors import Fault, PeerError, SteelyardError, TooLarge
from steelyard.link.backlog import Backlog
from steelyard.link.checks import check_open, check_signed_voucher, check_state
from steelyard.link.frames import (
    Ack,
    Ask,
    Cancel,
    Chain,
    Claim,
    Done,
    Fail,
    Frame,
    FrameDecoder,
    Goodbye,
    Grant,
    Open,
    Part,
    Pay,
    Show,
    Terms,
    ToNode,
    Want,
    encode_frame,
)
from steelyard.link.limits import MAX_SHOW_CHUNKS, SHOW_BYTES, LinkLimits
from steelyard.link.pipe import Pipe, as_error, build_goodbye
from steelyard.link.port import Failure, LaneClaim, LeafEntry, NodeSide, Piece, SignedOffer
from steelyard.link.session import NodeCalls
from steelyard.link.wire import Wire
from steelyard.protocol.lanes import LaneState, SignedBatch
from steelyard.protocol.messages import Receipt

DRAIN_BYTES = 1 << 20
_log = structlog.get_logger("steelyard.link")


class GatewaySession:
    """One session with one gateway; implements `port.GatewayLink`.

    Args:
        session: 16 bytes that the gateway drew. gateway: proven. on_down: called when the connection is gone, with
            the reason and whether the session is over too.
    """

    def __init__(
        self,
        session: bytes,
        gateway: bytes,
        side: NodeSide,
        limits: LinkLimits,
        on_down: Callable[[GatewaySession, str], None],
    ) -> None:
        self.session = session
        self.gateway = gateway
        self.pipe = Pipe(limits)
        self._side = side
        self._limits = limits
        self._on_down = on_down
        self._calls = NodeCalls(limits.max_calls)
        self._backlog = Backlog(limits.backlog, self.fail, self.pipe.pause_reading, self.pipe.resume_reading)
        self._decoder = FrameDecoder[ToNode](ToNode)
        self._loop = asyncio.get_running_loop()
        self._resume_timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._handlers: dict[type[Frame], Callable[..., None]] = {
            Open: self._on_open,
            Cancel: self._on_cancel,
            Grant: self._on_grant,
            Pay: self._on_pay,
            Want: self._on_want,
            Ask: self._on_ask,
            Ack: self._on_ack,
            Goodbye: self._on_goodbye,
        }

    def __repr__(self) -> str:
        return f"GatewaySession(0x{self.gateway.hex()}, {'up' if self.is_up else 'down'}, {len(self._calls)} calls)"

    @property
    def is_up(self) -> bool:
        """See `port.GatewayLink`."""
        return self.pipe.is_up

    @property
    def is_over(self) -> bool:
        """See `port.GatewayLink`."""
        return self.pipe.is_over

    @property
    def calls_in_flight(self) -> int:
        """How many calls have neither receipt nor failure."""
        return len(self._calls)

    async def send_piece(self, call_id: bytes, piece: Piece) -> bool:
        """See `port.GatewayLink`."""
        while (stream := self._calls.get(call_id)) is not None:
            if stream.has_room(self._limits.stream_buffer_bytes):
                stream.pieces -= 1
                self.pipe.send(self._encode(Part(call_id, piece)), stream)
                return True
            room: asyncio.Future[None] = self._loop.create_future()
            stream.on_room = lambda waiter=room: waiter.done() or waiter.set_result(None)
            await room
        return False

    def send_done(self, call_id: bytes, receipt: Receipt, piece: Piece | None) -> None:
        """See `port.GatewayLink`."""
        frame = self._encode(Done(call_id, receipt, piece))
        if self._calls.close(call_id):
            self.pipe.send(frame)

    def send_fail(self, call_id: bytes, failure: Failure) -> None:
        """See `port.GatewayLink`."""
        if self._calls.close(call_id):
            self.pipe.send(encode_frame(Fail(call_id, failure)))

    def send_batch(self, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry] = ()) -> None:
        """See `port.GatewayLink`."""
        self.pipe.send(self._encode(Chain(signed, tuple(call_ids), tuple(entries))))

    def send_claim(self, claim: LaneClaim) -> None:
        """See `port.GatewayLink`."""
        self.pipe.send(self._encode(Claim(claim)))

    async def send_evidence(self, receipt_hash: bytes, evidence: bytes | None) -> None:
        """See `port.GatewayLink`."""
        if evidence is None:
            self.pipe.send(encode_frame(Show(receipt_hash, False, 0, 0, b"")))
            return
        if len(evidence) > SHOW_BYTES * MAX_SHOW_CHUNKS:
            raise TooLarge(f"evidence of {len(evidence)} bytes, the link takes {SHOW_BYTES * MAX_SHOW_CHUNKS}")
        chunks = [evidence[at : at + SHOW_BYTES] for at in range(0, len(evidence), SHOW_BYTES)] or [b""]
        for index, chunk in enumerate(chunks):
            self.pipe.send(encode_frame(Show(receipt_hash, True, index, len(chunks), chunk)))
            await self.drain()

    async def drain(self) -> None:
        """See `port.GatewayLink`."""
        while self.pipe.outbox.size_bytes > DRAIN_BYTES and not self.pipe.is_over:
            self._drained.clear()
            await self._drained.wait()

    def update_offers(self, offers: Sequence[SignedOffer]) -> None:
        """See `port.GatewayLink`."""
        self.pipe.send(self._encode(Terms(tuple(offers))))

    def begin(self, wire: Wire, lanes: tuple[LaneState, ...]) -> None:
        """Start a new session on its first connection."""
        self._side.on_lanes_known(self, lanes)
        self._attach(wire, 0)
        self._backlog.put(lambda: self._side.on_link_up(self, lanes))

    def resume(self, wire: Wire, peer_received: int) -> None:
        """Go on over a new connection; raises BadMessage if the gateway's count can't be right."""
        self._attach(wire, peer_received)

    def fail(self, error: SteelyardError) -> None:
        """End the session for a breach of the gateway, or a fault of our own; it is recorded."""
        self._side.on_peer_refused(self.gateway, error)
        self.end(error.message, error)

    def end(self, reason: str, error: SteelyardError | None = None) -> None:
        """End the session: the node is asked to cancel every call in flight. Safe to call twice."""
        if self.pipe.is_over:
            return
        was_up = self.is_up
        self.pipe.end(build_goodbye(error, reason, is_over=True))
        self._backlog.close(is_dropping=error is not None)
        self._drained.set()
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if was_up:
            self._side.on_link_down(self, reason)
        for call_id in self._calls.drain():
            self._side.on_cancel(self, call_id)
        self._on_down(self, reason)

    async def join(self) -> None:
        """Wait for the coroutine that still runs for this link, and for its connection to close."""
        await self._backlog.join()
        await self.pipe.join()

    def check(self) -> None:
        """Look once a while at the gateway's acknowledgements."""
        try:
            self.pipe.check_progress()
        except PeerError as error:
            self.fail(error)

    def _attach(self, wire: Wire, peer_received: int) -> None:
        self.pipe.attach(wire, peer_received, None, self._on_message, self._on_lost)
        self._drained.set()
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        if self._backlog.is_full:
            wire.pause_reading()

    def _encode(self, frame: Frame) -> bytes:
        encoded = encode_frame(frame)
        if len(encoded) > self._limits.max_message_bytes - 8:
            raise TooLarge(f"a frame of {len(encoded)} bytes, the link takes {self._limits.max_message_bytes}")
        return encoded

    def _on_message(self, message: bytes | memoryview) -> None:
        size, counted = len(message), 0
        try:
            frames = self._decoder.decode(message)
            for frame in frames:
                kind = type(frame)
                self._handlers[kind](frame)
                if self.pipe.is_over:
                    return
                if kind is not Ack and kind is not Goodbye:
                    counted += 1
            self.pipe.take(len(frames), counted, size)
        except SteelyardError as error:
            if not self.pipe.is_over:
                self.fail(error)
        except Exception as error:  # a supervisor: our own fault ends this link, and is logged whole
            _log.exception("link_message_failed")
            self.fail(Fault(f"{type(error).__name__} in a link's callback"))

    def _on_lost(self, reason: str, error: PeerError | None) -> None:
        self.pipe.detach()
        self._side.on_link_down(self, reason)
        if error is not None:
            self.fail(error)
            return
        self._resume_timer = self._loop.call_later(
            self._limits.resume_window_s, self.end, f"{reason}, and not back within the resume window"
        )
        self._on_down(self, reason)

    def _on_ack(self, frame: Ack) -> None:
        self.pipe.outbox.acknowledge(frame.received)
        self._drained.set()

    def _on_open(self, frame: Open) -> None:
        check_open(frame, self._limits.max_body_bytes)
        call_id = frame.request.order.call_id
        if self._calls.open(call_id, frame.pieces):
            self._side.on_call(self, frame.request, is_stream=frame.pieces > 0)
        else:
            busy = Failure("busy", f"{len(self._calls)} calls are in flight on this link")
            self.pipe.send(encode_frame(Fail(call_id, busy)))

    def _on_cancel(self, frame: Cancel) -> None:
        if self._calls.get(frame.call_id) is not None:
            self._side.on_cancel(self, frame.call_id)

    def _on_grant(self, frame: Grant) -> None:
        self._calls.grant(frame.call_id, frame.pieces)

    def _on_pay(self, frame: Pay) -> None:
        check_signed_voucher(frame.signed)
        self._backlog.put(lambda: self._side.on_voucher(self, frame.signed))

    def _on_want(self, frame: Want) -> None:
        check_state(frame.state)
        self._backlog.put(lambda: self._side.on_batches_wanted(self, frame.state))

    def _on_ask(self, frame: Ask) -> None:
        self._side.on_evidence_asked(self, frame.receipt_hash)

    def _on_goodbye(self, frame: Goodbye) -> None:
        if frame.is_over:
            self.end(as_error(frame).message)
