"""Server-sent events, as OpenAI-compatible servers stream them: bytes in, the data of each event out.

1. Only `data` lines matter; comments and other fields are skipped. Events may be cut anywhere by the network.
2. One line is bounded: an upstream can't fill the memory by never ending it.
"""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.errors import Unavailable

MAX_LINE_BYTES = 1024 * 1024


class EventReader:
    """Collects the bytes of a stream into events."""

    __slots__ = ("_data", "_line")

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more bytes and yield the data of every event that is whole.

        Raises:
            Unavailable: a line, or one event's data, is longer than `MAX_LINE_BYTES`.
        """
        lines = (self._line + data).replace(b"\r\n", b"\n").split(b"\n")
        self._line = lines.pop()
        if len(self._line) > MAX_LINE_BYTES or sum(map(len, self._data)) > MAX_LINE_BYTES:
            raise Unavailable(f"the upstream sent an event over {MAX_LINE_BYTES} bytes", code="upstream_failed")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                event, self._data = b"\n".join(self._data), []
                yield event
