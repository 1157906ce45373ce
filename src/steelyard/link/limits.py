"""What one link may cost us: sizes, counts and rates. Every buffer in this room is bounded by a number of this page.

Law: docs/spec/link.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import BadMessage

WS_FRAME_BYTES = 1 << 20
"""The largest WebSocket frame that is read; longer messages come in fragments of `FRAGMENT_BYTES`."""

FRAGMENT_BYTES = 512 * 1024
MAX_FRAMES_PER_MESSAGE = 4096
COALESCED_BYTES = 256 * 1024
"""Frames of one turn of the event loop share a message until it is this long."""

HELLO_BYTES = 512
PROOF_BYTES = 1 << 20
"""The longest messages of a handshake: who says more before it is proven is dropped."""

SHOW_BYTES = 256 * 1024
MAX_SHOW_CHUNKS = 64
"""Evidence travels in chunks of so many bytes, at most so many of them: 16 MiB (protocol/evidence.py)."""

ACK_FRAMES = 64
ACK_BYTES = 32 * 1024
ACK_DELAY_S = 0.1
"""An acknowledgement leaves after so many frames or bytes, or so long after the first."""

DEADLINE_GRACE_S = 10.0
"""How long after its order's deadline a gateway waits for a call's end before the call fails with ``deadline``."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """The bounds of one link; both ends have their own, a peer that exceeds ours is dropped.

    Args:
        max_message_bytes: one message, and so one frame (a result that doesn't stream is one frame).
        max_body_bytes: one request body. max_calls: calls in flight on one link.
        window_pieces: pieces of a stream that may be on the way. stream_buffer_bytes: of them, not acknowledged.
        outbox_bytes: all that is sent and not acknowledged; above it no new call is opened.
        resume_window_s: how long a session outlives its connection.
        messages_per_s, burst_messages: frames received, as a token bucket; an honest peer on one core stays below it.
        ping_s: idle time before a ping, and time for its answer. handshake_s: from dialling to a proven peer.
        max_pending, max_pending_per_host: connections at once whose peer isn't proven, in all and from one address.
        max_links: providers at once.
        backlog: batches, vouchers and claims that wait for their coroutine before reading pauses.
    """

    max_message_bytes: int = 8 << 20
    max_body_bytes: int = 4 << 20
    max_calls: int = 4096
    window_pieces: int = 64
    stream_buffer_bytes: int = 64 * 1024
    outbox_bytes: int = 64 << 20
    resume_window_s: float = 30.0
    messages_per_s: int = 50_000
    burst_messages: int = 200_000
    ping_s: float = 10.0
    handshake_s: float = 5.0
    max_pending: int = 64
    max_pending_per_host: int = 16
    max_links: int = 1024
    backlog: int = 256


class RateMeter:
    """A token bucket over received frames; a peer that empties it breaks the rules."""

    __slots__ = ("_burst", "_last_s", "_per_s", "_tokens")

    def __init__(self, per_s: int, burst: int, now_s: float) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._last_s = now_s

    def take(self, count: int, now_s: float) -> None:
        """Count `count` frames at a monotonic time in seconds; raises BadMessage (``flood``) above the rate."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._last_s) * self._per_s) - count
        self._last_s = now_s
        if self._tokens < 0:
            raise BadMessage(f"more than {self._per_s} messages a second on one link", code="flood")
