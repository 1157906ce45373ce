"""The scripted provider: an OpenAI-compatible server and a JSON-RPC node that play one fault per path.

`http://HOST:PORT/<fault>/v1/chat/completions`, `…/v1/embeddings`, and `…/rpc` for JSON-RPC; the path says what goes
wrong, so that all faults can be asked at once and a client's configuration is all that tells them apart. Everything
is written to the socket by hand: what is played here no HTTP library would send.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

TOKENS = ("A ", "steel", "yard ", "weighs ", "what ", "is ", "laid ", "🦄 ", "on ", "its ", "longer ", "arm.")
TEXT = "".join(TOKENS)
TOKENS_IN = 9
INPUTS = ("one", "two", "three")
VECTORS = ([3.0, 4.0], [0.0, 5.0], [-8.0, 6.0])
EMBEDDING_TOKENS = 6
BALANCES = ("0x1", "0x22", "0x333")

HEALTHY = "healthy"
SHOWN = 6
"""Tokens of a chat that a provider sends before it fails in the middle."""

LATE_S = 3600.0
DRIP_S = 0.1
FLOOD_BYTES = 96 << 20
_PAGE = b"<!doctype html><html><head><title>Bad gateway</title></head><body>It works!</body></html>"
_STATUSES = {
    "429": (429, "rate_limit_error", ""),
    "429-retry-after": (429, "rate_limit_error", "retry-after: 2\r\n"),
    "500": (500, "server_error", ""),
    "503": (503, "server_error", ""),
}


@dataclass(frozen=True)
class Good:
    """A right answer: its content type, and its body in the pieces that it is sent in."""

    content_type: str
    pieces: tuple[bytes, ...]

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        return self.content_type == "text/event-stream"


class Provider:
    """Answers until it is closed; `asked` counts requests by fault."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.refused_port = _closed_port()
        self.asked: Counter[str] = Counter()

    def url(self, fault: str) -> str:
        """Where a fault is played: the base that an engine's or a chain's path is put behind."""
        if fault == "refused":
            return f"http://127.0.0.1:{self.refused_port}"
        scheme = "https" if fault == "tls" else "http"  # a handshake with a server that speaks none
        return f"{scheme}://127.0.0.1:{self.port}/{fault}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, play its fault, hang up."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            _, path, _ = head.split("\r\n", 1)[0].split(" ")
            length = next((line[15:] for line in head.lower().split("\r\n") if line.startswith("content-length:")), "0")
            body = await reader.readexactly(int(length))
            fault, _, rest = path.lstrip("/").partition("/")
            is_listed = rest.endswith("models")  # whoever only asks what is there is told
            self.asked[fault] += not is_listed
            await play(HEALTHY if is_listed else fault, build_good(rest, json.loads(body or b"null")), writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            writer.transport.abort()  # no request, or nobody who waits for the answer
        finally:
            with suppress(ConnectionError):
                writer.close()


def _closed_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def build_good(path: str, body: Any) -> Good:
    """Return the right answer to a request."""
    if path.endswith("chat/completions"):
        return _chat_stream(bool(body.get("logprobs"))) if body.get("stream") else _chat_whole()
    if path.endswith("embeddings"):
        return _in_pieces(_embeddings())
    if path.endswith("models"):
        return _in_pieces({"data": []})
    return _in_pieces(_rpc(body))


def _chat_stream(has_logprobs: bool) -> Good:
    events = [_event({"role": "assistant", "content": ""})]
    for token in TOKENS:
        logprobs = {"content": [{"token": token, "logprob": -0.1}]} if has_logprobs else None
        events.append(_event({"content": token}, logprobs=logprobs))
    events.append(_event({}, finish="stop"))
    events.append(_frame({**_HEAD, "choices": [], "usage": _usage()}))
    events.append(b"data: [DONE]\n\n")
    return Good("text/event-stream", tuple(events))


_HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _event(delta: dict[str, Any], *, finish: str | None = None, logprobs: Any = None) -> bytes:
    return _frame({**_HEAD, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]})


def _frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _usage() -> dict[str, int]:
    return {
        "prompt_tokens": TOKENS_IN,
        "completion_tokens": len(TOKENS),
        "total_tokens": TOKENS_IN + len(TOKENS),
    }


def _chat_whole() -> Good:
    message = {"role": "assistant", "content": TEXT}
    return _in_pieces(
        {
            **_HEAD,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(),
        }
    )


def _embeddings() -> dict[str, Any]:
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(VECTORS)]
    usage = {"prompt_tokens": EMBEDDING_TOKENS, "total_tokens": EMBEDDING_TOKENS}
    return {"object": "list", "model": "Einhorn 🦄", "data": data, "usage": usage}


def _rpc(body: Any) -> Any:
    calls = body if isinstance(body, list) else [body]
    found = [
        {"jsonrpc": "2.0", "id": call["id"], "note": "🦄", "result": BALANCES[int(call["params"][0][-1], 16)]}
        for call in calls
    ]
    return found if isinstance(body, list) else found[0]


def _in_pieces(value: Any, count: int = 4) -> Good:
    raw = json.dumps(value, ensure_ascii=False).encode()
    size = len(raw) // count + 1
    return Good("application/json", tuple(raw[start : start + size] for start in range(0, len(raw), size)))


async def play(fault: str, good: Good, writer: asyncio.StreamWriter) -> None:
    """Answer with a fault."""
    if fault in _STATUSES:
        status, kind, header = _STATUSES[fault]
        body = json.dumps({"error": {"message": f"the script says {fault}", "type": kind, "code": kind}}).encode()
        await _send_whole(writer, status, "application/json", body, header)
    elif fault == "hang":
        await asyncio.sleep(LATE_S)
    elif fault == "slow-headers":
        for byte in b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-padding: " + b"x" * 10_000:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(DRIP_S)
    elif fault == "wrong-type":
        await _send_whole(writer, 200, "text/html", _PAGE)
    elif fault == "empty":
        await _send_whole(writer, 200, good.content_type, b"")
    else:
        await _play_body(fault, good, writer)


async def _play_body(fault: str, good: Good, writer: asyncio.StreamWriter) -> None:
    """Begin well, and go wrong in the body."""
    pieces = list(good.pieces)
    half = 1 + SHOWN if good.is_stream else len(pieces) // 2
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n" % good.content_type.encode())
    writer.write(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
    if fault in ("stall", "cut", "ended-early"):
        pieces = pieces[:half]
    elif fault == "cut-in-character":
        raw = b"".join(pieces)
        where = raw.index("🦄".encode()) + 2 if "🦄".encode() in raw else len(raw) // 2
        pieces = [raw[:where]] if not good.is_stream else _split_before(pieces, where)
    elif fault == "malformed":
        pieces[half] = b'data: {"choices": [{"delta": {"conte\n\n' if good.is_stream else b'"]}{{,'
    elif fault == "error-in-200":
        error = {"error": {"message": "CUDA out of memory", "type": "server_error", "code": None}}
        pieces = [*pieces[:half], _frame(error), pieces[-1]] if good.is_stream else [_error_body(good)]
    elif fault == "duplicate":
        pieces = _duplicated(pieces, half) if good.is_stream else [_changed(good, lambda items: [*items, items[-1]])]
    elif fault == "reordered":
        pieces = _finish_first(pieces) if good.is_stream else [_changed(good, lambda items: items[::-1])]
    elif fault == "oversized":
        pieces = pieces[:half]
    elif fault != HEALTHY:
        raise ValueError(f"no such fault: {fault}")
    for piece in pieces:
        await _send_chunk(writer, piece)
        await asyncio.sleep(0.003)
    if fault == "stall":
        await asyncio.sleep(LATE_S)
    elif fault == "cut":
        writer.transport.abort()
    else:
        if fault == "oversized":
            await _flood(writer, b"data: " if good.is_stream else b" ")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _split_before(pieces: list[bytes], where: int) -> list[bytes]:
    """The pieces up to one byte of all, the last of them cut there."""
    kept, size = [], 0
    for piece in pieces:
        kept.append(piece[: max(0, where - size)])
        size += len(piece)
        if size >= where:
            break
    return kept


def _duplicated(pieces: list[bytes], index: int) -> list[bytes]:
    return [*pieces[: index + 1], pieces[index], *pieces[index + 1 :]]


def _finish_first(pieces: list[bytes]) -> list[bytes]:
    """The event that ends the answer comes before the last of its text."""
    *text, finish, usage, done = pieces
    return [*text[:-1], finish, text[-1], usage, done]


def _changed(good: Good, change: Any) -> bytes:
    """A whole answer with its items (vectors, answers of a batch, choices) twice, or in another order."""
    value = json.loads(b"".join(good.pieces))
    if isinstance(value, list):
        return json.dumps(change(value)).encode()
    for name in ("data", "choices"):
        if name in value:
            value[name] = change(value[name])
    return json.dumps(value).encode()


def _error_body(good: Good) -> bytes:
    """An error where an answer should be; in JSON-RPC a proxy's own, put around its page, for each request."""
    value = json.loads(b"".join(good.pieces))
    if isinstance(value, list) or "jsonrpc" in value:
        error = {"code": -32603, "message": _PAGE.decode()}
        items = value if isinstance(value, list) else [value]
        found = [{"jsonrpc": "2.0", "id": item["id"], "error": error} for item in items]
        return json.dumps(found if isinstance(value, list) else found[0]).encode()
    return json.dumps({"error": {"message": "CUDA out of memory", "type": "server_error", "code": None}}).encode()


async def _send_whole(
    writer: asyncio.StreamWriter, status: int, content_type: str, body: bytes, header: str = ""
) -> None:
    head = f"HTTP/1.1 {status} So\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{header}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def _send_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()


async def _flood(writer: asyncio.StreamWriter, begin: bytes) -> None:
    """One line that doesn't end."""
    await _send_chunk(writer, begin)
    block = b" " * (1 << 20)
    for _ in range(FLOOD_BYTES // len(block)):
        await _send_chunk(writer, block)


@asynccontextmanager
async def open_provider() -> AsyncIterator[Provider]:
    """Serve on a free port of this machine."""
    provider = Provider(0)
    open_tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_tasks.add(task)
        try:
            await provider.handle(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            open_tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
        for task in list(open_tasks):
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)
        await server.wait_closed()
