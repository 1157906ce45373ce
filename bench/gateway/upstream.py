"""The HTTP server behind nginx and LiteLLM: answers every request with the same bytes, as fast as Python can.

`python upstream.py PORT BODY_FILE`
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httptools
import uvloop


class Answer(asyncio.Protocol):
    """One connection: parses requests, writes the one answer for each."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(self.answer)  # type: ignore[attr-defined]


async def serve(port: int, body: bytes) -> None:
    """Answer on a loopback port until killed."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    server = await asyncio.get_running_loop().create_server(lambda: Answer(head + body), "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
