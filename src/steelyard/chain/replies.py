"""JSON-RPC answers: their envelope, and their errors as our own.

1. A reply that isn't JSON-RPC, or that asks us to slow down, is the endpoint's failure: another endpoint is asked.
2. An error is told apart by its words, since nodes agree on no numbers; the table below is the one place for that.
3. Revert data is found wherever a node hides it.

Law: JSON-RPC 2.0; geth's core/txpool/errors.go and anvil's for the words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from steelyard.chain.reverts import build_reverted
from steelyard.chain.transport import EndpointFailed
from steelyard.errors import ChainError

_RATE_LIMITED = -32005
_METHOD_UNKNOWN = -32601
_EXECUTION_REVERTED = 3

_WORDS: tuple[tuple[str, str, str], ...] = (
    (r"already ?known|known transaction|already imported|already exists", "already_known", ""),
    (r"nonce (is )?too low|oldnonce|nonce has already been used", "nonce_too_low", ""),
    (r"replacement.*(underpriced|not ?allowed)", "replacement_underpriced", ""),
    (
        r"insufficient (funds|balance)|doesn't have enough funds|not enough funds",
        "insufficient_gas_funds",
        "send some of the chain's gas coin",
    ),
    (
        r"underpriced|fee cap less than|max ?fee ?per ?gas.*less than|less than (the )?block base fee|fee ?too ?low",
        "fee_too_low",
        "",
    ),
    (
        r"(response|result|logs?|query).*(too (large|many)|exceed|limit)"
        r"|block range|range (is )?too|more than \d+ (results|logs)",
        "rpc_range_too_large",
        "ask for fewer blocks at once",
    ),
    (
        r"unknown block|(block|header)( is)? not found|blocks.*(not|cannot be) found|BlockOutOfRange",
        "block_unknown",
        "",
    ),
    (
        r"gas limit.*(cap|too high|exceed)|exceeds (the )?(block|tx|transaction) gas",
        "gas_limit_too_high",
        "split the work",
    ),
)
_PATTERNS = [(re.compile(words, re.IGNORECASE), code, advice) for words, code, advice in _WORDS]


class RpcError(msgspec.Struct, frozen=True):
    """A JSON-RPC error object."""

    code: int = 0
    message: str = ""
    data: Any = None


class RpcReply(msgspec.Struct, frozen=True):
    """A JSON-RPC response; `error` None means `result` counts, which may be None too."""

    id: int | str | None = None
    result: Any = None
    error: RpcError | None = None


_SINGLE = msgspec.json.Decoder(RpcReply)
_MANY = msgspec.json.Decoder(list[RpcReply])


def parse_reply(raw: bytes) -> RpcReply:
    """Return one response; raises EndpointFailed if it isn't one or says to slow down."""
    try:
        reply = _SINGLE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EndpointFailed(f"its answer isn't JSON-RPC: {raw[:60]!r}", was_sent=True) from error
    if reply.error is not None and reply.error.code == _RATE_LIMITED:
        raise EndpointFailed(f"it asks to slow down: {reply.error.message[:120]}", was_sent=False)
    return reply


def parse_replies(raw: bytes, count: int) -> list[RpcReply]:
    """Return a batch's responses in the order of the calls, ids 0 to count-1; raises EndpointFailed if one lacks."""
    if raw.lstrip()[:1] == b"{":
        single = parse_reply(raw)
        words = single.error.message[:120] if single.error else "one answer for a batch"
        raise EndpointFailed(f"it refuses batches: {words}", was_sent=False)
    try:
        replies = _MANY.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EndpointFailed(f"its answer isn't JSON-RPC: {raw[:60]!r}", was_sent=True) from error
    by_id = {reply.id: reply for reply in replies}
    try:
        ordered = [by_id[i] for i in range(count)]
    except KeyError:
        raise EndpointFailed(f"it answered {len(by_id)} of a batch of {count}", was_sent=True) from None
    if any(reply.error is not None and reply.error.code == _RATE_LIMITED for reply in ordered):
        raise EndpointFailed("it asks to slow down", was_sent=True)
    return ordered


def build_error(error: RpcError, method: str, params: Sequence[Any]) -> ChainError:
    """Return what an error object means: Reverted with its reason, or a ChainError with a stable code."""
    what = _describe(method, params)
    data = _revert_data(error.data)
    if error.code == _EXECUTION_REVERTED or data or "revert" in error.message.lower():
        reverted = build_reverted(data, what)
        if not data and ":" in error.message:  # some nodes send the words alone
            reverted.reason = error.message.split(":", 1)[1].strip()
        return reverted
    if error.code == _METHOD_UNKNOWN:
        return ChainError(f"the chain's endpoint has no {method}: {error.message[:200]}", code="rpc_method_unknown")
    for pattern, code, advice in _PATTERNS:
        if pattern.search(error.message):
            words = f"the chain refused {what}: {error.message[:200]}"
            return ChainError(f"{words}; {advice}" if advice else words, code=code)
    return ChainError(f"the chain refused {what}: {error.message[:200]} ({error.code})", code="rpc_error")


def _revert_data(data: Any) -> bytes:
    if isinstance(data, Mapping):
        data = next((data[key] for key in ("data", "result", "output") if data.get(key)), None)
        return _revert_data(data)
    if isinstance(data, str):
        start = data.find("0x")
        if start >= 0:
            try:
                return bytes.fromhex(data[start + 2 :].split()[0] if data[start + 2 :] else "")
            except ValueError:
                return b""
    return b""


def _describe(method: str, params: Sequence[Any]) -> str:
    if params and isinstance(params[0], Mapping) and "to" in params[0]:
        return f"{method} to {params[0]['to']}"
    return method
