"""Upstreams for relays: a JSON-RPC node that plays a script, over HTTP and WebSocket, and a little REST server.

    async with open_node() as node:
        service = RpcService(RpcService.describe("anvil"), options=node.options)

`node.answers` maps a method to its result; `node.reply`, if set, makes the whole HTTP answer of a body.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

BLOCK = {"number": "0x5", "hash": "0x" + "ab" * 32}


@dataclass
class ScriptedNode:
    """What a node answers, and what it was asked."""

    answers: dict[str, Any] = field(
        default_factory=lambda: {"eth_chainId": "0x7a69", "eth_blockNumber": "0x10", "eth_getBlockByNumber": BLOCK}
    )
    reply: Callable[[Any], web.Response] | None = None
    notifications: list[Any] = field(default_factory=lambda: [{"number": hex(n)} for n in range(3)])
    closes_socket: bool = False
    asked: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sockets: int = 0
    url: str = ""

    @property
    def options(self) -> dict[str, str]:
        """What a service needs to know of it."""
        return {"upstream": self.url, "upstream_ws": self.url.replace("http", "ws") + "/ws"}

    def answer(self, call: Any) -> dict[str, Any]:
        """One JSON-RPC answer: the script's, else an error that the method isn't there."""
        head = {"jsonrpc": "2.0", "id": call.get("id")}
        if call["method"] in self.answers:
            found = self.answers[call["method"]]
            return {**head, "result": found(call.get("params")) if callable(found) else found}
        return {**head, "error": {"code": -32601, "message": "no such method"}}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request or a batch."""
        body = json.loads(await request.read())
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        if self.reply is not None:
            return self.reply(body)
        if isinstance(body, list):
            return web.json_response([self.answer(call) for call in reversed(body) if "id" in call])
        return web.json_response(self.answer(body))

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Take a subscription, send the script's notifications, then nothing, or hang up."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets += 1
        try:
            async for message in socket:
                if message.type != WSMsgType.TEXT:
                    continue
                call = json.loads(message.data)
                self.asked.append(call)
                if call["method"] == "eth_subscribe" and call["params"] == ["nothing"]:
                    error = {"code": -32602, "message": "no such subscription"}
                    await socket.send_json({"jsonrpc": "2.0", "id": call["id"], "error": error})
                    continue
                await socket.send_json({"jsonrpc": "2.0", "id": call["id"], "result": "0x77"})
                for note in self.notifications:
                    params = {"subscription": "0x77", "result": note}
                    await socket.send_json({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})
                if self.closes_socket:
                    break
        finally:
            self.sockets -= 1
        return socket


@asynccontextmanager
async def open_node(node: ScriptedNode | None = None) -> AsyncIterator[ScriptedNode]:
    """Serve a scripted node on a free port of this machine."""
    node = node or ScriptedNode()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/", node.handle)
    app.router.add_get("/ws", node.follow)
    async with _serve(app) as node.url:
        yield node


async def serve_weather(request: web.Request) -> web.StreamResponse:
    """A REST server: `v1/echo` says what it was asked, `v1/status/NNN` answers so, `v1/away` redirects, `v1/slow`."""
    tail = request.match_info["tail"]
    if tail.startswith("status/"):
        return web.Response(status=int(tail.removeprefix("status/")), text="so", content_type="text/plain")
    if tail == "away":
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/secret", "Set-Cookie": "a=b"})
    if tail == "slow":
        await asyncio.sleep(60)
    if tail == "huge":
        return web.Response(body=b"x" * (9 << 20))
    said = {
        "method": request.method,
        "path": request.raw_path,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "body": (await request.read()).decode("latin-1"),
    }
    return web.json_response(said)


@asynccontextmanager
async def open_weather() -> AsyncIterator[str]:
    """Serve it on a free port; the URL ends with its prefix `/v1`, beside which `/admin` answers too."""
    app = web.Application()
    app.router.add_route("*", "/v1{_:/?}{tail:.*}", serve_weather)
    app.router.add_route("*", "/{tail:admin}", serve_weather)
    async with _serve(app) as url:
        yield url + "/v1"


@asynccontextmanager
async def _serve(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
