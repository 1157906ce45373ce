"""Whole replies in one write: the same bytes as the ASGI way, and never where something is unusual."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from steelyard.gateway.replies import JSON_HEADER, Reply, send_reply
from steelyard.gateway.whole_replies import head_block, is_supported, write_whole


class _Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        return None

    def close(self) -> None:
        self.written += b"<closed>"


def _cycle(**scope: Any) -> tuple[RequestResponseCycle, _Transport]:
    transport = _Transport()
    logger = logging.getLogger("test")
    cycle = RequestResponseCycle(
        scope={"type": "http", "method": "POST", **scope},  # type: ignore[typeddict-item]
        transport=transport,  # type: ignore[arg-type]
        flow=FlowControl(transport),  # type: ignore[arg-type]
        logger=logger,
        access_logger=logger,
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )
    return cycle, transport


def test_whole_reply_is_the_same_bytes_as_uvicorn_writes() -> None:
    """Head and body, byte for byte, and the cycle is complete after it."""

    async def story() -> None:
        slow, slow_wire = _cycle()
        await send_reply(slow.send, Reply(200, b"body", (JSON_HEADER,)))  # type: ignore[arg-type]
        fast, fast_wire = _cycle()
        assert write_whole(fast.send, head_block((JSON_HEADER,)), b"body")  # type: ignore[arg-type]
        assert fast_wire.written == slow_wire.written
        assert fast.response_complete
        assert fast.response_started
        assert is_supported()

    asyncio.run(story())


def test_whole_reply_leaves_the_unusual_to_uvicorn() -> None:
    """A slow client, a connection that closes, a started reply, another server: nothing is written."""

    async def story() -> None:
        for change in ("paused", "closing", "started"):
            cycle, wire = _cycle()
            if change == "paused":
                cycle.flow.pause_writing()
            elif change == "closing":
                cycle.keep_alive = False
            else:
                cycle.response_started = True
            assert not write_whole(cycle.send, b"", b"x")  # type: ignore[arg-type]
            assert wire.written == b""

        async def send(message: Any) -> None:
            raise AssertionError("not asked")

        assert not write_whole(send, b"", b"x")
        gone, wire = _cycle()
        gone.disconnected = True
        assert write_whole(gone.send, b"", b"x")  # type: ignore[arg-type]
        assert wire.written == b""

    asyncio.run(story())
