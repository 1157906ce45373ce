"""Why a provider was asked: how it was chosen, who was passed over and for what reason, in few bytes.

1. A call with one seller and no preferences costs a constant: `ONLY_SELLER`.
2. Nothing here decides: it writes down the reasons that a choice had, and reads them for who made the call.
3. At most `MAX_PASSED` are named, the others are counted.

Law: docs/spec/gateway.md, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from steelyard.link.port import Failure
from steelyard.protocol.ids import format_hex

MAX_PASSED = 32
MAX_REASON = 160

ONLY_SELLER = b""
"""What is kept for a call that nobody else sells."""


class _Kept(msgspec.Struct, array_like=True, gc=False):
    how: str
    passed: list[tuple[bytes, str]]
    more: int = 0
    outcome: str = ""
    number: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode


def build_why(how: str, passed: Sequence[tuple[bytes, str]], number: int = 0) -> bytes:
    """Return what is kept of a choice.

    Args:
        how: `only_one_left`, `trial`, `warm`, `share` or `own_question`. passed: providers and why each was not asked.
        number: how many were tried before; attempts of one millisecond are put in order by it.
    """
    named = [(provider, reason[:MAX_REASON]) for provider, reason in passed[:MAX_PASSED]]
    return _encode(_Kept(how, named, len(passed) - len(named), number=number))


def add_outcome(why: bytes | None, failure: Failure) -> bytes | None:
    """Return what is kept of a choice whose provider failed, with the failure."""
    if why is None:
        return None
    kept = _read(why)
    kept.outcome = f"{failure.code}: {failure.message}"[:MAX_REASON]
    return _encode(kept)


def show_why(attempts: Sequence[tuple[bytes, str, bytes | None]]) -> dict[str, Any]:
    """Return the `why` of a call for JSON.

    Args:
        attempts: provider, status and what was kept, of each order that was sent for the call.

    Returns:
        `asked`: each order's provider, how it was chosen (None: not kept), its status and what went wrong.
        `passed_over`: everyone else, with the last reason. `more`: how many more the last choice passed over.
    """
    asked: list[dict[str, Any]] = []
    passed: dict[bytes, str] = {}
    more = 0
    known = [(provider, status, None if why is None else _read(why)) for provider, status, why in attempts]
    for provider, status, kept in sorted(known, key=lambda one: one[2].number if one[2] else 0):
        asked.append(
            {
                "provider": format_hex(provider),
                "how": None if kept is None else kept.how,
                "status": status,
                "reason": None if kept is None else kept.outcome or None,
            }
        )
        if kept is not None:
            passed.update(kept.passed)
            more = kept.more
    served = {provider for provider, _, _ in attempts}
    over = [{"provider": format_hex(one), "reason": why} for one, why in passed.items() if one not in served]
    return {"asked": asked, "passed_over": over, "more": more}


def _read(why: bytes) -> _Kept:
    return _decode(why) if why else _Kept("only_seller", [])
