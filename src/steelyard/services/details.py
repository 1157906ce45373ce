"""Joining the details of an answer's chunks into one object, for answers that don't stream.

1. Objects are joined key by key, lists are appended, any other value is the last one.
2. OpenAI's tool-call deltas are put together by their `index`, the pieces of their arguments in order.

Law: docs/spec/services.md, "Chunks".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from steelyard.errors import BadMessage


def join_details(details: Sequence[bytes]) -> bytes:
    """Return one JSON object for a whole answer; b"" for no details, a lone one as it is.

    Raises:
        BadMessage: a detail is no JSON object.
    """
    if len(details) < 2:
        return details[0] if details else b""
    joined: dict[str, Any] = {}
    for detail in details:
        try:
            joined = _join(joined, msgspec.json.decode(detail, type=dict[str, Any]))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadMessage(f"a chunk's detail is no JSON object: {error}") from error
    if isinstance(joined.get("tool_calls"), list):
        joined["tool_calls"] = _join_tool_calls(joined["tool_calls"])
    return msgspec.json.encode(joined)


def _join(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    for key, value in right.items():
        known = left.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            left[key] = _join(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            known.extend(value)
        else:
            left[key] = value
    return left


def _join_tool_calls(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for position, delta in enumerate(deltas):
        index = delta.get("index", position)
        call = calls.setdefault(index, {"function": {"arguments": ""}})
        function = delta.get("function") or {}
        call["function"]["arguments"] += function.get("arguments") or ""
        call["function"] |= {key: value for key, value in function.items() if key != "arguments" and value}
        call |= {key: value for key, value in delta.items() if key not in ("index", "function") and value}
    return [calls[index] for index in sorted(calls)]
