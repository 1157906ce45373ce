"""What a client sees of one call: an answer that is whole and right, a clear error, or something worse.

view    what came
------  --------------------------------------------------------------------------------------------------
whole   status 200, every byte of the right answer, a finish reason, and of a stream one `[DONE]` at its end
error   a status of 400 or more, with a message and a code
cut     status 200, and then an error in the stream itself or a broken connection: a stock client raises
wrong   anything that a stock client takes for an answer and that isn't the right one
hang    nothing more for too long
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from provider import BALANCES, INPUTS, TEXT, VECTORS

CHAT_STREAM, CHAT_WHOLE, EMBEDDINGS, RPC = "chat streamed", "chat whole", "embeddings", "rpc"
KINDS = (CHAT_STREAM, CHAT_WHOLE, EMBEDDINGS, RPC)
PATHS = {CHAT_STREAM: "/v1/chat/completions", CHAT_WHOLE: "/v1/chat/completions", EMBEDDINGS: "/v1/embeddings"}


@dataclass
class View:
    """What was seen, the code of an error, how many characters of a stream came, and how long it took."""

    name: str
    code: str = ""
    note: str = ""
    shown: str = ""
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


def build_body(kind: str, model: str) -> Any:
    """Return the request of one kind."""
    if kind in (CHAT_STREAM, CHAT_WHOLE):
        messages = [{"role": "user", "content": "What does a steelyard weigh?"}]
        body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 40, "seed": 7}
        return {**body, "stream": True} if kind == CHAT_STREAM else body
    if kind == EMBEDDINGS:
        return {"model": model, "input": list(INPUTS)}
    return [
        {"jsonrpc": "2.0", "id": "same", "method": "eth_getBalance", "params": ["0x" + f"{index:040x}", "latest"]}
        for index in range(len(BALANCES))
    ]


async def ask(url: str, kind: str, model: str, key: str, *, headers: dict[str, str], timeout_s: float) -> View:
    """Send one request as its kind's stock client would, and say what came."""
    started_s = time.monotonic()
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    path = PATHS.get(kind) or f"/rpc/{model}"
    body = json.dumps(build_body(kind, model)).encode()
    status, data, broken, found = 0, bytearray(), "", {}
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession() as session,
            session.post(url + path, data=body, headers=sent) as reply,
        ):
            status, found = reply.status, {name.lower(): value for name, value in reply.headers.items()}
            async for piece in reply.content.iter_any():
                data += piece
    except TimeoutError:
        view = View("hang", note=f"nothing after {timeout_s:.0f} s and {len(data)} bytes")
        view.seconds = time.monotonic() - started_s
        return view
    except (aiohttp.ClientError, ConnectionError) as error:
        broken = type(error).__name__
    view = _judge(kind, status, bytes(data), broken)
    view.seconds, view.headers = time.monotonic() - started_s, found
    return view


def _judge(kind: str, status: int, data: bytes, broken: str) -> View:
    if kind == CHAT_STREAM and status == 200:
        return _judge_stream(data, broken)
    if broken:
        return View("cut", code=broken)
    try:
        value = json.loads(data)
    except ValueError:
        return View("wrong" if status == 200 else "error", code=str(status), note=f"no JSON: {data[:60]!r}")
    if status >= 400:
        return _read_error(value, status)
    if kind == RPC:
        return _judge_rpc(value)
    try:
        is_right = _read_vectors(value) if kind == EMBEDDINGS else _is_chat(value)
    except (KeyError, TypeError, ValueError, IndexError, struct.error) as error:
        return View("wrong", note=f"{type(error).__name__} in {str(value)[:80]}")
    return View("whole") if is_right else View("wrong", note=str(value)[:120])


def _read_error(value: Any, status: int) -> View:
    first = value[0] if isinstance(value, list) and value else value
    error = first.get("error", {}) if isinstance(first, dict) else {}
    if not isinstance(error, dict) or not error.get("message"):
        return View("error", code=str(status), note=f"without a message: {str(value)[:80]}")
    data = error.get("data")
    code = data.get("code") if isinstance(data, dict) else error.get("code")
    return View("error", code=str(code), note=str(error["message"])[:200])


def _judge_stream(data: bytes, broken: str) -> View:
    shown, finish, done, error = "", "", 0, ""
    for event in data.decode("utf-8", "replace").split("\n\n"):
        if not event.startswith("data:"):
            continue
        text = event[5:].strip()
        if text == "[DONE]":
            done += 1
            continue
        try:
            chunk = json.loads(text)
        except ValueError:
            return View("cut", code="no JSON", note=text[:60], shown=shown)
        if chunk.get("error"):
            error = error or str(chunk["error"].get("code") or chunk["error"].get("type"))
        for choice in chunk.get("choices") or ():
            piece = (choice.get("delta") or {}).get("content") or ""
            shown += piece
            finish = choice.get("finish_reason") or finish
    if error:
        note = "and then [DONE]" if done else ""
        return View("cut", code=error, shown=shown, note=note)
    if broken:
        return View("cut", code=broken, shown=shown)
    if shown == TEXT and finish == "stop" and done == 1:
        return View("whole", shown=shown)
    told = f"{len(shown)} of {len(TEXT)} characters, finish_reason {finish or 'none'}, {done} [DONE]"
    return View("wrong", note=told, shown=shown)


def _is_chat(value: Any) -> bool:
    choice = value["choices"][0]
    return bool(choice["message"]["content"] == TEXT and choice["finish_reason"] == "stop")


def _read_vectors(value: Any) -> bool:
    """Whether there is the right vector for each text by its index, whatever its length and encoding."""
    items = sorted(value["data"], key=lambda item: item["index"])
    if [item["index"] for item in items] != list(range(len(VECTORS))):
        return False
    for item, wanted in zip(items, VECTORS, strict=True):
        vector = item["embedding"]
        if isinstance(vector, str):
            raw = base64.b64decode(vector)
            vector = struct.unpack(f"<{len(raw) // 4}f", raw)
        length, wanted_length = math.hypot(*vector), math.hypot(*wanted)
        for number, want in zip(vector, wanted, strict=True):
            if abs(number / length - want / wanted_length) > 1e-6:
                return False
    return True


def _judge_rpc(value: Any) -> View:
    right = [{"jsonrpc": "2.0", "id": "same", "result": balance} for balance in BALANCES]
    if value == right:
        return View("whole")
    if isinstance(value, list) and value and all("error" in item for item in value):
        return View("error", code=str(value[0]["error"].get("code")), note=str(value[0]["error"].get("message")))
    return View("wrong", note=str(value)[:160])
