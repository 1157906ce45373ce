"""The HTTP servers behind nginx and LiteLLM: both answer every request with the same bytes.

`python upstream.py PORT BODY_FILE bare`: a socket and a parser, as fast as Python can; no model is served that way.
`python upstream.py PORT BODY_FILE uvicorn`: a bare ASGI callable on uvicorn, as Python engines (vLLM, TGI …) serve.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

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


def serve_asgi(port: int, body: bytes) -> None:
    """Answer on a loopback port until killed, through uvicorn."""
    import uvicorn

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(app, host="127.0.0.1", port=port, lifespan="off", access_log=False, log_level="critical")


if __name__ == "__main__":
    answer = Path(sys.argv[2]).read_bytes()
    if sys.argv[3] == "uvicorn":
        serve_asgi(int(sys.argv[1]), answer)
    else:
        uvloop.run(serve(int(sys.argv[1]), answer))
