"""A session's state: what was sent and not acknowledged, what was received, and the calls in between.

event                            effect on the state
-------------------------------  -----------------------------------------------------------------------------
a counted frame is sent          kept at the end of the outbox
Ack(n), or a resume at n         the first n are forgotten; fewer than before, or more than sent, is a breach
a connection is back             everything kept is sent again, in order
a counted frame is received      counted once; an acknowledgement is due after some frames or bytes
a gateway opens a call           in flight until receipt, failure, deadline, or the session's end
a piece comes                    spends one granted piece; without one, or for a call that doesn't stream, a breach
a node sends a piece             waits for a granted piece, and for room in the stream's 64 KiB

Pure: no clock, no socket; waiting is a callback that the I/O half provides.

Law: docs/spec/link.md, section 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from steelyard.errors import BadMessage
from steelyard.link.limits import ACK_BYTES, ACK_FRAMES
from steelyard.link.port import CallSink

MAX_GRANTED = 1 << 20


class NodeStream:
    """A node's view of one call: pieces it may still send, bytes of them not acknowledged, and who waits for either."""

    __slots__ = ("buffered_bytes", "on_room", "pieces")

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.buffered_bytes = 0
        self.on_room: Callable[[], None] | None = None

    def has_room(self, buffer_bytes: int) -> bool:
        """Tell whether a piece may be sent now."""
        return self.pieces > 0 and self.buffered_bytes < buffer_bytes

    def tell_room(self) -> None:
        """Call whoever waits for room, once."""
        if self.on_room is not None:
            on_room, self.on_room = self.on_room, None
            on_room()


class Outbox:
    """Counted frames from the oldest that isn't acknowledged to the newest; replays them after a lost connection."""

    __slots__ = ("_kept", "acknowledged", "size_bytes")

    def __init__(self) -> None:
        self._kept: deque[tuple[bytes, NodeStream | None]] = deque()
        self.acknowledged = 0
        self.size_bytes = 0

    @property
    def sent(self) -> int:
        """How many frames were ever pushed."""
        return self.acknowledged + len(self._kept)

    def push(self, frame: bytes, stream: NodeStream | None = None) -> None:
        """Keep a frame that is being sent; bytes of a stream count against its own room."""
        self._kept.append((frame, stream))
        self.size_bytes += len(frame)
        if stream is not None:
            stream.buffered_bytes += len(frame)

    def acknowledge(self, received: int) -> None:
        """Forget what the peer has; `received` is untrusted.

        Raises:
            BadMessage: it was higher before, or is more than was sent.
        """
        count = received - self.acknowledged
        if not 0 <= count <= len(self._kept):
            raise BadMessage(f"{received} frames acknowledged of {self.sent}, {self.acknowledged} before")
        self.acknowledged = received
        pop = self._kept.popleft
        for _ in range(count):
            frame, stream = pop()
            self.size_bytes -= len(frame)
            if stream is not None:
                stream.buffered_bytes -= len(frame)
                stream.tell_room()

    def frames(self) -> list[bytes]:
        """Return what has to be sent again on a new connection, in order."""
        return [frame for frame, _ in self._kept]


class Inbox:
    """How many counted frames came in, and how much of that the peer hasn't been told."""

    __slots__ = ("_bytes", "_told", "received")

    def __init__(self) -> None:
        self.received = 0
        self._told = 0
        self._bytes = 0

    @property
    def is_untold(self) -> bool:
        """Whether the peer lacks an acknowledgement."""
        return self.received != self._told

    def take(self, frames: int, size_bytes: int) -> bool:
        """Count frames of one message; tell whether an acknowledgement is due at once."""
        self.received += frames
        self._bytes += size_bytes
        return self.received - self._told >= ACK_FRAMES or self._bytes >= ACK_BYTES

    def tell(self) -> int:
        """Return the number to acknowledge, and note that it was."""
        self._told = self.received
        self._bytes = 0
        return self.received


class GatewayCall:
    """A gateway's view of one call in flight."""

    __slots__ = ("deadline_ms", "granted", "is_cancelled", "is_stream", "sink", "ungranted")

    def __init__(self, sink: CallSink, deadline_ms: int, granted: int) -> None:
        self.sink = sink
        self.deadline_ms = deadline_ms
        self.is_stream = granted > 0
        self.granted = granted
        self.ungranted = 0
        self.is_cancelled = False

    def spend_piece(self) -> None:
        """Count a piece that came; raises BadMessage when none was granted."""
        if self.granted <= 0:
            raise BadMessage("a piece that wasn't granted")
        self.granted -= 1

    def grant(self, count: int, window: int) -> int:
        """Gather grants; return how many to send now, 0 while fewer than a quarter of the window have gathered."""
        self.ungranted += count
        if not self.is_stream or self.ungranted * 4 < window:
            return 0
        count, self.ungranted = min(self.ungranted, 1 << 16), 0
        self.granted += count
        return count


class GatewayCalls:
    """All calls in flight of one gateway's session.

    A result for a call that isn't there is passed over: it was given up at its deadline, the node couldn't know.
    """

    __slots__ = ("_calls", "get")

    def __init__(self) -> None:
        self._calls: dict[bytes, GatewayCall] = {}
        self.get: Callable[[bytes], GatewayCall | None] = self._calls.get
        """Returns a call in flight by its id, or None: the dictionary's own, on the hot path."""

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, call_id: bytes, call: GatewayCall) -> None:
        """Add a call; raises ValueError for an id that is in flight: ids are drawn at random, so it is our fault."""
        if call_id in self._calls:
            raise ValueError(f"call {call_id.hex()} is in flight already")
        self._calls[call_id] = call

    def close(self, call_id: bytes) -> GatewayCall | None:
        """Take out a call that ended."""
        return self._calls.pop(call_id, None)

    def expire(self, before_ms: int) -> list[tuple[bytes, GatewayCall]]:
        """Take out the calls whose deadline lies before a Unix time, with their ids."""
        late = [call_id for call_id, call in self._calls.items() if call.deadline_ms < before_ms]
        return [(call_id, self._calls.pop(call_id)) for call_id in late]

    def drain(self) -> list[GatewayCall]:
        """Take out all calls."""
        calls = list(self._calls.values())
        self._calls.clear()
        return calls


class NodeCalls:
    """All calls in flight of one node's session; `max_calls` is what the node told the gateway."""

    __slots__ = ("_max_calls", "_streams")

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._streams: dict[bytes, NodeStream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, call_id: bytes) -> NodeStream | None:
        """Return a call in flight."""
        return self._streams.get(call_id)

    def open(self, call_id: bytes, pieces: int) -> bool:
        """Add a call (untrusted); False if it is one too many: the gateway may have given up some that still run.

        Raises:
            BadMessage: this id is in flight.
        """
        if call_id in self._streams:
            raise BadMessage(f"call {call_id.hex()} was opened twice")
        if len(self._streams) >= self._max_calls:
            return False
        self._streams[call_id] = NodeStream(pieces)
        return True

    def grant(self, call_id: bytes, count: int) -> None:
        """Add granted pieces (untrusted); a call that has ended is passed over, an absurd window is refused."""
        stream = self._streams.get(call_id)
        if stream is None:
            return
        stream.pieces += count
        if stream.pieces > MAX_GRANTED:
            raise BadMessage(f"call {call_id.hex()} was granted {stream.pieces} pieces")
        stream.tell_room()

    def close(self, call_id: bytes) -> bool:
        """Take out a call that ended; False if it isn't there."""
        stream = self._streams.pop(call_id, None)
        if stream is not None:
            stream.tell_room()
        return stream is not None

    def drain(self) -> list[bytes]:
        """Take out all calls, and let go whoever waits for their room."""
        streams = dict(self._streams)
        self._streams.clear()
        for stream in streams.values():
            stream.tell_room()
        return list(streams)
