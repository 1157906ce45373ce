"""A call of a REST service: what a caller may say, and what is made of it at the operator's upstream.

1. A caller names a method, a path below the service, a query and a body; never a scheme, a host, a port or a header
   other than the body's content type.
2. A path that could leave its prefix (`..`, `//`, a backslash, control characters, any of them percent-encoded) is
   refused, not repaired.
3. The answer's content is its status and content type in one line, then its bytes as they are.

Pure. Law: docs/spec/kinds/rest.md.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

import msgspec

from steelyard.errors import BadRequest

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAX_PATH_CHARS = 2_048
MAX_QUERY_CHARS = 8_192
MAX_BODY_BYTES = 1_048_576

_PATH = re.compile(r"/?[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]|-]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TYPE = re.compile(r"[A-Za-z0-9.+*-]+/[A-Za-z0-9.+*-]+(;[ A-Za-z0-9.+=\"_-]+)*")
_FORBIDDEN = re.compile(rb"[\x00-\x1f\x7f\\]|//")


class RestCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an order of this kind; `query` without its question mark, `body_b64` in standard base64."""

    method: str = "GET"
    path: str
    query: str = ""
    content_type: str = ""
    body_b64: str = ""


class RestPayload(msgspec.Struct, frozen=True, gc=False):
    """A call that may be made: `path` has no slash before it."""

    method: str
    path: str
    query: str
    content_type: str
    body: bytes


_decode = msgspec.json.Decoder(RestCall).decode


def encode_call(method: str, path: str, query: str = "", content_type: str = "", body: bytes = b"") -> bytes:
    """Return the body of an order for a call, as gateways make it."""
    body_b64 = base64.b64encode(body).decode()
    return msgspec.json.encode(
        RestCall(method=method, path=path, query=query, content_type=content_type, body_b64=body_b64)
    )


def read_call(data: bytes) -> RestPayload:
    """Return the call in an order's body, which is untrusted.

    Raises:
        BadRequest: malformed, too long, or a path that could lead elsewhere; `param` names the field.
    """
    try:
        call = _decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the call can't be read: {error}", code="invalid_json") from error
    method = call.method.upper()
    if method not in METHODS:
        raise BadRequest(f"`method` is {call.method[:20]!r}: it is one of {', '.join(METHODS)}", param="method")
    _check_text(call.path, "path", _PATH, MAX_PATH_CHARS)
    _check_path(call.path)
    _check_text(call.query, "query", _QUERY, MAX_QUERY_CHARS)
    if call.content_type and (len(call.content_type) > 128 or not _TYPE.fullmatch(call.content_type)):
        raise BadRequest(f"`content_type` is {call.content_type[:60]!r}: write one like application/json")
    if len(call.body_b64) > 4 * (MAX_BODY_BYTES // 3 + 1):
        raise BadRequest(f"the body is over {MAX_BODY_BYTES} bytes: send less", code="request_too_large", param="body")
    try:
        body = base64.b64decode(call.body_b64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"`body_b64` is no base64: {error}", param="body_b64") from error
    if len(body) > MAX_BODY_BYTES:
        raise BadRequest(f"the body is over {MAX_BODY_BYTES} bytes: send less", code="request_too_large", param="body")
    if body and method in ("GET", "HEAD"):
        raise BadRequest(f"a {method} has no body: leave it out, or POST it", param="body")
    return RestPayload(method, call.path.removeprefix("/"), call.query, call.content_type, body)


def pack_answer(status: int, content_type: str, body: bytes) -> bytes:
    """Return an answer's content."""
    return b"%d %s\n" % (status, content_type.encode("ascii", "replace")) + body


def read_answer(content: bytes) -> tuple[int, str, bytes]:
    """Return status, content type and body of an answer's content, which is untrusted; raises ValueError."""
    head, newline, body = content.partition(b"\n")
    status, space, content_type = head.partition(b" ")
    if not newline or not space or len(status) != 3 or not status.isdigit() or not 200 <= int(status) <= 599:
        raise ValueError("the answer does not begin with its status and content type")
    text = content_type.decode("ascii", "strict") if content_type.isascii() else ""
    if text and not _TYPE.fullmatch(text):
        raise ValueError("the answer's content type is none")
    return int(status), text, body


def _check_text(text: str, name: str, pattern: re.Pattern[str], most: int) -> None:
    if len(text) > most:
        raise BadRequest(f"`{name}` has {len(text)} characters, the most are {most}", param=name)
    if not pattern.fullmatch(text) or _BROKEN_ESCAPE.search(text):
        raise BadRequest(f"`{name}` has a character that must be percent-encoded: {text[:80]!r}", param=name)


def _check_path(path: str) -> None:
    """Refuse what could leave the prefix, decoded once or twice as careless servers do."""
    decoded = path.encode()
    for _ in range(3):
        segments = re.split(rb"[/\\]", decoded)
        if _FORBIDDEN.search(decoded) or b".." in segments or b"." in segments:
            raise BadRequest(f"`path` is {path[:80]!r}: it must stay below the service, without . or ..", param="path")
        if any(segment.partition(b";")[0] == b".." for segment in segments):
            raise BadRequest(f"`path` is {path[:80]!r}: it must stay below the service", param="path")
        decoded = unquote_to_bytes(decoded)
