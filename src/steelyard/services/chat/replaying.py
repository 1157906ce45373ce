"""Replaying an answer: the engine forced along the claimed tokens, and what has to hold before that is worth doing.

1. Before the engine works: the tokens exist, spell the answer that the client got, end where the finish reason says,
   and are those that were billed. Each breach has a code (`evidence.BREACHES`); no honest answer is in any.
2. Then one pass over prompt and answer, or one step per claimed token: its margin, and what the replay's own
   candidates say of the position.
3. An answer that was cut (CANCELLED, ERROR) may be a beginning of what its tokens spell: they were made, and not sent.
4. An answer that went on from another machine's prefix is judged for its own tokens alone, at their own positions.

Law: docs/spec/kinds/chat.md, sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.engines.port import Candidates, StepEngine
from steelyard.errors import BadMessage
from steelyard.protocol.sampler import judge
from steelyard.services.chat.evidence import (
    AFTER_END,
    BILL,
    FINISH,
    LENGTH,
    NOT_IN_MODEL,
    SPELLING,
    Claim,
    Finding,
    encode_replay,
    encode_row,
    entropy,
)
from steelyard.services.chat.seam import Seam, open_seam
from steelyard.services.chat.stepping import read_prompt
from steelyard.services.port import Context, FinishReason, Quote, Request, Result
from steelyard.services.text_requests import TextPayload

_CUT = (FinishReason.CANCELLED, FinishReason.ERROR)


async def replay_answer(
    engine: StepEngine, request: Request, result: Result, claim: Claim, context: Context, quote: Quote
) -> bytes:
    """Return the replay of a claim.

    Args:
        result: what the client got and was billed, bound by the receipt. claim: untrusted. quote: of the request.

    Raises:
        BadMessage: the claim is in breach of a rule; `code` is one of `BREACHES`.
        BadRequest: the order's prefix is none that an answer could go on from.
        Unavailable: the engine failed.
    """
    payload: TextPayload = request.payload
    prompt = await read_prompt(engine, payload)
    seam = open_seam(engine, payload, context, prompt, quote.max_units_out)
    first = len(seam.tokens)
    room = min(quote.max_units_out, engine.info.context_tokens - len(prompt)) - first
    prompt = [*prompt, *seam.tokens]
    claimed = [row.token_id for row in claim.rows]
    _check_bill(claim, len(prompt), result)
    if len(claimed) > room:
        raise BadMessage(f"{len(claimed)} tokens are claimed, the request and the context allow {room}", code=LENGTH)
    _check_tokens(engine, claimed, seam, result, is_full=len(claimed) == room)
    rows, findings = bytearray(), []
    forced = await _force(engine, prompt, claimed)
    for position, (token_id, found) in enumerate(zip(claimed, forced, strict=True), first):
        rows += encode_row(found, token_id)
        margin, lead = judge(found.ids, found.logprobs, payload.sampling, context.seed, position, token_id)
        findings.append(Finding(margin, entropy(found.logprobs), lead))
    return encode_replay(len(prompt), bytes(rows), findings)


async def _force(engine: StepEngine, prompt: Sequence[int], claimed: Sequence[int]) -> list[Candidates]:
    """The candidates at each position of an answer, given the claimed tokens before it: in one pass where it can."""
    if not claimed:
        return []
    if (scorer := engine.scorer) is not None:
        return await scorer.score(prompt, claimed)
    found = []
    session = await engine.open_session(prompt)
    try:
        for token_id in claimed:
            found.append(await session.candidates())
            session.push(token_id)
    finally:
        await session.aclose()
    return found


def _check_bill(claim: Claim, prompt_tokens: int, result: Result) -> None:
    """A whole answer bills its tokens, a cut one at most those that were made."""
    told = f"{result.units_in} + {result.units_out} tokens were billed"
    if claim.prompt_tokens != prompt_tokens:
        raise BadMessage(f"the evidence says {claim.prompt_tokens} prompt tokens, there are {prompt_tokens}", code=BILL)
    made = len(claim.rows)
    if result.finish in _CUT:
        if result.units_in not in (0, prompt_tokens) or result.units_out > made:
            raise BadMessage(f"{told}, {prompt_tokens} + {made} were made", code=BILL)
    elif (result.units_in, result.units_out) != (prompt_tokens, made):
        raise BadMessage(f"{told}, the prompt has {prompt_tokens} and the answer {made}", code=BILL)


def _check_tokens(engine: StepEngine, claimed: Sequence[int], seam: Seam, result: Result, *, is_full: bool) -> None:
    assembler = seam.text
    text, has_ended = [], seam.finish is FinishReason.STOP
    for index, token_id in enumerate(claimed):
        if has_ended or assembler.is_stopped:
            raise BadMessage(f"of {len(claimed)} claimed tokens the answer ends with number {index}", code=AFTER_END)
        if not engine.has_token(token_id):
            raise BadMessage(f"the model has no token {token_id}", code=NOT_IN_MODEL)
        has_ended = engine.is_end(token_id)
        if not has_ended:
            text.append(assembler.push(engine.token_bytes(token_id)))
    text.append(assembler.finish())
    content = "".join(text).encode()
    is_cut = result.finish in _CUT
    if not (content.startswith(result.content) if is_cut else content == result.content):
        raise BadMessage(
            f"the {len(claimed)} claimed tokens do not spell the answer of {len(result.content)} bytes", code=SPELLING
        )
    if is_cut:
        return
    is_ended = has_ended or assembler.is_stopped
    if not (is_ended if result.finish is FinishReason.STOP else is_full and not is_ended) or (
        result.finish not in (FinishReason.STOP, FinishReason.LENGTH)
    ):
        ending = "its end" if is_ended else "its full length" if is_full else "neither an end nor the full length"
        raise BadMessage(f"the answer says {result.finish.name}, its tokens reach {ending}", code=FINISH)
