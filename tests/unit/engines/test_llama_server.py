"""The library's own port, as a fake that drops connections between two requests, as the real one does under load."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from steelyard.engines.llama_server import LlamaServer

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\nConnection: keep-alive\r\n\r\n"
BODY = b'{"tokens":[]}'


def test_requests_after_a_dropped_connection_are_answered() -> None:
    """Each request brings its own connection, so one that the library kept alive and then dropped loses none."""

    async def run() -> list[dict[str, object]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER + BODY)
            await writer.drain()
            await reader.read(4096)  # the rest of this request, or the next one on the same connection
            await asyncio.sleep(0)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as door:
            port = door.sockets[0].getsockname()[1]
            fake = SimpleNamespace(listening_address=f"http://127.0.0.1:{port}")
            server = LlamaServer(fake, "key")
            answers = [await server.post("/tokenize", {}) for _ in range(3)]
            await server.aclose()
            return answers

    assert asyncio.run(run()) == [{"tokens": []}] * 3
