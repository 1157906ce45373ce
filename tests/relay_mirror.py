"""A mirror of a real chain's node: JSON-RPC passed on over HTTP, some of it changed, as a bad provider's node would.

    async with open_mirror(chain.url, lying(2**59)) as url:
        service = RpcService(RpcService.describe("anvil"), options={"upstream": url})

A change gets a request's method and parameters, and may change the parameters or give the result itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

Change = Callable[[str, list[Any]], Any]
"""Returns a result instead of the chain's, or None; parameters may be changed in place."""


def lying(height: int) -> Change:
    """Return what a node does that reports a height of its own making."""
    return lambda method, params: hex(height) if method == "eth_blockNumber" else None


def stale(height: int) -> Change:
    """Return what a node does that stopped following the chain at a height."""

    def change(method: str, params: list[Any]) -> Any:
        for index, value in enumerate(params):
            if value in ("latest", "pending"):
                params[index] = hex(height)
        return hex(height) if method == "eth_blockNumber" else None

    return change


@asynccontextmanager
async def open_mirror(upstream: str, change: Change) -> AsyncIterator[str]:
    """Serve a mirror of a node on a free port of this machine."""
    async with aiohttp.ClientSession() as session:

        async def pass_on(call: dict[str, Any]) -> Any:
            found = change(call["method"], call.setdefault("params", []))
            if found is not None:
                return {"jsonrpc": "2.0", "id": call.get("id"), "result": found}
            async with session.post(upstream, json=call) as reply:
                return await reply.json(content_type=None)

        async def handle(request: web.Request) -> web.StreamResponse:
            body = json.loads(await request.read())
            if isinstance(body, list):
                return web.json_response([await pass_on(call) for call in body])
            return web.json_response(await pass_on(body))

        app = web.Application()
        app.router.add_post("/", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()
