"""A session's counted frames over one connection after another: the I/O half that both ends share.

1. A frame is kept before it is written; what isn't acknowledged is written again on the next connection.
2. Acknowledgements leave after some frames or bytes, or a tenth of a second.
3. A peer that acknowledges nothing for the resume window, though connected, is dropped.

Law: docs/spec/link.md, section 4.
"""

from __future__ import annotations

import asyncio

from steelyard.errors import BadMessage, PeerError, SteelyardError
from steelyard.link.frames import Ack, Goodbye, encode_frame
from steelyard.link.limits import ACK_DELAY_S, LinkLimits, RateMeter
from steelyard.link.session import Inbox, NodeStream, Outbox
from steelyard.link.wire import OnLost, OnMessage, Wire


class Pipe:
    """Sends and counts; `attach` gives it a connection, `detach` takes it away, `end` is for ever."""

    def __init__(self, limits: LinkLimits) -> None:
        self.outbox = Outbox()
        self.inbox = Inbox()
        self.is_over = False
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._last_wire: Wire | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._rate = RateMeter(limits.messages_per_s, limits.burst_messages, self._loop.time())
        self._progress_s = 0.0
        self._progress = 0

    @property
    def is_up(self) -> bool:
        """Whether a connection stands."""
        return self._wire is not None

    def send(self, frame: bytes, stream: NodeStream | None = None) -> None:
        """Send a counted frame now or on the next connection; a session that is over drops it."""
        if self.is_over:
            return
        self.outbox.push(frame, stream)
        if self._wire is not None:
            self._wire.send(frame)

    def attach(
        self, wire: Wire, peer_received: int, first: bytes | None, on_message: OnMessage, on_lost: OnLost
    ) -> None:
        """Go on over a new connection: an uncounted first frame if there is one, then all that the peer lacks.

        Raises:
            BadMessage: the peer says that it received what was never sent, or less than it acknowledged.
        """
        self.outbox.acknowledge(peer_received)
        old, self._wire = self._wire, wire
        if old is not None:
            old.abort()
        self._progress, self._progress_s = peer_received, self._loop.time()
        wire.on_message, wire.on_lost = on_message, on_lost
        if first is not None:
            wire.send_alone(first)
        for frame in self.outbox.frames():
            wire.send(frame)

    def detach(self) -> None:
        """Note that the connection is gone."""
        self._wire = None

    def end(self, goodbye: Goodbye | None) -> None:
        """End the session: say goodbye if connected, and forget everything. Safe to call twice."""
        self.is_over = True
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        wire, self._wire = self._wire, None
        if wire is not None:
            self._last_wire = wire
            wire.close(None if goodbye is None else encode_frame(goodbye))
        self.outbox = Outbox()

    def abort(self) -> None:
        """Cut the connection and end, telling neither the peer nor anyone here."""
        self.is_over = True
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        self._last_wire, self._wire = self._wire, None
        if self._last_wire is not None:
            self._last_wire.abort()

    async def join(self) -> None:
        """Wait until the last connection is closed, after `end`."""
        if self._last_wire is not None:
            await self._last_wire.wait_closed()

    def take(self, frames: int, counted: int, size_bytes: int) -> None:
        """Note a message that was worked off: its frames, and how many of them count for acknowledgements.

        Raises:
            BadMessage: too many frames in too short a time (``flood``).
        """
        self._rate.take(frames, self._loop.time())
        if not counted:
            return
        if self.inbox.take(counted, size_bytes):
            self._acknowledge()
        elif self._ack_timer is None:
            self._ack_timer = self._loop.call_later(ACK_DELAY_S, self._acknowledge)

    def check_progress(self) -> None:
        """Raise BadMessage if the peer has been connected and acknowledged nothing for the resume window."""
        now_s = self._loop.time()
        outbox = self.outbox
        if self._wire is None or outbox.sent == outbox.acknowledged or outbox.acknowledged != self._progress:
            self._progress, self._progress_s = outbox.acknowledged, now_s
        elif now_s - self._progress_s > self._limits.resume_window_s:
            raise BadMessage(
                f"nothing acknowledged for {self._limits.resume_window_s:g} s, {outbox.size_bytes} bytes wait",
                code="not_acknowledged",
            )

    def pause_reading(self) -> None:
        """Let the peer wait."""
        if self._wire is not None:
            self._wire.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._wire is not None:
            self._wire.resume_reading()

    def _acknowledge(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._wire is not None and self.inbox.is_untold:
            self._wire.send(encode_frame(Ack(self.inbox.tell())))


def build_goodbye(error: SteelyardError | None, reason: str, *, is_over: bool) -> Goodbye:
    """Return what the peer is told: the code and message of an error, cut to the frame's bounds."""
    code = error.code if error is not None else "bye"
    return Goodbye(code[:64], (error.message if error is not None else reason)[:1024], is_over)


def as_error(goodbye: Goodbye) -> PeerError:
    """Return the error that a peer's goodbye stands for, in this process."""
    return PeerError(f"the peer closed the link: {goodbye.message}", code=goodbye.code)
