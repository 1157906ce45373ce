"""Which requests have one answer for ever: pinned to a block, found by a hash, or constant.

1. A method's rule stands in the catalogue: ``always``, ``block:WHERE``, ``hash:WHERE``, ``mined:WHERE`` or
   ``range:WHERE``. WHERE is the parameter's place in a list, its name in an object, or both: ``0|height``.
2. ``latest``, ``pending``, ``finalized`` and whatever else moves with the chain pin nothing, nor does a block left out.
3. ``mined``: the answer stays once there is one (a transaction by its hash), and is null before that.

Pure. Law: docs/spec/kinds/rpc.md, section 4.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

MAX_PARAMS_BYTES = 16 * 1024
"""Longer parameters are not looked into: they pin nothing."""

_HEX = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_HEX_HASH = re.compile(r"(0[xX])?[0-9a-fA-F]{64}")
_DECIMAL = re.compile(r"[0-9]{1,18}")
_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,90}")
_HASH_KEYS = ("blockHash", "block_hash", "hash")
_NUMBER_KEYS = ("blockNumber", "block_number", "block_id", "height", "number")


class Pin(msgspec.Struct, frozen=True, gc=False):
    """How a request is pinned: `number` is the newest block that it reads, None unless it names blocks by number."""

    kind: Literal["always", "block", "hash", "mined"]
    number: int | None = None


ALWAYS = Pin("always")


def find_pin(rule: str, when: tuple[int, Any] | None, params_raw: bytes, *, is_zero_newest: bool = False) -> Pin | None:
    """Return how parameters pin a request, or None.

    Args:
        rule: of the method, from the catalogue; "" for none. when: the place of a further parameter and the value that
            it must have. params_raw: JSON, untrusted; b"" if left out. is_zero_newest: block 0 means the newest.
    """
    if not rule:
        return None
    if rule == "always":
        return ALWAYS
    if len(params_raw) > MAX_PARAMS_BYTES:
        return None
    try:
        params = msgspec.json.decode(params_raw) if params_raw else []
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    kind, _, where = rule.partition(":")
    if when is not None and _pick(params, str(when[0])) not in _alike(when[1]):
        return None
    value = _pick(params, where)
    if kind in ("hash", "mined"):
        return Pin("hash" if kind == "hash" else "mined") if _is_hash(value) else None
    pin = _range(value) if kind == "range" else _block(value)
    if pin is not None and is_zero_newest and pin.number == 0:
        return None
    return pin


def _alike(value: Any) -> tuple[Any, ...]:
    return (0, False) if value in (0, False) else (value,)


def _pick(params: Any, where: str) -> Any:
    place, _, name = where.partition("|")
    if isinstance(params, list):
        return params[int(place)] if place and int(place) < len(params) else None
    return params.get(name) if isinstance(params, dict) and name else None


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and bool(_HEX_HASH.fullmatch(value) or _BASE58.fullmatch(value) or _is_base64(value))


def _is_base64(value: str) -> bool:
    return len(value) == 44 and value.endswith("=")


def _block(value: Any) -> Pin | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return Pin("block", value) if 0 <= value < 2**63 else None
    if isinstance(value, dict):
        for key in _HASH_KEYS:
            if key in value:
                return Pin("hash") if _is_hash(value[key]) else None
        for key in _NUMBER_KEYS:
            if key in value:
                return _block(value[key]) if not isinstance(value[key], dict) else None
        return None
    if not isinstance(value, str):
        return None
    if _HEX.fullmatch(value):
        return Pin("block", int(value, 16))
    if _DECIMAL.fullmatch(value):
        return Pin("block", int(value))
    if value == "earliest":
        return Pin("block", 0)
    return Pin("hash") if _is_hash(value) else None


def _range(value: Any) -> Pin | None:
    """A filter of logs: one block by its hash, or the last block of a range whose ends are both numbers."""
    if not isinstance(value, dict):
        return None
    if "blockHash" in value:
        return Pin("hash") if _is_hash(value["blockHash"]) else None
    ends = [_block(value.get(key)) for key in ("fromBlock", "toBlock")]
    numbers = [end.number for end in ends if end is not None and end.number is not None]
    return Pin("block", max(numbers)) if len(numbers) == 2 else None
