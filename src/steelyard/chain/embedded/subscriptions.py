"""One WebSocket client: its requests, and what it subscribed to.

1. Answers and notifications leave through one bounded queue, so that a subscription's id comes before its first event;
   a client that doesn't read is cut off instead of filling memory.
2. Requests run side by side, at most a fixed number at once; their answers carry ids and may overtake each other.

Law: docs/spec/embedded-chain.md, section 6; geth, `eth_subscribe`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.jsonrpc import Method, answer
from steelyard.chain.embedded.params import expect, log_query, optional
from steelyard.chain.embedded.queries import LogFilter
from steelyard.chain.embedded.receipts import SealedBlock
from steelyard.chain.embedded.views import header_view, log_view, to_hex
from steelyard.errors import BadRequest, RateLimited

MAX_OUTGOING = 4_096
MAX_CONCURRENT = 256
MAX_SUBSCRIPTIONS = 256

_Wanted = str | LogFilter  # "newHeads", "newPendingTransactions", or which logs


class WebSocketSession:
    """What one connection asked for; `run` lasts as long as the connection."""

    def __init__(self, chain: EmbeddedChain, methods: Mapping[str, Method], socket: web.WebSocketResponse) -> None:
        self._chain = chain
        self._socket = socket
        own: dict[str, Method] = {"eth_subscribe": self._subscribe, "eth_unsubscribe": self._unsubscribe}
        self._methods: Mapping[str, Method] = ChainMap(own, dict(methods))
        self._subscriptions: dict[str, _Wanted] = {}
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue(MAX_OUTGOING)
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._requests: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the client leaves."""
        writer = asyncio.create_task(self._write())
        self._chain.listeners.add(self._tell)
        try:
            async for message in self._socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._slots.acquire()
                    request = asyncio.create_task(self._serve(message.data))
                    self._requests.add(request)
                    request.add_done_callback(self._requests.discard)
        finally:
            self._chain.listeners.discard(self._tell)
            tasks = [writer, *self._requests]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, body: bytes | str) -> None:
        try:
            response = await answer(body, self._methods)
            if response is not None:
                await self._outgoing.put(response)
        finally:
            self._slots.release()

    async def _write(self) -> None:
        while True:
            payload = await self._outgoing.get()
            try:
                await self._socket.send_str(payload.decode())
            except (ConnectionError, RuntimeError):  # the client is gone; `run` ends by itself
                return

    async def _subscribe(self, params: list[Any]) -> str:
        expect(params, 1, 2)
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise RateLimited(f"too many subscriptions: at most {MAX_SUBSCRIPTIONS} a connection")
        wanted: _Wanted
        if params[0] == "logs":
            wanted = log_query(optional(params, 1, {})).wanted
        elif params[0] in ("newHeads", "newPendingTransactions"):
            wanted = str(params[0])
        else:
            raise BadRequest(f'no "{params[0]}" subscription in eth namespace', param="subscription")
        subscription_id = "0x" + secrets.token_hex(16)
        self._subscriptions[subscription_id] = wanted
        return subscription_id

    async def _unsubscribe(self, params: list[Any]) -> bool:
        expect(params, 1, 1)
        return isinstance(params[0], str) and self._subscriptions.pop(params[0], None) is not None

    def _tell(self, block: SealedBlock) -> None:
        for subscription_id, wanted in self._subscriptions.items():
            for result in _events(wanted, block):
                event = {
                    "jsonrpc": "2.0",
                    "method": "eth_subscription",
                    "params": {"subscription": subscription_id, "result": result},
                }
                try:
                    self._outgoing.put_nowait(msgspec.json.encode(event))
                except asyncio.QueueFull:
                    self._chain.listeners.discard(self._tell)
                    self._cut()
                    return

    def _cut(self) -> None:
        reason = f"more than {MAX_OUTGOING} messages unread".encode()
        cutting = asyncio.create_task(self._close(reason))
        self._requests.add(cutting)
        cutting.add_done_callback(self._requests.discard)

    async def _close(self, reason: bytes) -> None:
        await self._socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=reason)


def _events(wanted: _Wanted, block: SealedBlock) -> list[Any]:
    if isinstance(wanted, LogFilter):
        return [log_view(mined) for mined in block.logs if wanted.matches(mined.log)]
    if wanted == "newHeads":
        return [header_view(block.header)]
    return [to_hex(mined.transaction.hash) for mined in block.transactions]
