"""A request's body: read within its bound, and looked at for whom it is meant.

Law: docs/spec/gateway.md, sections 2 and 3.
"""

from __future__ import annotations

import msgspec

from steelyard.errors import BadRequest, TooLarge
from steelyard.gateway.replies import Receive


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


class BodyHead(msgspec.Struct, gc=False):
    """All that has to be known of a body before its kind is: whom it is for, and what is asked of its provider.

    `provider` is the JSON as it came, empty if there is none; `choice.read_preferences` reads it.
    """

    model: str
    provider: msgspec.Raw = msgspec.Raw()


_decode_head = msgspec.json.Decoder(BodyHead).decode


def read_head(body: bytes) -> BodyHead:
    """Return a body's head; raises BadRequest for a body that isn't JSON or names no model."""
    try:
        return _decode_head(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _bad_body(body, error) from error


def is_private(headers: dict[bytes, bytes]) -> bool:
    """Say whether a request asks not to be shown to validators, nor kept."""
    return headers.get(b"x-steelyard-private", b"").lower() in (b"true", b"1")


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """Return a request's whole body.

    Raises:
        TooLarge: above the limit, by its Content-Length or by what came. ClientGone: it ended early.
    """
    declared = headers.get(b"content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > limit):
        raise _too_large(declared.decode("latin-1"), limit)
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise _too_large(str(len(body)), limit)
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        if size > limit:
            raise _too_large(f"over {size}", limit)
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise _too_large(str(size), limit)
    return b"".join(parts)


def _too_large(size: str, limit: int) -> TooLarge:
    return TooLarge(f"the body has {size[:20]} bytes, this gateway takes {limit}: send less at once")


def _bad_body(body: bytes, error: Exception) -> BadRequest:
    if not body:
        return BadRequest("the body is empty: send a JSON object with a `model`", code="invalid_json")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return BadRequest(f"the body is not JSON: {error}", code="invalid_json")
    if not isinstance(value, dict):
        return BadRequest(f"the body is a JSON {type(value).__name__}: send an object", code="invalid_json")
    if "model" not in value:
        return BadRequest("`model` is missing: name one of GET /v1/models", param="model")
    return BadRequest(f"`model` is {str(value['model'])[:80]!r}: it must be a string", param="model")
