"""The short cut's own timer: a connection that lies idle is closed, one that is used or busy is not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from steelyard.gateway.fast_path import FastPath
from steelyard.gateway.http_protocol import GatewayProtocol
from steelyard.gateway.metrics import Metrics

REQUEST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
IDLE_S = 0.2


class _Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closings = 0

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closings > 0

    def close(self) -> None:
        self.closings += 1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def resume_reading(self) -> None:
        """It reads anyway."""


class _Work:
    """Begins every call, and leaves it open."""

    def __init__(self) -> None:
        self.begun: list[Any] = []

    def begin(self, api: str, headers: dict[bytes, bytes], body: bytes) -> Any:
        job = SimpleNamespace(call_hex=b"1", started_s=0.0)
        attempt = SimpleNamespace(job=job, seller=SimpleNamespace(head=b""), receipt_hex=b"2", ended_s=0.0, waiter=None)
        attempt.receipt, attempt.out = SimpleNamespace(cost=3), [b'"answer"']
        self.begun.append(attempt)
        return attempt


async def _app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing goes the ordinary way here")


def _connect() -> tuple[GatewayProtocol, _Transport, _Work]:
    work, transport = _Work(), _Transport()
    fast = FastPath(
        cast(Any, work),
        cast(Any, None),
        Metrics(),
        max_body_bytes=100,
        extra_block=lambda _: b"x-request-id: 4\r\n",
        clock=lambda: 0.0,
    )
    config = uvicorn.Config(_app, ws="none", lifespan="off", log_config=None, access_log=False)
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    protocol = GatewayProtocol(fast, config, state, {})
    protocol.timeout_keep_alive = cast(Any, IDLE_S)
    protocol.connection_made(cast(Any, transport))
    return protocol, transport, work


def test_idle_connection_is_closed_after_its_time() -> None:
    """Counted from the last answer: each request postpones it, and a call in flight holds it open."""

    async def story() -> None:
        protocol, transport, work = _connect()
        for _ in range(3):
            protocol.data_received(REQUEST)
            await asyncio.sleep(IDLE_S * 0.6)
            work.begun[-1].waiter()
            await asyncio.sleep(IDLE_S * 0.6)
            assert transport.closings == 0
        protocol.data_received(REQUEST)
        await asyncio.sleep(IDLE_S * 3)
        assert transport.closings == 0, "a call is in flight"
        work.begun[-1].waiter()
        await asyncio.sleep(IDLE_S * 1.5)
        assert transport.closings == 1
        assert len(transport.written) == 4

    asyncio.run(story())


def test_lost_connection_leaves_no_timer_behind() -> None:
    """Whoever hangs up while idle is forgotten at once, not when the timer would have rung."""

    async def story() -> None:
        protocol, _, work = _connect()
        protocol.data_received(REQUEST)
        work.begun[-1].waiter()
        timer = protocol.timeout_keep_alive_task
        assert timer is not None
        protocol.connection_lost(None)
        assert timer.cancelled()
        assert protocol not in protocol.connections

    asyncio.run(story())


def test_answer_is_one_write_with_every_header() -> None:
    """Status, date, the seller's, the call's, the request's id, the length, and the body."""

    async def story() -> None:
        protocol, transport, work = _connect()
        protocol.data_received(REQUEST[:40])
        protocol.data_received(REQUEST[40:])
        work.begun[-1].waiter()
        assert transport.written == [
            b"HTTP/1.1 200 OK\r\ndate: today\r\nx-steelyard-call: call_1\r\nx-steelyard-receipt: 0x2\r\n"
            b'x-steelyard-cost-nano: 3\r\nx-request-id: 4\r\ncontent-length: 8\r\n\r\n"answer"'
        ]
        protocol.connection_lost(None)

    asyncio.run(story())
