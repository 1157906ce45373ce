"""One client's connection: uvicorn's protocol, with the short cut of fast_path.py for whole calls.

1. Each method is called by the parser, the transport or the loop, as uvicorn's own are; none waits.
2. What isn't taken is handed on as if it had just come: uvicorn never sees half a request.

Law: docs/spec/gateway.md, section 2.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from steelyard.gateway.attempt import Attempt
from steelyard.gateway.crashes import describe_crash
from steelyard.gateway.fast_path import FastPath, WholeCall
from steelyard.gateway.relay_routes import RPC, RPC_PREFIX, read_route
from steelyard.gateway.replies import BEGUN, HOT_ROUTES, Reply

_ODD = frozenset((b"idempotency-key", b"upgrade", b"transfer-encoding"))
_ROUTES = {path.encode(): api for path, api in HOT_ROUTES.items()}
_RPC = RPC_PREFIX.encode()

_log = structlog.get_logger("steelyard.gateway")


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
        current: object = self.cycle
        if isinstance(current, WholeCall):
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
        transport.write(self._fast.answer(call, attempt, receipt.cost, self.server_state.default_headers))
        self._fast.count(call.api, 200, attempt.ended_s - attempt.job.started_s)
        self._complete(call)
        if call.route is not None:
            self._fast.relay.keep(attempt)

    def _complete(self, call: WholeCall) -> None:
        transport = self.transport
        call.response_complete = True
        if not call.keep_alive:
            transport.close()
        if self.pipeline or self.timeout_keep_alive_task is None or not call.keep_alive:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._idle_since_s = self.loop.time()

    def _take(self) -> WholeCall | None:
        url = self.url
        api = _ROUTES.get(url)
        is_relay = api is None and url.startswith(_RPC) and b"?" not in url and b"%" not in url
        cycle, parser = self.cycle, self.parser
        if (
            not (api or is_relay)
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
        if api is None:
            return WholeCall(
                self.transport, f"/{RPC}", headers, self.headers, read_route(url.decode("latin-1"), headers)
            )
        return WholeCall(self.transport, api, headers, self.headers)

    def _leave(self) -> None:
        url, expects, headers = self.url, self.expect_100_continue, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _begin(self, call: WholeCall, body: bytes) -> bool:
        fast, route = self._fast, call.route
        if route is not None and self.flow.write_paused:
            return False  # an answer that is known would pile up before a client who doesn't read
        try:
            attempt = (
                fast.work.begin(call.api, call.headers, body)
                if route is None
                else fast.relay.begin(route, call.headers, body)
            )
        except Exception as error:  # a supervisor: the ordinary path meets it again, and answers
            _log.error("fast_call_crashed", api=call.api, **describe_crash(error))
            return False
        if attempt is None:
            return False
        if isinstance(attempt, Reply):
            self.transport.write(fast.answer_known(call, attempt, self.server_state.default_headers))
            fast.in_flight += 1
            fast.count(call.api, attempt.status, 0.0)
            self._complete(call)
            return True
        call.attempt, attempt.waiter = attempt, self.finish
        self._calling = call
        self._fast.in_flight += 1
        self.tasks.add(call)  # type: ignore[arg-type]
        return True

    def _resume(self, call: WholeCall, attempt: Attempt) -> None:
        path = next((path for path, api in HOT_ROUTES.items() if api == call.api), "")
        if call.route is not None:
            path = f"{RPC_PREFIX}{call.route.service}"
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
