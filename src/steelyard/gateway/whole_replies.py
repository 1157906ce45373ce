"""One write for a whole 200: head and body joined, past uvicorn's two messages and its checks of every header.

1. The bytes are the same that `send` would write; a test compares them.
2. Only where everything is as we know it: uvicorn's httptools cycle, a client that keeps up, headers that we made.
   Anything else goes the ordinary way.

The two ASGI messages and their header checks cost a tenth of a request (bench/gateway).
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from steelyard.gateway.replies import Header, Send

_OK: bytes = STATUS_LINE[200]
_USED = (
    "chunked_encoding default_headers disconnected expected_content_length flow keep_alive message_event on_response "
    "response_complete response_started transport waiting_for_100_continue"
)


def head_block(headers: tuple[Header, ...]) -> bytes:
    """Return headers as they stand on the wire, each with its line end."""
    return b"".join(b"%s: %s\r\n" % header for header in headers)


def write_whole(send: Send, head: bytes, body: bytes) -> bool:
    """Write a whole 200 at once, or return False and write nothing.

    Args:
        head: header lines (`head_block`) without Date and Content-Length; ours alone, no value of a client in it that
            was not checked.
    """
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle or cycle.response_started or cycle.flow.write_paused:
        return False
    if not cycle.keep_alive or cycle.scope["method"] != "POST":
        return False
    if cycle.disconnected:
        return True
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    dates = b"".join(b"%s: %s\r\n" % header for header in cycle.default_headers)
    cycle.transport.write(b"%s%s%scontent-length: %d\r\n\r\n%s" % (_OK, dates, head, len(body), body))
    cycle.message_event.set()
    cycle.on_response()
    return True


def is_supported() -> bool:
    """Say whether this uvicorn's cycle has all that `write_whole` touches; a test asks."""
    names = set(RequestResponseCycle.__init__.__code__.co_names)
    return all(name in names for name in _USED.split())
