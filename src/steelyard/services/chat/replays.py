"""The API `replays`: a replay as work that anyone may buy, for a checker that doesn't have the model.

1. The body carries all that a replay needs: the original request, its seed, the answer with its bill, and the evidence.
   The answer's content is the replay's blob, or the name of the breach that was found.
2. It costs the original's prompt tokens in, and one token out for each claimed one; a breach that is found before the
   engine works costs nothing.
3. A bought replay is an answer like any other: it has no evidence beside its content, and is checked by another replay.

Law: docs/spec/kinds/chat.md, section 6.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import msgspec

from steelyard.errors import BadMessage, BadRequest, Fault
from steelyard.services.body_reader import BodyReader
from steelyard.services.chat.evidence import (
    BREACH_TAG,
    BREACHES,
    MALFORMED,
    REPLAY_TAG,
    Claim,
    breach,
    count_rows,
    decode_claim,
    encode_breach,
    logprob_gap,
)
from steelyard.services.chat.seam import TOKEN_BYTES
from steelyard.services.manifest import Manifest
from steelyard.services.port import Chunk, Comparison, Context, FinishReason, Quote, Request, Result, Score
from steelyard.services.text_requests import TextRequests

REPLAYS = "replays"
SECOND_TAG = b"SYQ1"
"""Begins the replay of a replay: a second one, whole."""

_Units = Annotated[int, msgspec.Meta(ge=0, le=2**32)]
_FINISH = {reason.name.lower(): reason for reason in FinishReason}


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/replays`; bytes are base64, `seed` is the order's in decimal digits, `prefix` what it went on from."""

    model: str
    request: dict[str, Any]
    api: Literal["chat.completions", "completions"]
    seed: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,20}$")]
    evidence: bytes
    content: bytes
    units_in: _Units
    units_out: _Units
    finish: Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error"]
    prefix: bytes = b""
    user: Any = None
    extra: Any = None


class ReplayPayload(msgspec.Struct, frozen=True, gc=False):
    """What is to be replayed."""

    request: Request
    seed: int
    result: Result
    evidence: bytes
    prefix: bytes


class ReplayRequests:
    """Parses the bodies of one manifest."""

    __slots__ = ("_name", "_reader", "_requests")

    def __init__(self, manifest: Manifest, requests: TextRequests) -> None:
        fields = tuple(sorted(set(ReplayBody.__struct_fields__) - {"model", "user", "extra"}))
        self._name = manifest.name
        self._reader = BodyReader(ReplayBody, msgspec.structs.replace(manifest, parameters=fields))
        self._requests = requests

    def parse(self, data: bytes) -> Request:
        """Return the validated request; raises BadRequest naming the field, of the inner request as ``request.…``."""
        body: ReplayBody = self._reader.read(data)
        seed = int(body.seed)
        if seed >= 2**64:
            raise BadRequest(f"`seed` is {seed}: a seed is below 2^64", param="seed", code="invalid_value")
        try:
            inner = self._requests.parse(body.api, msgspec.json.encode(body.request))
        except BadRequest as error:
            where = "request" if error.param is None else f"request.{error.param}"
            raise BadRequest(f"in `request`: {error.message}", code=error.code, param=where) from error
        if inner.model != body.model:
            raise BadRequest(
                f"`request.model` is {inner.model[:80]!r}: a replay is of the model {body.model[:80]!r} itself",
                param="request.model",
                code="invalid_value",
            )
        result = Result(
            content=body.content, units_in=body.units_in, units_out=body.units_out, finish=_FINISH[body.finish]
        )
        payload = ReplayPayload(inner, seed, result, body.evidence, body.prefix)
        return Request(
            api=REPLAYS, model=body.model, input_bytes=inner.input_bytes, prefix=inner.prefix, payload=payload
        )


def quote_replay(payload: ReplayPayload, inner: Quote, context_tokens: int) -> Quote:
    """Return the most that a replay costs: the original's input with what it went on from, and the claimed tokens."""
    units_in = min(inner.max_units_in + len(payload.prefix) // TOKEN_BYTES, context_tokens)
    return Quote(units_in, min(count_rows(payload.evidence), inner.max_units_out))


async def sell_replay(
    payload: ReplayPayload, replay: Callable[[Request, Result, bytes, Context], Awaitable[bytes]]
) -> Chunk:
    """Return the whole answer: the replay, or the breach that was found.

    Args:
        replay: `ChatService.replay` for the original request.

    Raises:
        Unavailable, BadRequest: this engine can't; nothing is billed.
    """
    try:
        context = Context(seed=payload.seed, prefix=payload.prefix)
        blob = await replay(payload.request, payload.result, payload.evidence, context)
    except BadMessage as error:
        if error.code not in BREACHES:
            raise Fault(f"a replay ended with {error.code}") from error
        return Chunk(encode_breach(error.code), finish=FinishReason.STOP)
    claim = decode_claim(blob, REPLAY_TAG)
    return Chunk(blob, claim.prompt_tokens, len(claim.rows), b"", FinishReason.STOP)


def compare_replays(result: Result, claimed: bytes, replayed: bytes) -> Comparison:
    """Return how far a bought replay (untrusted, the result's content) lies from a second one.

    A score is how far the margins and log-probabilities of one position lie apart.
    """
    mine = replayed[len(SECOND_TAG) :]
    if claimed:
        return breach(MALFORMED, "a replay has no evidence beside its content")
    if BREACH_TAG in (mine[:4], result.content[:4]):
        is_same = mine == result.content
        reason = "" if is_same else "the two replays differ in whether the claim breaks a rule"
        score = Score(is_same, 0.0 if is_same else 1.0, 0.0)
        return Comparison(is_wellformed=True, distance=score.margin, positions=1, reason=reason, scores=(score,))
    own = decode_claim(mine, REPLAY_TAG)
    try:
        theirs = decode_claim(result.content, REPLAY_TAG)
    except BadMessage as error:
        return breach(MALFORMED, error.message)
    if _tokens(own) != _tokens(theirs):
        return breach(MALFORMED, "the two replays are of different tokens")
    scores = tuple(
        Score(
            left.margin == right.margin,
            abs(left.margin - right.margin),
            logprob_gap(row, other),
            left.entropy,
            left.lead,
        )
        for left, right, row, other in zip(own.findings, theirs.findings, own.rows, theirs.rows, strict=True)
    )
    distance = sum(score.margin + score.gap for score in scores) / max(1, len(scores))
    return Comparison(is_wellformed=True, distance=distance, positions=len(scores), scores=scores)


def _tokens(claim: Claim) -> tuple[int, list[int]]:
    return claim.prompt_tokens, [row.token_id for row in claim.rows]
