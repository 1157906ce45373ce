"""Whole calls below ASGI: from the parsed request to one write, without a task, a scope or a message.

1. Only a POST on a hot route over HTTP/1.1 that stays open, with nothing before it in flight on its connection, a
   declared body of at most `MAX_BODY_BYTES`, a known key, and neither Expect nor Idempotency-Key.
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

from steelyard.gateway.access import Access, Account
from steelyard.gateway.attempt import Attempt
from steelyard.gateway.crashes import describe_crash
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.replies import BEGUN, HOT_ROUTES, Header, head_block
from steelyard.gateway.work import Work

MAX_BODY_BYTES = 64 * 1024
"""Above it uvicorn reads, and lets the client wait while the body isn't wanted."""

_ROUTES = {path.encode(): api for path, api in HOT_ROUTES.items()}
_CALL_HEADERS = b"x-steelyard-call: call_%s\r\nx-steelyard-receipt: 0x%s\r\nx-steelyard-cost-nano: %d\r\n"

_log = structlog.get_logger("steelyard.gateway")


class FastPath:
    """What all connections of one gateway share.

    Args:
        extra_headers: what a reply carries beside its own headers, from the request's. clock: monotonic seconds.
    """

    def __init__(
        self,
        work: Work,
        access: Access,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        extra_headers: Callable[[dict[bytes, bytes]], tuple[Header, ...]],
        clock: Callable[[], float],
    ) -> None:
        self.work = work
        self.access = access
        self.max_body_bytes = min(max_body_bytes, MAX_BODY_BYTES)
        self.extra_headers = extra_headers
        self.in_flight = 0
        self._metrics = metrics
        self._clock = clock
        self._defaults: list[Header] = []
        self._top = STATUS_LINE[200]

    def top(self, defaults: list[Header]) -> bytes:
        """Return the status line of a 200 and uvicorn's own headers (Date), made once a second."""
        if defaults is not self._defaults:
            self._defaults, self._top = defaults, STATUS_LINE[200] + head_block(tuple(defaults))
        return self._top

    def count(self, api: str, status: int, started_s: float) -> None:
        """Count a request that ended here."""
        self.in_flight -= 1
        self._metrics.replies[api, status] += 1
        self._metrics.answered.observe(self._clock() - started_s)


class WholeCall:
    """One request of the fast path; for uvicorn the connection's cycle, and a task that can be cancelled."""

    __slots__ = (
        "account",
        "api",
        "attempt",
        "headers",
        "keep_alive",
        "parts",
        "protocol",
        "response_complete",
        "scope",
    )

    def __init__(
        self, protocol: GatewayProtocol, api: str, headers: dict[bytes, bytes], account: Account, scope: Any
    ) -> None:
        self.protocol = protocol
        self.api = api
        self.headers = headers
        self.account = account
        self.scope = scope
        self.parts: list[bytes] = []
        self.attempt: Attempt | None = None
        self.keep_alive = True
        self.response_complete = False

    def cancel(self, msg: object = None) -> None:
        """Called by uvicorn when a stop has waited long enough: hang up."""
        self.protocol.transport.close()

    def on_over(self) -> None:
        """Called by the attempt at its end."""
        self.protocol.finish(self)


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

    def on_headers_complete(self) -> None:
        """Called by the parser: take the request, or leave it to uvicorn."""
        call = self._reading = self._take()
        if call is None:
            super().on_headers_complete()
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
        body = b"".join(call.parts)
        if self._begin(call, body):
            return
        self.cycle = None  # type: ignore[assignment]  # as before the first request
        super().on_headers_complete()
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
            self._fast.count(call.api, 499, call.attempt.job.started_s)
        if self._resumed is not None and not self._resumed.response_complete:
            self._resumed.disconnected = True
            self._resumed.message_event.set()
        if isinstance(self.cycle, WholeCall):
            self.cycle = None  # type: ignore[assignment]  # there is nobody behind it who waits for a message
        super().connection_lost(exc)

    def finish(self, call: WholeCall) -> None:
        """Answer a call whose attempt is over: with one write, or as uvicorn does."""
        attempt, transport = call.attempt, self.transport
        if attempt is None or transport.is_closing():
            return
        attempt.waiter = self._calling = None
        self.tasks.discard(call)
        receipt = attempt.receipt
        if receipt is None or not attempt.out or self.flow.write_paused:
            self._fast.in_flight -= 1
            self._resume(call, attempt)
            return
        job, body = attempt.job, attempt.out[0]
        transport.write(
            b"%s%s%s%scontent-length: %d\r\n%s\r\n%s"
            % (
                self._fast.top(self.server_state.default_headers),
                attempt.seller.head,
                _CALL_HEADERS % (job.call_hex, attempt.receipt_hex, receipt.cost),
                head_block(self._fast.extra_headers(call.headers)),
                len(body),
                b"" if call.keep_alive else b"connection: close\r\n",
                body,
            )
        )
        call.response_complete = True
        self._fast.count(call.api, 200, job.started_s)
        if not call.keep_alive:
            transport.close()
        self.on_response_complete()

    def _take(self) -> WholeCall | None:
        api = _ROUTES.get(self.url)
        cycle, parser = self.cycle, self.parser
        if (
            api is None
            or (cycle is not None and not cycle.response_complete)
            or self.expect_100_continue
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
        ):
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length")
        if length is None or int(length) > self._fast.max_body_bytes or b"idempotency-key" in headers:
            return None
        account = self._fast.access.recall(headers.get(b"authorization"))
        return None if account is None else WholeCall(self, api, headers, account, self.scope)

    def _begin(self, call: WholeCall, body: bytes) -> bool:
        try:
            attempt = self._fast.work.begin(call.api, call.account, call.headers, body)
        except Exception as error:  # a supervisor: the ordinary path meets it again, and answers
            _log.error("fast_call_crashed", api=call.api, **describe_crash(error))
            return False
        if attempt is None:
            return False
        call.attempt, attempt.waiter = attempt, call.on_over
        self._calling = call
        self._fast.in_flight += 1
        self.tasks.add(call)  # type: ignore[arg-type]
        return True

    def _resume(self, call: WholeCall, attempt: Attempt) -> None:
        path = next(path for path, api in HOT_ROUTES.items() if api == call.api)
        call.scope |= {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", BEGUN: attempt}
        cycle = self._resumed = RequestResponseCycle(
            scope=call.scope,
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
