"""A gateway's end of one link: opens calls, hands pieces and receipts to their sinks, batches to the gateway.

1. Nothing here waits: what a coroutine has to do goes to the backlog, in order.
2. Whatever breaks the rules, here or in a callback that raises a PeerError, ends the session and is recorded.
3. When the session ends, every call in flight fails with ``link_lost``.

Law: docs/spec/link.md, section 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog

from steelyard.errors import Fault, PeerError, SteelyardError, Unavailable
from steelyard.link.asks import ASK_S, Asks
from steelyard.link.backlog import Backlog
from steelyard.link.checks import check_chain, check_claim, check_offers, check_receipt
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
    Ready,
    Show,
    Terms,
    ToGateway,
    Want,
    encode_frame,
)
from steelyard.link.limits import DEADLINE_GRACE_S, LinkLimits
from steelyard.link.pipe import Pipe, as_error, build_goodbye
from steelyard.link.port import CallRequest, CallSink, Failure, GatewaySide, SignedOffer
from steelyard.link.session import GatewayCall, GatewayCalls
from steelyard.link.wire import Wire
from steelyard.protocol.lanes import LaneState, SignedVoucher

OWN_CODES = frozenset({"link_lost", "stalled", "another_answer", "gateway_fault", "bad_piece", "bad_receipt"})
"""What only this side can find: in a provider's mouth they are a failure like any other."""

_log = structlog.get_logger("steelyard.link")


class ProviderSession:
    """One session with one provider; implements `port.ProviderLink`.

    Args:
        session: 16 random bytes. provider: proven. offers: admitted. max_calls: what the node bears.
        on_over: called once when the session ends. vouchers: the highest of each lane, kept from session to session.
    """

    def __init__(
        self,
        session: bytes,
        provider: bytes,
        offers: tuple[SignedOffer, ...],
        max_calls: int,
        side: GatewaySide,
        limits: LinkLimits,
        on_over: Callable[[ProviderSession], None],
        vouchers: dict[tuple[bytes, int], SignedVoucher],
    ) -> None:
        self.session = session
        self.provider = provider
        self.offers = offers
        self.pipe = Pipe(limits)
        self._max_calls = min(max_calls, limits.max_calls)
        self._side = side
        self._limits = limits
        self._on_over = on_over
        self._vouchers = vouchers
        self._calls = GatewayCalls()
        self._asks = Asks()
        self._backlog = Backlog(limits.backlog, self.fail, self.pipe.pause_reading, self.pipe.resume_reading)
        self._decoder = FrameDecoder[ToGateway](ToGateway)
        self._loop = asyncio.get_running_loop()
        self._resume_timer: asyncio.TimerHandle | None = None
        self._handlers: dict[type[Frame], Callable[..., None]] = {
            Part: self._on_part,
            Done: self._on_done,
            Fail: self._on_fail,
            Chain: self._on_chain,
            Claim: self._on_claim,
            Terms: self._on_terms,
            Show: self._asks.take,
            Ack: self._on_ack,
            Goodbye: self._on_goodbye,
        }

    def __repr__(self) -> str:
        return f"ProviderSession(0x{self.provider.hex()}, {'up' if self.is_up else 'down'}, {len(self._calls)} calls)"

    @property
    def is_up(self) -> bool:
        """See `port.ProviderLink`."""
        return self.pipe.is_up

    @property
    def calls_in_flight(self) -> int:
        """See `port.ProviderLink`."""
        return len(self._calls)

    def open_call(self, request: CallRequest, sink: CallSink, *, is_stream: bool) -> None:
        """See `port.ProviderLink`."""
        failure = self._refuse_call(request)
        if failure is not None:
            self._loop.call_soon(sink.on_fail, failure)
            return
        pieces = self._limits.window_pieces if is_stream else 0
        order = request.order
        self._calls.open(order.call_id, GatewayCall(sink, order.deadline_ms, pieces))
        self.pipe.send(encode_frame(Open(request, pieces)))

    def cancel_call(self, call_id: bytes) -> None:
        """See `port.ProviderLink`."""
        call = self._calls.get(call_id)
        if call is not None:
            call.is_cancelled = True
            self.pipe.send(encode_frame(Cancel(call_id)))

    def grant_pieces(self, call_id: bytes, count: int) -> None:
        """See `port.ProviderLink`."""
        call = self._calls.get(call_id)
        if call is not None and (due := call.grant(count, self._limits.window_pieces)):
            self.pipe.send(encode_frame(Grant(call_id, due)))

    def send_voucher(self, signed: SignedVoucher) -> None:
        """See `port.ProviderLink`."""
        voucher = signed.voucher
        lane = (voucher.service_id, voucher.lane_id)
        kept = self._vouchers.get(lane)
        if kept is None or kept.voucher.cumulative <= voucher.cumulative:
            self._vouchers[lane] = signed
        self.pipe.send(encode_frame(Pay(signed)))

    def request_batches(self, state: LaneState) -> None:
        """See `port.ProviderLink`."""
        self.pipe.send(encode_frame(Want(state)))

    async def fetch_evidence(self, receipt_hash: bytes) -> bytes | None:
        """See `port.ProviderLink`."""
        if not self.pipe.is_up:
            raise Unavailable(f"no connection to provider 0x{self.provider.hex()}", code="link_lost", retry_after_s=2.0)
        answer, is_new = self._asks.open(receipt_hash)
        if is_new:
            self.pipe.send(encode_frame(Ask(receipt_hash)))
            self._loop.call_later(ASK_S, self._give_up, receipt_hash, answer)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not answer.cancelled():
                raise
            raise Unavailable(
                f"provider 0x{self.provider.hex()} did not show the evidence within {ASK_S:.0f} s",
                code="evidence_timeout",
                retry_after_s=ASK_S,
            ) from None

    def _give_up(self, receipt_hash: bytes, answer: asyncio.Future[bytes | None]) -> None:
        if not answer.done():
            self._asks.close(receipt_hash)

    def drop(self, reason: str) -> None:
        """See `port.ProviderLink`."""
        if not self.pipe.is_over:
            self.fail(PeerError(reason, code="dropped"))

    def attach(self, wire: Wire, peer_received: int, ready: Ready) -> None:
        """Go on over a new connection, from now on; raises BadMessage if the peer's count can't be right."""
        self.pipe.attach(wire, peer_received, encode_frame(ready), self._on_message, self._on_lost)
        if self._resume_timer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
        if self._backlog.is_full:
            wire.pause_reading()
        if not ready.is_resumed:
            for signed in tuple(self._vouchers.values()):
                self.pipe.send(encode_frame(Pay(signed)))
        self._side.on_link_up(self)

    def fail(self, error: SteelyardError) -> None:
        """End the session for a breach of the peer, or a fault of our own; it is recorded."""
        self._side.on_peer_refused(self.provider, error)
        self.end(error.message, error)

    def end(self, reason: str, error: SteelyardError | None = None) -> None:
        """End the session: all calls in flight fail, the peer is told. Safe to call twice."""
        if self.pipe.is_over:
            return
        was_up = self.is_up
        self.pipe.end(build_goodbye(error, reason, is_over=True))
        self._backlog.close(is_dropping=error is not None)
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if was_up:
            self._side.on_link_down(self, reason)
        failure = Failure("link_lost", f"the link to provider 0x{self.provider.hex()} ended: {reason}"[:1024])
        for call in self._calls.drain():
            self._tell_failure(call.sink, failure)
        self._asks.fail(Unavailable(failure.message, code="link_lost", retry_after_s=2.0))
        self._on_over(self)

    async def join(self) -> None:
        """Wait for the coroutine that still runs for this link, and for its connection to close."""
        await self._backlog.join()
        await self.pipe.join()

    def check(self, now_ms: int) -> None:
        """Look once a while at deadlines (Unix ms) and at the peer's acknowledgements."""
        late = Failure("deadline", "the provider did not end the call by its deadline")
        for call_id, call in self._calls.expire(now_ms - int(DEADLINE_GRACE_S * 1000)):
            self.pipe.send(encode_frame(Cancel(call_id)))
            self._tell_failure(call.sink, late)
        try:
            self.pipe.check_progress()
        except PeerError as error:
            self.fail(error)

    def _refuse_call(self, request: CallRequest) -> Failure | None:
        if not self.pipe.is_up:
            return Failure("link_lost", f"no connection to provider 0x{self.provider.hex()}")
        if len(self._calls) >= self._max_calls or self.pipe.outbox.size_bytes > self._limits.outbox_bytes:
            return Failure("busy", f"{len(self._calls)} calls are in flight to provider 0x{self.provider.hex()}")
        if len(request.body) > self._limits.max_body_bytes:
            size = len(request.body)
            return Failure(
                "invalid_request", f"a body of {size} bytes, the link takes {self._limits.max_body_bytes}", False
            )
        return None

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
        if error is not None:
            self.pipe.detach()
            self._side.on_link_down(self, reason)
            self.fail(error)
            return
        self.pipe.detach()
        self._resume_timer = self._loop.call_later(
            self._limits.resume_window_s, self.end, f"{reason}, and not back within the resume window"
        )
        self._side.on_link_down(self, reason)

    def _on_ack(self, frame: Ack) -> None:
        self.pipe.outbox.acknowledge(frame.received)

    def _on_part(self, frame: Part) -> None:
        call = self._calls.get(frame.call_id)
        if call is not None:
            call.spend_piece()
            call.sink.on_piece(frame.piece)

    def _on_done(self, frame: Done) -> None:
        check_receipt(frame.receipt)
        call = self._calls.get(frame.call_id)
        if call is not None:
            if frame.piece is not None:
                call.sink.on_piece(frame.piece)  # a call whose piece is refused stays open, and fails with the session
            self._calls.close(frame.call_id)
            call.sink.on_done(frame.receipt)

    def _on_fail(self, frame: Fail) -> None:
        call = self._calls.close(frame.call_id)
        if call is not None:
            failure = frame.failure
            if failure.code in OWN_CODES or (failure.code == "cancelled" and not call.is_cancelled):
                failure = msgspec.structs.replace(failure, code="engine_error")
            call.sink.on_fail(failure)

    def _on_chain(self, frame: Chain) -> None:
        check_chain(frame)
        self._backlog.put(lambda: self._side.on_batch(self, frame.signed, frame.call_ids, frame.entries))

    def _on_claim(self, frame: Claim) -> None:
        check_claim(frame)
        self._backlog.put(lambda: self._side.on_claim(self, frame.claim))

    def _on_terms(self, frame: Terms) -> None:
        check_offers(frame.offers, self.provider)
        self._backlog.put(lambda: self._readmit(frame.offers))

    async def _readmit(self, offers: Sequence[SignedOffer]) -> None:
        await self._side.admit_provider(self.provider, offers)
        self.offers = tuple(offers)
        if self.is_up:
            self._side.on_link_up(self)

    def _on_goodbye(self, frame: Goodbye) -> None:
        if frame.is_over:
            self.end(as_error(frame).message)

    def _tell_failure(self, sink: CallSink, failure: Failure) -> None:
        try:
            sink.on_fail(failure)
        except Exception:  # a supervisor: one sink's fault must not keep the others from hearing
            _log.exception("link_sink_failed")
