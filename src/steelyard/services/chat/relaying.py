"""Relaying an answer from an engine that samples by itself.

1. Usage is the upstream's, never above the quote. Until it comes at the end, a piece of text counts one unit.
2. Tool calls are content: ``\\x1e id \\x1f name \\x1f arguments`` per call in order, so that the response hash covers
   them; the same chunks carry OpenAI's deltas in `detail`.
3. A stream without its end is an error, never an answer; so is one with log-probabilities of more tokens than its
   usage has: something of it came twice.

Law: docs/spec/kinds/chat.md, section 4.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from steelyard.engines.port import Delta, RelayEngine
from steelyard.errors import Unavailable
from steelyard.services.chat.evidence import RELAY_TAG
from steelyard.services.manifest import Manifest
from steelyard.services.port import Chunk, Comparison, Context, FinishReason, Quote, Request, Result
from steelyard.services.text_requests import TextPayload

CALL_MARK, PART_MARK = "\x1e", "\x1f"

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_OURS = frozenset({"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "seed", "extra"})
_PASSED_ALWAYS = frozenset({"messages", "prompt"})


class _Listed(msgspec.Struct):
    content: list[msgspec.Raw] | None = None
    tokens: list[msgspec.Raw] | None = None


_decode_listed = msgspec.json.Decoder(_Listed).decode


async def relay_answer(
    engine: RelayEngine, manifest: Manifest, request: Request, context: Context, quote: Quote
) -> AsyncGenerator[Chunk, None]:
    """Yield the upstream's answer as chunks.

    Raises:
        BadRequest: the upstream refused the request as wrong.
        Unavailable: it failed, sent no usage, or was cut.
    """
    payload: TextPayload = request.payload
    body = _upstream_body(manifest, payload, context, quote)
    wants_logprobs = payload.logprobs is not None
    calls = _ToolCalls()
    counted, listed, finish, usage = 0, 0, None, None
    async with aclosing(engine.relay(request.api, body)) as deltas:
        async for delta in deltas:
            finish = _FINISH.get(delta.finish_reason, FinishReason.STOP) if delta.finish_reason else finish
            if delta.tokens_in is not None and delta.tokens_out is not None:
                usage = (delta.tokens_in, delta.tokens_out)
            if delta.logprobs is not None:
                listed += _count_tokens(delta.logprobs)
                context.trace += len(delta.logprobs).to_bytes(4, "big") + bytes(delta.logprobs)
            content, detail = _shape(delta, calls, wants_logprobs)
            if content or detail:
                cost = 1 if content and counted < quote.max_units_out else 0
                counted += cost
                yield Chunk(content, 0, cost, detail)
    if finish is None or usage is None:
        what = "finish reason" if finish is None else "usage"
        raise Unavailable(f"the upstream's answer ended without a {what}", code="upstream_cut")
    if listed > usage[1]:
        raise Unavailable(
            f"the upstream gave log-probabilities of {listed} tokens, its usage has {usage[1]}", code="upstream_failed"
        )
    units_in, units_out = min(usage[0], quote.max_units_in), min(usage[1], quote.max_units_out)
    yield Chunk(b"", units_in, max(0, units_out - counted), b"", finish)


def _count_tokens(logprobs: msgspec.Raw) -> int:
    """Of how many tokens log-probabilities are, in either API's shape; 0 where nobody can tell."""
    try:
        found = _decode_listed(logprobs)
    except msgspec.MsgspecError:
        return 0
    return len(found.content or found.tokens or ())


def compare_relayed(result: Result, claimed: bytes) -> Comparison:
    """Say whether the evidence of a relayed answer can be read; there is no replay to compare it with."""
    rest = claimed[len(RELAY_TAG) :]
    is_wellformed = claimed.startswith(RELAY_TAG)
    while is_wellformed and rest:
        size = int.from_bytes(rest[:4], "big")
        is_wellformed = len(rest) >= 4 + size
        rest = rest[4 + size :]
    reason = "the engine's own sampler made this answer" if is_wellformed else "the evidence can't be read"
    return Comparison(is_wellformed=is_wellformed, distance=0.0, positions=0, reason=reason)


class _ToolCalls:
    """Turns the deltas of tool calls into content, in order."""

    def __init__(self) -> None:
        self._index = -1

    def content(self, deltas: list[dict[str, Any]]) -> bytes:
        text = []
        for delta in deltas:
            index, function = delta.get("index", 0), delta.get("function") or {}
            if index == self._index + 1:
                self._index = index
                text.append(f"{CALL_MARK}{delta.get('id', '')}{PART_MARK}{function.get('name', '')}{PART_MARK}")
            elif index != self._index:
                raise Unavailable("the upstream mixes the deltas of several tool calls", code="upstream_cut")
            text.append(function.get("arguments") or "")
        return "".join(text).encode()


def _shape(delta: Delta, calls: _ToolCalls, wants_logprobs: bool) -> tuple[bytes, bytes]:
    """A delta's content and detail."""
    detail: dict[str, Any] = {}
    if delta.logprobs is not None and wants_logprobs:
        detail["logprobs"] = delta.logprobs
    content = delta.text.encode()
    if delta.tool_calls:
        if content:
            raise Unavailable("the upstream mixes text and tool calls in one delta", code="upstream_cut")
        content = calls.content(delta.tool_calls)
        detail["tool_calls"] = delta.tool_calls
    return content, msgspec.json.encode(detail) if detail else b""


def _upstream_body(manifest: Manifest, payload: TextPayload, context: Context, quote: Quote) -> dict[str, Any]:
    honoured = set(manifest.parameters)
    fields: dict[str, Any] = msgspec.to_builtins(payload.body)
    body = {
        name: value
        for name, value in fields.items()
        if value is not None and name not in _OURS and (name in honoured or name in _PASSED_ALWAYS)
    }
    if "messages" in body:
        body["messages"] = [{k: v for k, v in message.items() if v is not None} for message in body["messages"]]
    body.update(payload.body.extra or {})
    is_new = "max_completion_tokens" in honoured and "max_tokens" not in honoured
    body["max_completion_tokens" if is_new else "max_tokens"] = quote.max_units_out
    if "seed" in honoured:
        body["seed"] = context.seed - 2**64 if context.seed >= 2**63 else context.seed
    if "logprobs" in honoured:
        body["logprobs"] = True if payload.messages is not None else (payload.logprobs or 0)
    return body
