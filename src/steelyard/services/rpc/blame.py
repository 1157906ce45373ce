"""Whose fault a JSON-RPC error is: the request's, then it is the answer; or the node's, then another one is asked.

code                                   said of a valid request it tells
-------------------------------------  --------------------------------------------------------------
-32700, -32600                         that the node took it for no JSON, or no request
-32005, -32097 to -32099, 429          that the node is over its limits, or unwell
-32603 around a page or another error  that a proxy or a further node failed, and nobody looked at the request
no number                              that it is no JSON-RPC error

1. What a contract says of itself is never the node's fault: an error that tells of a revert, or holds data in
   hexadecimal, is the answer, whatever words are in it.

Pure. Law: docs/spec/kinds/rpc.md, section 5.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

NODE_CODES = frozenset({-32700, -32600, -32005, -32097, -32098, -32099, 429})
INTERNAL = -32603
MAX_SHOWN = 80

_PAGE = re.compile(r"<!doctype\b|<(html|head|title|body|center)[\s>]", re.IGNORECASE)
_OWN = re.compile(r"revert|execution|vm exception|out of gas|insufficient", re.IGNORECASE)
_HEX = re.compile(r"0[xX][0-9a-fA-F]*")
_INNER = frozenset({"error", "jsonrpc", "errors", "code", "statusCode", "message"})


class _Error(msgspec.Struct):
    code: int
    message: Any = ""
    data: Any = None


_decode = msgspec.json.Decoder(_Error).decode


def blame_node(error_raw: bytes) -> str:
    """Return why an error object (JSON, untrusted) is the node's own failure, or "" if it is the answer."""
    try:
        error = _decode(error_raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return f"an error that is none: {error_raw[:MAX_SHOWN].decode(errors='replace')}"
    if error.code in NODE_CODES:
        return f"code {error.code} to a valid request"
    if error.code != INTERNAL:
        return ""
    message = error.message if isinstance(error.message, str) else ""
    data = error.data if isinstance(error.data, str) else ""
    if _OWN.search(message) or (data and _HEX.fullmatch(data)):
        return ""
    if any(_PAGE.search(text) for text in (message, data)):
        return f"code {INTERNAL} around a page"
    if any(_has_error(text) for text in (message, data)) or _is_error(error.data):
        return f"code {INTERNAL} around another error"
    return ""


def _has_error(text: str) -> bool:
    begin, end = text.find("{"), text.rfind("}")
    if not 0 <= begin < end:
        return False
    try:
        return _is_error(msgspec.json.decode(text[begin : end + 1]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and ("error" in value or len(_INNER & value.keys()) >= 2)
