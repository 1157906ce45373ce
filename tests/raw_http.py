"""HTTP/1.1 by hand, over a real socket: for tests that look at bytes, packets and order.

async with open_raw(world.base_url, world.secret) as raw:
    raw.send(raw.post("/v1/chat/completions", body), raw.get("/healthz"))     # pipelined
    first, second = await raw.read(), await raw.read()
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class RawReply:
    """A reply as it stood on the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The value of a header, or None."""
        return dict(self.headers).get(name)


@dataclass(frozen=True, slots=True)
class RawConnection:
    """One connection that carries a key."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str
    secret: str

    def post(self, path: str, body: Any, **headers: str) -> bytes:
        """Return a POST's bytes. `authorization` overrides the key, "" sends none."""
        data = _encode(body)
        return self._head(path, {**headers, "content-length": str(len(data))}) + data

    def post_in_chunks(self, path: str, body: Any, **headers: str) -> bytes:
        """Return the bytes of a POST that declares no length."""
        data = _encode(body)
        half = len(data) // 2
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:half], data[half:]) if part)
        return self._head(path, {**headers, "transfer-encoding": "chunked"}) + chunks + b"0\r\n\r\n"

    def _head(self, path: str, headers: dict[str, str]) -> bytes:
        sent = {"host": self.host, "content-type": "application/json", "authorization": f"Bearer {self.secret}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value)
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode()

    def get(self, path: str) -> bytes:
        """Return a GET's bytes."""
        return f"GET {path} HTTP/1.1\r\nhost: {self.host}\r\n\r\n".encode()

    def send(self, *requests: bytes) -> None:
        """Write requests in one go."""
        self.writer.write(b"".join(requests))

    async def read(self) -> RawReply:
        """Return the next reply, whole."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        named = dict(headers)
        if named.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            body = await self.reader.readexactly(int(named["content-length"]))
        return RawReply(int(first.split(" ")[1]), headers, body)

    async def is_closed(self) -> bool:
        """Say whether the server closes, without another byte."""
        return await self.reader.read(1) == b""


def _encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@asynccontextmanager
async def open_raw(base_url: str, secret: str) -> AsyncIterator[RawConnection]:
    """Give a connection to a gateway."""
    url = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield RawConnection(reader, writer, url.netloc, secret)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
