"""engines/sse.py: events out of a stream that may be cut anywhere."""

from __future__ import annotations

import pytest

from steelyard.engines.sse import MAX_LINE_BYTES, EventReader
from steelyard.errors import Unavailable

STREAM = b': hello\r\ndata: {"a":1}\r\n\r\nevent: x\ndata:{"b":\ndata: 2}\n\n\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_come_whole_however_the_network_cuts_them(size: int) -> None:
    """Comments and other fields are skipped, several data lines are joined, line ends may be either."""
    reader = EventReader()
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [e for piece in pieces for e in reader.feed(piece)] == [b'{"a":1}', b'{"b":\n2}', b"[DONE]"]


def test_event_that_never_ends_is_refused() -> None:
    """An upstream can't fill the memory."""
    reader = EventReader()
    list(reader.feed(b"data: " + b"x" * (MAX_LINE_BYTES // 2)))
    with pytest.raises(Unavailable, match="an event over"):
        list(reader.feed(b"x" * (MAX_LINE_BYTES // 2)))
    reader = EventReader()
    list(reader.feed(b"data: " + b"x" * (MAX_LINE_BYTES - 10) + b"\n"))
    list(reader.feed(b"data: " + b"x" * 100 + b"\n"))
    with pytest.raises(Unavailable, match="an event over"):
        list(reader.feed(b"data: x\n"))
