"""Whole calls below ASGI: from the parsed request to one write, without a task, a scope or a message.

1. Only a POST on a hot route over HTTP/1.1 that stays open, with nothing before it in flight on its connection, a
   declared body of at most `MAX_BODY_BYTES`, and neither Expect nor Idempotency-Key.
2. `Work.begin` sends its order at once or does nothing. Where it does nothing (a refusal, a stream, a lease to wait
   for) the request is replayed into uvicorn's own path: every refusal and every wait is written once, in `Work.answer`.
3. A call in flight stands where uvicorn's cycle and task would stand. So what is pipelined behind it waits, a stop lets
   it end, and the connection's timers are uvicorn's own.
4. A good answer is written straight from the link's callback. An attempt that failed, or a client that reads slowly,
   goes on in `Work.answer` with what was begun.
5. A client that hangs up cancels its attempt at once; what was sent by then is settled and paid.

The bytes are those that uvicorn writes for the same answer; a test compares them.

Law: docs/spec/gateway.md, section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from steelyard.gateway.attempt import Attempt
from steelyard.gateway.crashes import describe_crash
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.replies import BEGUN, HOT_ROUTES, Header, head_block
from steelyard.gateway.work import Work

MAX_BODY_BYTES = 64 * 1024
"""Above it uvicorn reads, and lets the client wait while the body isn't wanted."""

_ODD = frozenset((b"idempotency-key", b"upgrade", b"transfer-encoding"))
_ROUTES = {path.encode(): api for path, api in HOT_ROUTES.items()}
_ANSWER = (
    b"%s%sx-steelyard-call: call_%s\r\nx-steelyard-receipt: 0x%s\r\nx-steelyard-cost-nano: %d\r\n%s"
    b"content-length: %d\r\n%s\r\n%s"
)

_log = structlog.get_logger("steelyard.gateway")


class FastPath:
    """What all connections of one gateway share.

    Args:
        extra_block: lines of what a reply carries beside its own headers, from the request's. clock: monotonic seconds.
    """

    def __init__(
        self,
        work: Work,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        extra_block: Callable[[dict[bytes, bytes]], bytes],
        clock: Callable[[], float],
    ) -> None:
        self.work = work
        self.max_body_bytes = min(max_body_bytes, MAX_BODY_BYTES)
        self.extra_block = extra_block
        self.in_flight = 0
        self._metrics = metrics
        self.clock = clock
        self._defaults: list[Header] = []
        self._top = STATUS_LINE[200]

    def top(self, defaults: list[Header]) -> bytes:
        """Return the status line of a 200 and uvicorn's own headers (Date), made once a second."""
        if defaults is not self._defaults:
            self._defaults, self._top = defaults, STATUS_LINE[200] + head_block(tuple(defaults))
        return self._top

    def count(self, api: str, status: int, seconds: float) -> None:
        """Count a request that ended here, and how long it took."""
        self.in_flight -= 1
        self._metrics.replies[api, status] += 1
        self._metrics.answered.observe(seconds)


class WholeCall:
    """One request of the fast path; for uvicorn the connection's cycle, and a task that can be cancelled."""

    __slots__ = (
        "api",
        "attempt",
        "headers",
        "keep_alive",
        "parts",
        "protocol",
        "raw_headers",
        "response_complete",
    )

    def __init__(
        self,
        protocol: GatewayProtocol,
        api: str,
        headers: dict[bytes, bytes],
        raw_headers: list[Header],
    ) -> None:
        self.protocol = protocol
        self.api = api
        self.headers = headers
        self.raw_headers = raw_headers
        self.parts: list[bytes] = []
        self.attempt: Attempt | None = None
        self.keep_alive = True
        self.response_complete = False

    def cancel(self, msg: object = None) -> None:
        """Called by uvicorn when a stop has waited long enough: hang up."""
        self.protocol.transport.close()


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with a short cut for whole calls."""

    def __init__(
        self,
        fast: FastPath,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._fast = fast
        self._reading: WholeCall | None = None
        self._calling: WholeCall | None = None
        self._resumed: RequestResponseCycle | None = None
        self._idle_since_s: float | None = None

    def on_message_begin(self) -> None:
        """Called by the parser: note nothing yet but what comes."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Called by the parser: take the request, or leave it to uvicorn."""
        call = self._reading = self._take()
        if call is None:
            self._leave()
        else:
            self.cycle = call  # type: ignore[assignment]  # it has what uvicorn asks of a cycle

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each part of a body."""
        if self._reading is None:
            super().on_body(body)
        else:
            self._reading.parts.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser at a request's end."""
        call, self._reading = self._reading, None
        if call is None:
            super().on_message_complete()
            return
        body = call.parts[0] if len(call.parts) == 1 else b"".join(call.parts)
        if self._begin(call, body):
            return
        self.cycle = None  # type: ignore[assignment]  # as before the first request
        self._leave()
        self.cycle.keep_alive = self.cycle.keep_alive and call.keep_alive
        super().on_body(body)
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport: whoever is being answered has gone."""
        call, self._calling = self._calling, None
        if call is not None and call.attempt is not None:
            self.tasks.discard(call)
            call.attempt.waiter = None
            call.attempt.cancel()
            self._fast.count(call.api, 499, self._fast.clock() - call.attempt.job.started_s)
        if self._resumed is not None and not self._resumed.response_complete:
            self._resumed.disconnected = True
            self._resumed.message_event.set()
        if isinstance(self.cycle, WholeCall):
            self.cycle = None  # type: ignore[assignment]  # there is nobody behind it who waits for a message
        super()._unset_keepalive_if_required()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Called after an answer: uvicorn starts what waits behind it, or a timer of its own."""
        super()._unset_keepalive_if_required()
        super().on_response_complete()
        self._idle_since_s = self.loop.time()

    def _unset_keepalive_if_required(self) -> None:
        """Called when data comes. The timer goes on: to stop and start it costs more than to look when it rings."""
        self._idle_since_s = None

    def timeout_keep_alive_handler(self) -> None:
        """Called by the timer: close what lay idle for long enough."""
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None:
            return  # busy: the next answer starts another
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def finish(self) -> None:
        """Called by the attempt in flight at its end: answer with one write, or as uvicorn does."""
        call, transport = self._calling, self.transport
        if call is None or call.attempt is None or transport.is_closing():
            return
        attempt = call.attempt
        attempt.waiter = self._calling = None
        self.tasks.discard(call)
        receipt = attempt.receipt
        if receipt is None or not attempt.out or self.flow.write_paused:
            self._fast.in_flight -= 1
            self._resume(call, attempt)
            return
        fast, job, body = self._fast, attempt.job, attempt.out[0]
        transport.write(
            _ANSWER
            % (
                fast.top(self.server_state.default_headers),
                attempt.seller.head,
                job.call_hex,
                attempt.receipt_hex,
                receipt.cost,
                fast.extra_block(call.headers),
                len(body),
                b"" if call.keep_alive else b"connection: close\r\n",
                body,
            )
        )
        call.response_complete = True
        fast.count(call.api, 200, attempt.ended_s - job.started_s)
        if not call.keep_alive:
            transport.close()
        if self.pipeline or self.timeout_keep_alive_task is None or not call.keep_alive:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._idle_since_s = self.loop.time()

    def _take(self) -> WholeCall | None:
        api = _ROUTES.get(self.url)
        cycle, parser = self.cycle, self.parser
        if (
            api is None
            or (cycle is not None and not cycle.response_complete)
            or self.expect_100_continue
            or parser.get_method() != b"POST"
            or not parser.should_keep_alive()
        ):
            return None
        headers = dict(self.headers)
        if not _ODD.isdisjoint(headers) or (b"connection" in headers and parser.get_http_version() != "1.1"):
            return None  # HTTP/1.0 stays open only if it says so
        length = headers.get(b"content-length")
        if length is None or int(length) > self._fast.max_body_bytes:
            return None
        return WholeCall(self, api, headers, self.headers)

    def _leave(self) -> None:
        url, expects, headers = self.url, self.expect_100_continue, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _begin(self, call: WholeCall, body: bytes) -> bool:
        try:
            attempt = self._fast.work.begin(call.api, call.headers, body)
        except Exception as error:  # a supervisor: the ordinary path meets it again, and answers
            _log.error("fast_call_crashed", api=call.api, **describe_crash(error))
            return False
        if attempt is None:
            return False
        call.attempt, attempt.waiter = attempt, self.finish
        self._calling = call
        self._fast.in_flight += 1
        self.tasks.add(call)  # type: ignore[arg-type]
        return True

    def _resume(self, call: WholeCall, attempt: Attempt) -> None:
        path = next(path for path, api in HOT_ROUTES.items() if api == call.api)
        scope: Any = {"type": "http", "method": "POST", "path": path, "headers": call.raw_headers, BEGUN: attempt}
        cycle = self._resumed = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=call.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        current: object = self.cycle
        if current is call:  # else it is the last one that is pipelined behind it
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)
