"""The node behind nginx and behind our provider: JSON-RPC on uvicorn, singles and batches, and no chain at all.

`python node.py PORT`
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import uvicorn

BLOCK = {
    "number": "0x10",
    "hash": "0x" + "ab" * 32,
    "parentHash": "0x" + "cd" * 32,
    "stateRoot": "0x" + "12" * 32,
    "miner": "0x" + "34" * 20,
    "gasUsed": "0x5208",
    "timestamp": "0x65000000",
    "transactions": ["0x" + "56" * 32],
}
RESULTS = {
    "eth_chainId": b'"0x7a69"',
    "eth_blockNumber": b'"0x10"',
    "eth_getBalance": b'"0xde0b6b3a7640000"',
    "eth_getBlockByHash": msgspec.json.encode(BLOCK),
}
HEADERS = [(b"content-type", b"application/json")]


class Call(msgspec.Struct):
    """One request."""

    method: str
    id: msgspec.Raw = msgspec.Raw(b"null")


read_one = msgspec.json.Decoder(Call).decode
read_many = msgspec.json.Decoder(list[Call]).decode


def answer(call: Call) -> bytes:
    """Return one answer."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (bytes(call.id), RESULTS[call.method])


async def app(_scope: Any, receive: Any, send: Any) -> None:
    """Answer a request or a batch."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    calls = read_many(body) if body[:1] == b"[" else [read_one(body)]
    content = b",".join(map(answer, calls))
    if body[:1] == b"[":
        content = b"[" + content + b"]"
    headers = [*HEADERS, (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", access_log=False, log_level="critical")
