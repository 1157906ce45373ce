"""One WebSocket connection: frames out, gathered per turn of the event loop, and messages in.

1. All frames of one turn of the loop leave as one message, one write.
2. A message longer than a fragment is sent in fragments; fragments received are joined up to the message limit.
3. While the peer reads slowly nothing is written; what waits is bounded by whoever sends (`session`).
4. Text, compressed or oversized messages are a breach. Pings are the WebSocket's own.

Law: docs/spec/link.md, section 2.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from picows import WSAutoPingStrategy, WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from steelyard.errors import BadMessage, PeerError
from steelyard.link.frames import join_frames
from steelyard.link.limits import (
    COALESCED_BYTES,
    FRAGMENT_BYTES,
    MAX_FRAMES_PER_MESSAGE,
    WS_FRAME_BYTES,
    LinkLimits,
)

_CLOSE_WAIT_S = 1.0
_BREACHES = (WSCloseCode.PROTOCOL_ERROR, WSCloseCode.MESSAGE_TOO_BIG, WSCloseCode.INVALID_TEXT)

OnMessage = Callable[[bytes | memoryview], None]
OnLost = Callable[[str, PeerError | None], None]


def websocket_options(limits: LinkLimits) -> dict[str, object]:
    """Return what both ends ask of picows: bounded frames, pings when idle, no compression (it offers none)."""
    return {
        "max_frame_size": WS_FRAME_BYTES,
        "enable_auto_ping": True,
        "auto_ping_idle_timeout": limits.ping_s,
        "auto_ping_reply_timeout": limits.ping_s,
        "auto_ping_strategy": WSAutoPingStrategy.PING_WHEN_IDLE,
        "websocket_handshake_timeout": limits.handshake_s,
    }


def _ignore_message(_message: bytes | memoryview) -> None:
    return None


def _ignore_loss(_reason: str, _error: PeerError | None) -> None:
    return None


class Wire(WSListener):  # type: ignore[misc]  # picows is untyped for mypy; its listener has to be subclassed
    """One connection, from the WebSocket's upgrade to its end.

    Set `on_message` and `on_lost` before anything arrives; `on_lost` is called once, with the breach if there was one,
    and not at all after `close`.
    """

    def __init__(self, limits: LinkLimits) -> None:
        self.on_open: Callable[[], None] | None = None
        self.on_message: OnMessage = _ignore_message
        self.on_lost: OnLost = _ignore_loss
        self.max_message_bytes = limits.max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: WSTransport | None = None
        self._pending: list[bytes] = []
        self._is_scheduled = False
        self._is_paused = False
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0

    @property
    def max_message_bytes(self) -> int:
        """The longest message that is read; less during a handshake."""
        return self._max_message_bytes

    @max_message_bytes.setter
    def max_message_bytes(self, size: int) -> None:
        self._max_message_bytes = size
        # picows refuses longer frames by their header, but hands over one that is complete before it hangs up
        self._max_frame_bytes = min(size, WS_FRAME_BYTES)

    @property
    def peer_host(self) -> str:
        """The address at the other end of the TCP connection; empty if there is none."""
        peer = self._transport and self._transport.underlying_transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS layer, if there is one."""
        layer: ssl.SSLObject | None = self._transport and self._transport.underlying_transport.get_extra_info(
            "ssl_object"
        )
        return layer

    def send(self, frame: bytes) -> None:
        """Send an encoded frame at the end of this turn of the loop, in order."""
        self._pending.append(frame)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def send_alone(self, frame: bytes) -> None:
        """Send an encoded frame as a message of its own, at once; what follows comes in another message."""
        self._flush()
        self._pending.append(frame)
        self._flush()

    def close(self, last: bytes | None = None) -> None:
        """Send what is pending and a last frame, and close; nothing is heard of this connection any more."""
        self.on_message, self.on_lost = _ignore_message, _ignore_loss
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        if last is not None:
            self._pending.append(last)
        self._is_paused = False
        self._flush()
        transport.send_close(WSCloseCode.OK)
        transport.disconnect()
        self._loop.call_later(_CLOSE_WAIT_S, transport.disconnect, False)

    async def wait_closed(self) -> None:
        """Wait until the socket is closed, after `close` or `abort`."""
        transport = self._transport
        if transport is not None and not transport.is_disconnected:
            await asyncio.wait([asyncio.ensure_future(transport.wait_disconnected())], timeout=2 * _CLOSE_WAIT_S)

    def abort(self) -> None:
        """Close at once, sending nothing."""
        self.on_message, self.on_lost = _ignore_message, _ignore_loss
        if self._transport is not None:
            self._transport.disconnect(False)

    def pause_reading(self) -> None:
        """Read no more from the peer until `resume_reading`."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.underlying_transport.resume_reading()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Called by picows when the upgrade is done."""
        self._transport = transport
        if self.on_open is not None:
            self.on_open()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Called by picows for each WebSocket frame; its memory is gone when this returns."""
        kind = frame.msg_type
        if kind == WSMsgType.BINARY and frame.fin and not self._fragments and not frame.rsv1:
            if frame.payload_size <= self._max_frame_bytes:
                self.on_message(frame.get_payload_as_memoryview())
            else:
                self._breach("oversize", frame.payload_size)
        elif kind == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif kind == WSMsgType.BINARY or kind == WSMsgType.CONTINUATION:
            self._take_fragment(frame, kind)
        elif kind == WSMsgType.TEXT:
            self._breach("text", frame.payload_size)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Called by picows when the connection is gone."""
        self._pending.clear()
        self._fragments.clear()
        on_lost, self.on_lost, self.on_message = self.on_lost, _ignore_loss, _ignore_message
        closing = transport.close_handshake
        sent = None if closing is None else closing.sent
        if sent is not None and sent.code in _BREACHES:
            code = "oversize" if sent.code == WSCloseCode.MESSAGE_TOO_BIG else "bad_message"
            on_lost("breach", BadMessage(f"WebSocket: {sent.reason or 'protocol error'}", code=code))
        elif closing is not None and closing.recv is not None:
            on_lost("closed by the peer", None)
        else:
            on_lost("connection lost", None)

    def pause_writing(self) -> None:
        """Called by the transport when the peer reads slowly."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Called by the transport when it has room again."""
        self._is_paused = False
        self._flush()

    def _flush(self) -> None:
        self._is_scheduled = False
        pending = self._pending
        transport = self._transport
        if not pending or transport is None or self._is_paused:
            return
        self._pending = []
        start, size = 0, 0
        for index, frame in enumerate(pending):
            size += len(frame)
            if index > start and (size > COALESCED_BYTES or index - start == MAX_FRAMES_PER_MESSAGE):
                self._write(transport, join_frames(pending[start:index]))
                start, size = index, len(frame)
        self._write(transport, join_frames(pending[start:] if start else pending))

    def _write(self, transport: WSTransport, message: bytes) -> None:
        if len(message) <= FRAGMENT_BYTES:
            transport.send(WSMsgType.BINARY, message)
            return
        view = memoryview(message)
        for start in range(0, len(message), FRAGMENT_BYTES):
            kind = WSMsgType.CONTINUATION if start else WSMsgType.BINARY
            transport.send(kind, bytes(view[start : start + FRAGMENT_BYTES]), start + FRAGMENT_BYTES >= len(message))

    def _take_fragment(self, frame: WSFrame, kind: WSMsgType) -> None:
        if (kind == WSMsgType.CONTINUATION) != bool(self._fragments) or frame.rsv1:
            self._breach("bad_message", frame.payload_size)
            return
        self._fragment_bytes += frame.payload_size
        if self._fragment_bytes > self.max_message_bytes or len(self._fragments) > 1024:
            self._breach("oversize", self._fragment_bytes)
            return
        self._fragments.append(frame.get_payload_as_bytes())
        if frame.fin:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self._fragment_bytes = 0
            self.on_message(message)

    def _breach(self, code: str, size: int) -> None:
        what = {"oversize": "is too long", "text": "is text"}.get(code, "has fragments or bits out of order")
        on_lost = self.on_lost
        self._fragments.clear()
        self.close()
        on_lost("breach", BadMessage(f"a message of {size} bytes {what}", code=code))
