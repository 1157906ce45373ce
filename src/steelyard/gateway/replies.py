"""HTTP replies: prefabricated headers, and every error in the shape that OpenAI's clients expect.

1. An error is `{"error": {"message", "type", "param", "code"}}`; the status comes from the class (errors.py).
2. A refusal that a retry can help carries Retry-After, in whole seconds, rounded up.
3. A bug of ours is shown as an id; what happened stands in the log under that id.

Law: docs/spec/gateway.md, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from steelyard.errors import Fault, PaymentRequired, Refusal, SteelyardError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON_HEADER: Header = (b"content-type", b"application/json")
SSE_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
EXPOSED = (
    b"x-request-id, retry-after, payment-required, payment-response, "
    b"x-steelyard-provider, x-steelyard-model, x-steelyard-quantisation, "
    b"x-steelyard-grade, x-steelyard-call, x-steelyard-receipt, x-steelyard-cost-nano, x-steelyard-cache"
)
CORS_HEADERS: tuple[Header, ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", EXPOSED),
)

HOT_ROUTES = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/replays": "replays",
}
BEGUN = "steelyard.begun"
"""Where in a scope the attempt stands that a request was begun with, below ASGI."""

_ERROR_TYPES = {402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A whole reply, as it is sent and as it is kept for an Idempotency-Key."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (JSON_HEADER,)


def error_type(status: int) -> str:
    """Return OpenAI's `type` for a status."""
    return "server_error" if status >= 500 else _ERROR_TYPES.get(status, "invalid_request_error")


def error_object(error: SteelyardError, *, status: int | None = None) -> dict[str, Any]:
    """Return what stands under ``error`` for a refusal or failure."""
    return {
        "message": error.message,
        "type": error_type(status or error.status),
        "param": error.param,
        "code": error.code,
    }


def error_reply(error: SteelyardError, *, status: int | None = None, headers: tuple[Header, ...] = ()) -> Reply:
    """Return the reply for an error; `status` overrides the class's own (405 has no class)."""
    status = status or error.status
    out = [JSON_HEADER, *headers]
    if isinstance(error, Refusal) and error.retry_after_s is not None:
        out.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, PaymentRequired):
        out.append((b"x-should-retry", b"false"))
    return Reply(status, msgspec.json.encode({"error": error_object(error, status=status)}), tuple(out))


def shown_fault(fault_id: str) -> Fault:
    """Return what a client is told of a bug of ours."""
    return Fault(
        f"the gateway failed on this request; its log names the cause under {fault_id}. Try again, then report it"
    )


def fault_reply(fault_id: str) -> Reply:
    """Return the reply for a bug of ours."""
    return error_reply(shown_fault(fault_id))


def json_reply(value: object, status: int = 200) -> Reply:
    """Return a reply that carries a value as JSON."""
    return Reply(status, msgspec.json.encode(value))


async def send_reply(send: Send, reply: Reply, extra: tuple[Header, ...] = ()) -> None:
    """Send a whole reply with its length and any extra headers."""
    length = (b"content-length", b"%d" % len(reply.body))
    await send({"type": "http.response.start", "status": reply.status, "headers": [*reply.headers, *extra, length]})
    await send({"type": "http.response.body", "body": reply.body})


def head_block(headers: tuple[Header, ...]) -> bytes:
    """Return headers as they stand on the wire, each with its line end."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])
