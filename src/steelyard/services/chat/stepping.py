"""Making an answer token by token: the engine gives candidates, our sampler chooses, the text grows.

1. Every sampled token costs one unit, the one that ends the answer and those of a stop sequence included.
2. A chunk is sent when there is text to show, and at the end; units of held-back text ride on the next chunk.
3. Leaving early, by whatever way, closes the session: the slot is free before the next token.
4. An answer that goes on from another machine's prefix is what the undisturbed one would have been: same positions,
   same limits, same text held back. Its prefix is input.

Law: docs/spec/kinds/chat.md, sections 3 and 7.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from steelyard.engines.port import Session, StepEngine
from steelyard.errors import BadRequest
from steelyard.protocol.sampler import sample
from steelyard.services.chat.evidence import encode_row
from steelyard.services.chat.logprobs import LogprobLog
from steelyard.services.chat.seam import Seam, encode_token, open_seam
from steelyard.services.port import Chunk, Context, FinishReason, Quote, Request
from steelyard.services.text_requests import CHAT, TextPayload


async def stream_answer(
    engine: StepEngine, request: Request, context: Context, quote: Quote
) -> AsyncGenerator[Chunk, None]:
    """Yield the answer's chunks and leave its rows of evidence in `context.trace`.

    Raises:
        BadRequest: the prompt is too long for the context, or costs more than was quoted.
        Unavailable: the engine failed.
    """
    payload: TextPayload = request.payload
    prompt = await read_prompt(engine, payload)
    maximum = quote.max_units_out
    seam = open_seam(engine, payload, context, prompt, maximum)
    tokens = [*prompt, *seam.tokens]
    if len(prompt) > quote.max_units_in:
        raise BadRequest(
            f"the prompt has {len(prompt)} tokens, its bytes and the context allow {quote.max_units_in}: shorten it",
            code="context_length_exceeded",
            param="messages" if request.api == CHAT else "prompt",
        )
    if seam.finish is not None:
        yield Chunk(b"", len(tokens), 0, b"", seam.finish)
        return
    log = None if payload.logprobs is None else LogprobLog(request.api, payload.logprobs, engine)
    again = 0 if log is None else seam.hidden
    session = await engine.open_session(tokens[: len(tokens) - again])
    try:
        if log is not None and again:
            for token_id, (start, end) in zip(seam.tokens[-again:], seam.spans[-again:], strict=True):
                log.add(await session.candidates(), token_id, start, end)
                session.push(token_id)
        async for chunk in _step(engine, session, request, context, seam, log, (len(tokens), maximum)):
            yield chunk
    finally:
        await session.aclose()


async def _step(
    engine: StepEngine,
    session: Session,
    request: Request,
    context: Context,
    seam: Seam,
    log: LogprobLog | None,
    units: tuple[int, int],
) -> AsyncGenerator[Chunk, None]:
    payload: TextPayload = request.payload
    assembler = seam.text
    units_in, maximum = units
    units_out, position = 0, len(seam.tokens)
    trail = bytearray()
    finish: FinishReason | None = None
    while finish is None:
        candidates = await session.candidates()
        token_id = sample(candidates.ids, candidates.logprobs, payload.sampling, context.seed, position)
        context.trace += encode_row(candidates, token_id)
        trail += encode_token(token_id)
        position += 1
        units_out += 1
        text = ""
        if engine.is_end(token_id):
            finish = FinishReason.STOP
        else:
            start = assembler.total
            text = assembler.push(engine.token_bytes(token_id))
            if log is not None:
                log.add(candidates, token_id, start, start + 1 if assembler.is_stopped else assembler.total)
            if assembler.is_stopped:
                finish = FinishReason.STOP
            elif position >= maximum or session.room <= 1:
                finish = FinishReason.LENGTH
            else:
                session.push(token_id)
        if finish is not None:
            text += assembler.finish()
        if text or finish is not None:
            detail = b"" if log is None else log.release(assembler.shown, is_last=finish is not None)
            yield Chunk(text.encode(), units_in, units_out, detail, finish, bytes(trail))
            units_in = units_out = 0
            trail.clear()


async def read_prompt(engine: StepEngine, payload: TextPayload) -> list[int]:
    """Return the prompt's tokens: the conversation in the model's template, or the plain text."""
    if payload.messages is None:
        return await engine.tokenise(payload.prompt)
    messages: list[dict[str, Any]] = [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in payload.messages
    ]
    return await engine.render(messages)
