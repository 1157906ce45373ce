"""JSON-RPC 2.0: envelopes, batches and errors; no sockets.

1. Every answer is an answer: malformed JSON, an unknown method or a bug of ours each get their code, never a closed
   connection.
2. In a batch, requests run in order, but transactions that stand in a row are taken in together and share a block.
3. A bug of ours is logged whole and shown as an id.
4. Nesting is bounded before anything is decoded: decoders recurse on the C stack, which the interpreter's recursion
   limit guards only as long as no library raises it (py-evm's do, to 100,000).

Law: https://www.jsonrpc.org/specification; codes of execution in docs/spec/embedded-chain.md, section 5.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog

from steelyard.errors import BadRequest, RateLimited, Reverted, SteelyardError, TooLarge

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
LIMIT_EXCEEDED = -32005  # EIP-1474
EXECUTION_REVERTED = 3  # geth's, with the revert data in `data`

MAX_BATCH = 1_000
MAX_DEPTH = 64

_TOKEN = re.compile(rb'[\[{]|[\]}]|"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

Method = Callable[[list[Any]], Awaitable[Any]]

log = structlog.get_logger(__name__)


async def answer(body: bytes | str, methods: Mapping[str, Method]) -> bytes | None:
    """Return the answer to one request or a batch, as JSON; None when nothing but notifications came.

    Args:
        body: what the client sent; untrusted.
        methods: by name; each takes the positional parameters.
    """
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if _is_too_deep(raw):
        return msgspec.json.encode(error_object(None, PARSE_ERROR, f"parse error: nested deeper than {MAX_DEPTH}"))
    try:
        request = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return msgspec.json.encode(error_object(None, PARSE_ERROR, f"parse error: {error}"))
    if not isinstance(request, list):
        single = await _answer_one(request, methods)
        return None if single is None else _encode(single)
    if not request:
        return msgspec.json.encode(error_object(None, INVALID_REQUEST, "empty batch"))
    if len(request) > MAX_BATCH:
        message = f"batch too large: {len(request)} requests, at most {MAX_BATCH}"
        return msgspec.json.encode(error_object(None, INVALID_REQUEST, message))
    answers = [one for one in await _answer_batch(request, methods) if one is not None]
    return b"[" + b",".join(_encode(one) for one in answers) + b"]" if answers else None


def error_object(request_id: Any, code: int, message: str, data: str | None = None) -> dict[str, Any]:
    """Return an error answer."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request_id, "error": error}


def _is_too_deep(body: bytes) -> bool:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif first in b"]}":
            depth -= 1
    return False


async def _answer_batch(requests: list[Any], methods: Mapping[str, Method]) -> list[dict[str, Any] | None]:
    answers: list[dict[str, Any] | None] = []
    start = 0
    while start < len(requests):
        end = start + 1
        while end < len(requests) and _is_transaction(requests[start]) and _is_transaction(requests[end]):
            end += 1
        answers += await asyncio.gather(*(_answer_one(request, methods) for request in requests[start:end]))
        start = end
    return answers


def _is_transaction(request: Any) -> bool:
    return isinstance(request, dict) and request.get("method") == "eth_sendRawTransaction"


async def _answer_one(request: Any, methods: Mapping[str, Method]) -> dict[str, Any] | None:
    if not isinstance(request, dict):
        return error_object(None, INVALID_REQUEST, "a request is an object")
    request_id = request.get("id")
    name = request.get("method")
    if isinstance(request_id, (dict, list, bool)):
        return error_object(None, INVALID_REQUEST, "an id is a string or a number")
    if request.get("jsonrpc") != "2.0" or not isinstance(name, str):
        return error_object(request_id, INVALID_REQUEST, 'a request has "jsonrpc": "2.0" and a method')
    outcome = await _call(request_id, name, request.get("params"), methods)
    return outcome if "id" in request else None


async def _call(request_id: Any, name: str, params: Any, methods: Mapping[str, Method]) -> dict[str, Any]:
    method = methods.get(name)
    if method is None:
        message = f"the method {name} does not exist/is not available"
        return error_object(request_id, METHOD_NOT_FOUND, message)
    if params is None:
        params = []
    if not isinstance(params, list):
        return error_object(request_id, INVALID_PARAMS, "non-array args: parameters are a list")
    try:
        return {"jsonrpc": "2.0", "id": request_id, "result": await method(params)}
    except Reverted as error:
        return error_object(request_id, EXECUTION_REVERTED, error.message, "0x" + error.data.hex())
    except SteelyardError as error:
        return error_object(request_id, _code(error), error.message)
    except Exception:  # a supervisor: one request that we fail at must not take the others down
        fault = secrets.token_hex(4)
        log.exception("request_faulted", fault=fault, method=name)
        return error_object(request_id, INTERNAL_ERROR, f"internal error (fault {fault}, see the chain's log)")


def _code(error: SteelyardError) -> int:
    if isinstance(error, BadRequest):
        return INVALID_PARAMS
    if isinstance(error, (TooLarge, RateLimited)):
        return LIMIT_EXCEEDED
    return SERVER_ERROR


def _encode(response: dict[str, Any]) -> bytes:
    return msgspec.json.encode(response)
