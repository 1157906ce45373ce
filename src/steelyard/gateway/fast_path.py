"""Whole calls below ASGI: from the parsed request to one write, without a task, a scope or a message.

1. Only a POST on a hot route or to a chain over HTTP/1.1 that stays open, with nothing before it in flight on its
   connection, a declared body of at most `MAX_BODY_BYTES`, and neither Expect nor Idempotency-Key.
2. `Work.begin` and `Relay.begin` send its order at once or do nothing; the relay may know the answer already. Where
   they do nothing (a refusal, a stream, a lease to wait for) the request is replayed into uvicorn's own path: every
   refusal and every wait is written once, in `Work.answer` and `Relay.answer`.
3. A call in flight stands where uvicorn's cycle and task would stand. So what is pipelined behind it waits, a stop lets
   it end, and a connection that lies idle is closed.
4. A good answer is written straight from the link's callback. An attempt that failed, or a client that reads slowly,
   goes on in `Work.answer` with what was begun.
5. A client that hangs up cancels its attempt at once; what was sent by then is settled and paid.

The bytes are those that uvicorn writes for the same answer; a test compares them. What the parser and the transport
call is http_protocol.py.

Law: docs/spec/gateway.md, section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from steelyard.gateway.attempt import Attempt
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.relay import Relay
from steelyard.gateway.relay_routes import RelayRoute
from steelyard.gateway.replies import Header, Reply, head_block
from steelyard.gateway.work import Work

MAX_BODY_BYTES = 64 * 1024
"""Above it uvicorn reads, and lets the client wait while the body isn't wanted."""

_ANSWER = (
    b"%s%sx-steelyard-call: call_%s\r\nx-steelyard-receipt: 0x%s\r\nx-steelyard-cost-nano: %d\r\n%s"
    b"content-length: %d\r\n%s\r\n%s"
)
_KNOWN = b"%s%s%scontent-length: %d\r\n%s\r\n%s"


class FastPath:
    """What all connections of one gateway share.

    Args:
        extra_block: lines of what a reply carries beside its own headers, from the request's. clock: monotonic seconds.
    """

    def __init__(
        self,
        work: Work,
        relay: Relay,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        extra_block: Callable[[dict[bytes, bytes]], bytes],
        clock: Callable[[], float],
    ) -> None:
        self.work = work
        self.relay = relay
        self.max_body_bytes = min(max_body_bytes, MAX_BODY_BYTES)
        self.clock = clock
        self.in_flight = 0
        self._extra_block = extra_block
        self._metrics = metrics
        self._defaults: list[Header] = []
        self._top = STATUS_LINE[200]

    def answer(self, call: WholeCall, attempt: Attempt, cost_nano: int, defaults: list[Header]) -> bytes:
        """Return all bytes of a good answer; `defaults` are uvicorn's own headers."""
        body = attempt.out[0]
        return _ANSWER % (
            self._make_top(defaults),
            attempt.seller.head,
            attempt.job.call_hex,
            attempt.receipt_hex,
            cost_nano,
            self._extra_block(call.headers),
            len(body),
            b"" if call.keep_alive else b"connection: close\r\n",
            body,
        )

    def answer_known(self, call: WholeCall, reply: Reply, defaults: list[Header]) -> bytes:
        """Return all bytes of an answer that nobody had to be asked for."""
        return _KNOWN % (
            self._make_top(defaults),
            head_block(reply.headers),
            self._extra_block(call.headers),
            len(reply.body),
            b"" if call.keep_alive else b"connection: close\r\n",
            reply.body,
        )

    def count(self, api: str, status: int, seconds: float) -> None:
        """Count a request that ended here, and how long it took."""
        self.in_flight -= 1
        self._metrics.replies[api, status] += 1
        self._metrics.answered.observe(seconds)

    def _make_top(self, defaults: list[Header]) -> bytes:
        if defaults is not self._defaults:  # a new Date, once a second
            self._defaults, self._top = defaults, STATUS_LINE[200] + head_block(tuple(defaults))
        return self._top


class WholeCall:
    """One request of the fast path; for uvicorn the connection's cycle, and a task that can be cancelled.

    `route` says to which chain it goes; None for the hot routes, whose bodies name their model.
    """

    __slots__ = (
        "api",
        "attempt",
        "headers",
        "keep_alive",
        "parts",
        "raw_headers",
        "response_complete",
        "route",
        "transport",
    )

    def __init__(
        self,
        transport: asyncio.BaseTransport,
        api: str,
        headers: dict[bytes, bytes],
        raw_headers: list[Header],
        route: RelayRoute | None = None,
    ) -> None:
        self.transport = transport
        self.api = api
        self.route = route
        self.headers = headers
        self.raw_headers = raw_headers
        self.parts: list[bytes] = []
        self.attempt: Attempt | None = None
        self.keep_alive = True
        self.response_complete = False

    def cancel(self, msg: object = None) -> None:
        """Called by uvicorn when a stop has waited long enough: hang up."""
        self.transport.close()
