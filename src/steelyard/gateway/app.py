"""The gateway as a bare ASGI callable: no framework stands between the socket and our own work.

1. Hot routes go straight to work.py, the relay's to relay_fronts.py; the rest is pages.py.
2. Whatever is raised before the first byte becomes a reply in OpenAI's error shape, with the request's id.
3. Our own bugs are logged whole under an id, and only the id is shown.

Law: docs/spec/gateway.md, sections 1 and 3.
"""

from __future__ import annotations

import re

import structlog

from steelyard.errors import BadRequest, Fault, NotFound, SteelyardError
from steelyard.gateway.checks import CHECKS, CheckPages
from steelyard.gateway.crashes import describe_crash
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.pages import Pages
from steelyard.gateway.randomness import RandomPool
from steelyard.gateway.relay_fronts import RelayFronts
from steelyard.gateway.relay_routes import read_route, shown_path
from steelyard.gateway.replies import (
    BEGUN,
    CORS_HEADERS,
    HOT_ROUTES,
    Header,
    Receive,
    Reply,
    Scope,
    Send,
    error_reply,
    head_block,
    send_reply,
    shown_fault,
)
from steelyard.gateway.request_bodies import ClientGone
from steelyard.gateway.work import Work

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PREFLIGHT_S = b"600"

_log = structlog.get_logger("steelyard.gateway")


class GatewayApp:
    """The ASGI application of one gateway process."""

    def __init__(
        self,
        work: Work,
        pages: Pages,
        checks: CheckPages,
        fronts: RelayFronts,
        metrics: Metrics,
        random: RandomPool,
        *,
        serves_cors: bool,
    ) -> None:
        self._work = work
        self._checks = checks
        self._pages = pages
        self._fronts = fronts
        self._metrics = metrics
        self._random = random
        self._serves_cors = serves_cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or serve one socket; any other scope is not served."""
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"this application serves http, not {scope['type']}")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        extra = self.extra_headers(headers)
        request_id = extra[0][1]
        path = scope["path"]
        api = HOT_ROUTES.get(path)
        route = None if api is not None or scope["method"] == "OPTIONS" else read_route(path, headers)
        try:
            if api is not None and scope["method"] == "POST":
                status = await self._work.answer(api, headers, receive, send, extra, scope.get(BEGUN))
            elif route is not None:
                api = f"/{route.front}"

                def describe(error: Exception) -> SteelyardError:
                    return self._describe(error, path, request_id)

                status = await self._fronts.answer(route, scope, headers, receive, send, extra, describe)
            else:
                reply = await self._cold(scope, path, headers, receive)
                status = reply.status
                await send_reply(send, reply, extra)
        except ClientGone:
            status = 499
        except Exception as error:  # a supervisor: what is not a refusal is logged whole, and shown as an id
            status = await self._answer_error(error, path, request_id, send, extra)
        self._metrics.replies[api or _route_of(path), status] += 1

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        ((_, request_id),) = self.extra_headers({})

        def describe(error: Exception) -> SteelyardError:
            return self._describe(error, scope["path"], request_id)

        status = await self._fronts.sockets.serve(scope, receive, send, describe)
        self._metrics.replies["/rpc socket", status] += 1

    def extra_headers(self, headers: dict[bytes, bytes]) -> tuple[Header, ...]:
        """Return what every reply carries: the request's id first, and for a browser what it asks for."""
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = b"req_" + self._random.take(8).hex().encode()
        if self._serves_cors and b"origin" in headers:
            return ((b"x-request-id", request_id), *CORS_HEADERS)
        return ((b"x-request-id", request_id),)

    def extra_block(self, headers: dict[bytes, bytes]) -> bytes:
        """Return `extra_headers` as lines of a reply's head."""
        if b"x-request-id" in headers or b"origin" in headers:
            return head_block(self.extra_headers(headers))
        return b"x-request-id: req_%s\r\n" % self._random.take(8).hex().encode()

    async def _cold(self, scope: Scope, path: str, headers: dict[bytes, bytes], receive: Receive) -> Reply:
        method = scope["method"]
        if path.startswith(CHECKS) and method != "OPTIONS":
            return await self._checks.answer(method, path, scope.get("query_string", b""), headers, receive)
        if method == "GET":
            if path in HOT_ROUTES:
                return _wrong_method(path, method, b"POST")
            return await self._pages.answer(path, scope.get("query_string", b""), headers)
        if method == "OPTIONS" and self._serves_cors:
            return _preflight(headers)
        if path in HOT_ROUTES or _route_of(path) != "other":
            return _wrong_method(path, method, b"POST" if path in HOT_ROUTES else b"GET")
        raise NotFound(f"there is no route {method} {path[:200]!r}: see docs/spec/gateway.md", code="unknown_url")

    async def _answer_error(
        self, error: Exception, path: str, request_id: bytes, send: Send, extra: tuple[Header, ...]
    ) -> int:
        reply = error_reply(self._describe(error, path, request_id))
        try:
            await send_reply(send, reply, extra)
        except RuntimeError:
            raise error from None  # the answer had begun: the server closes the connection, nothing looks whole
        return reply.status

    def _describe(self, error: Exception, path: str, request_id: bytes) -> SteelyardError:
        """Log and count an error, and return what a client is told of it."""
        path = shown_path(path)
        shown: SteelyardError
        if isinstance(error, SteelyardError) and not isinstance(error, Fault):
            shown = error
            if error.status >= 500:
                _log.warning(
                    "request_failed", path=path, code=error.code, reason=error.message, request=request_id.decode()
                )
        else:
            fault_id = "fault_" + self._random.take(6).hex()
            _log.error(
                "request_crashed", path=path, fault=fault_id, request=request_id.decode(), **describe_crash(error)
            )
            shown = shown_fault(fault_id)
        self._metrics.errors[shown.code] += 1
        return shown


def _wrong_method(path: str, method: str, allowed: bytes) -> Reply:
    error = BadRequest(f"{method} {path} is not served: use {allowed.decode()}", code="method_not_allowed")
    return error_reply(error, status=405, headers=((b"allow", allowed),))


def _preflight(headers: dict[bytes, bytes]) -> Reply:
    asked = headers.get(b"access-control-request-headers", b"authorization, content-type")
    return Reply(
        204,
        b"",
        (
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            (b"access-control-allow-headers", asked[:1024]),
            (b"access-control-max-age", _PREFLIGHT_S),
        ),
    )


def _route_of(path: str) -> str:
    for route in ("/v1/models", "/v1/calls", "/v1/checks", "/v1/network", "/healthz", "/readyz", "/metrics"):
        if path == route or (path.startswith(route + "/") and route.startswith("/v1/")):
            return route
    return "other"
