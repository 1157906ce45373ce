"""The embedded chain's one port: JSON-RPC over HTTP POST and over WebSocket, on the same address.

1. A browser page may read answers if its origin is allowed; a page that reaches us under a foreign name (DNS rebinding)
   is refused while we listen on loopback only.
2. Every body is bounded; every answer is JSON-RPC, also to what is too large.
3. The file is opened before the port, so that two chains never fight over one database.

Law: docs/spec/embedded-chain.md, sections 2 and 5.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import WSCloseCode, web

from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.jsonrpc import INVALID_REQUEST, LIMIT_EXCEEDED, Method, answer, error_object
from steelyard.chain.embedded.methods import build_methods
from steelyard.chain.embedded.pyevm import PyEvmEngine
from steelyard.chain.embedded.settings import ChainSettings
from steelyard.chain.embedded.subscriptions import WebSocketSession
from steelyard.errors import ConfigError

WEBSOCKET_PING_S = 30.0
SHUTDOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class RunningChain:
    """A chain that answers: its addresses, and the chain itself for programs in the same process."""

    chain: EmbeddedChain
    host: str
    port: int

    @property
    def rpc_url(self) -> str:
        """The address for HTTP."""
        return f"http://{_bracketed(self.host)}:{self.port}"

    @property
    def websocket_url(self) -> str:
        """The address for WebSocket."""
        return f"ws://{_bracketed(self.host)}:{self.port}"


@contextlib.asynccontextmanager
async def open_chain(settings: ChainSettings) -> AsyncIterator[RunningChain]:
    """Open the database, bind the port and serve for as long as the context lasts.

    Raises:
        ConfigError: the file is no chain, of another chain id or open elsewhere, or the port is taken; one line.
    """
    async with EmbeddedChain(settings, PyEvmEngine()) as chain:
        server = RpcServer(chain, settings, build_methods(chain, is_dev_time=settings.is_dev_time))
        port = await server.start()
        try:
            yield RunningChain(chain, settings.host, port)
        finally:
            await server.stop()


async def serve(
    settings: ChainSettings,
    *,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[RunningChain], None] | None = None,
) -> None:
    """Serve a chain until `stop` is set (for ever without one), or until cancelled.

    Args:
        settings: what to open and where to listen.
        stop: ends it in good order.
        on_ready: called once, when the first request can be answered.
    """
    async with open_chain(settings) as running:
        if on_ready is not None:
            on_ready(running)
        await (stop or asyncio.Event()).wait()


class RpcServer:
    """The HTTP and WebSocket front of one chain."""

    def __init__(self, chain: EmbeddedChain, settings: ChainSettings, methods: Mapping[str, Method]) -> None:
        self._chain = chain
        self._settings = settings
        self._methods = methods
        self._sockets: set[web.WebSocketResponse] = set()
        self._is_local = _is_loopback(settings.host)
        app = web.Application(client_max_size=settings.max_body_bytes)
        app.router.add_post("/", self._post)
        app.router.add_get("/", self._get)
        app.router.add_options("/", self._preflight)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)

    async def start(self) -> int:
        """Bind and listen; return the port. Raises ConfigError when it can't."""
        settings = self._settings
        await self._runner.setup()
        site = web.TCPSite(self._runner, settings.host, settings.port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            reason = "is in use" if error.errno in _IN_USE else f"can't be bound ({error.strerror or error})"
            raise ConfigError(
                f"port {settings.port} on {settings.host} {reason}: choose another with --port, 0 takes a free one",
                param="port",
            ) from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close what is open."""
        for socket in tuple(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the chain is stopping")
        await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        refused = self._refuse(request)
        if refused is not None:
            return refused
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            message = f"request body too large: at most {self._settings.max_body_bytes} bytes"
            return self._json(request, msgspec.json.encode(error_object(None, LIMIT_EXCEEDED, message)), status=413)
        return self._json(request, await answer(body, self._methods))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        refused = self._refuse(request)
        if refused is not None:
            return refused
        if request.headers.get("Upgrade", "").lower() != "websocket":
            text = f"Steelyard embedded chain {self._chain.chain_id}: POST JSON-RPC here, or open a WebSocket.\n"
            return web.Response(text=text, status=405, headers={"Allow": "POST, OPTIONS", **self._cors(request)})
        socket = web.WebSocketResponse(
            heartbeat=WEBSOCKET_PING_S, max_msg_size=self._settings.max_body_bytes, compress=False
        )
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            await WebSocketSession(self._chain, self._methods, socket).run()
        finally:
            self._sockets.discard(socket)
        return socket

    async def _preflight(self, request: web.Request) -> web.StreamResponse:
        headers = self._cors(request)
        if headers:
            headers |= {
                "Access-Control-Allow-Methods": "POST, OPTIONS",
                "Access-Control-Allow-Headers": "Content-Type",
                "Access-Control-Allow-Private-Network": "true",
                "Access-Control-Max-Age": "86400",
            }
        return self._refuse(request) or web.Response(status=204, headers=headers)

    def _refuse(self, request: web.Request) -> web.Response | None:
        if self._is_local and not _is_loopback(_host_of(request.headers.get("Host", ""))):
            message = "this chain answers under localhost and 127.0.0.1 only"
            return self._json(request, msgspec.json.encode(error_object(None, INVALID_REQUEST, message)), status=403)
        origin = request.headers.get("Origin")
        is_socket = request.method == "GET"
        if is_socket and origin is not None and not self._cors(request):
            return web.Response(text=f"origin {origin} is not allowed: see --cors\n", status=403)
        return None

    def _cors(self, request: web.Request) -> dict[str, str]:
        origin = request.headers.get("Origin")
        allowed = self._settings.cors_origins
        if origin is None or not ("*" in allowed or origin in allowed):
            return {}
        return {"Access-Control-Allow-Origin": "*" if "*" in allowed else origin, "Vary": "Origin"}

    def _json(self, request: web.Request, body: bytes | None, status: int = 200) -> web.Response:
        if body is None:
            return web.Response(status=204, headers=self._cors(request))
        return web.Response(body=body, status=status, content_type="application/json", headers=self._cors(request))


_IN_USE = (48, 98, 10048)  # EADDRINUSE on macOS, Linux, Windows


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host_of(header: str) -> str:
    if header.startswith("["):
        return header[1:].split("]", 1)[0]
    return header.rsplit(":", 1)[0] if ":" in header else header


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
