"""How honest answers look: made by one engine, replayed by another, for a calibration.

1. Prompts are like users' or gibberish, in the settings that callers use and in hotter ones; a seed fixes all of it.
2. What is measured goes the same way as a check: parse, run, evidence, replay, compare.

Law: docs/spec/checking.md, section 4.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import structlog

from steelyard.errors import BadMessage, BadRequest, Fault, Unavailable
from steelyard.services.port import Comparison, Context, Request, Result, Service
from steelyard.services.text_requests import TextPayload
from steelyard.verification.calibration import GIBBERISH, ORDINARY, Sample
from steelyard.verification.scores import Regime, regime_of

SETTINGS: tuple[dict[str, float], ...] = (
    {"temperature": 0},
    {"temperature": 2},
    {"temperature": 1},
    {"temperature": 2, "top_p": 0.9, "top_k": 20},
    {"temperature": 0.7},
    {"temperature": 1.5},
    {"temperature": 1, "top_p": 0.95},
    {"temperature": 2, "top_p": 0.95},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 40},
    {"temperature": 1.2, "top_k": 40},
)
"""What goes round: half of it cool (up to 1), half hot, with and without masks."""

TRIES = 3

_log = structlog.get_logger("steelyard.validator")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MARKS = "()*&^}{:?><|,;`~%@#_+-=/\\[]\"'!$"
_EXOTIC = "жߘ🦄🧿⟁ǂ☌ꙮ你نଅᚠⵣ༄𝔛ßøłžαωא한คა"


class Question(msgspec.Struct, frozen=True):
    """One request to measure: its family, API, body and seed."""

    family: str
    api: str
    body: bytes
    seed: int


def write_questions(
    service: Service, prompts: Sequence[str], *, answers: int, tokens: int, seed: int
) -> list[Question]:
    """Return what to ask a service, half of it gibberish.

    Args:
        prompts: like users'. tokens: the most that one answer may have.
    """
    source = random.Random(seed)  # noqa: S311  # repeatable, not secret
    manifest = service.manifest
    nonsense = write_gibberish(source)
    asked = []
    for index in range(answers):
        family = GIBBERISH if index % 2 else ORDINARY
        text = next(nonsense) if index % 2 else prompts[index // 2 % len(prompts)]
        fields: dict[str, Any]
        if manifest.kind == "embeddings":
            api, fields = "embeddings", {"model": manifest.name, "input": text}
        else:
            setting = SETTINGS[(index // 2 + index % 2) % len(SETTINGS)]
            honoured = {key: value for key, value in setting.items() if key in manifest.parameters}
            messages = [{"role": "user", "content": text}]
            api = "chat.completions"
            fields = {"model": manifest.name, "messages": messages, "max_tokens": tokens, **honoured}
        asked.append(Question(family, api, msgspec.json.encode(fields), source.getrandbits(64)))
    return asked


def write_gibberish(source: random.Random) -> Iterator[str]:
    """Yield prompts that make a model's choices a lottery, without end: noise, codes, marks, scripts, loops."""

    def word() -> str:
        return "".join(source.choices(_LETTERS, k=source.randint(1, 7)))

    def marks() -> str:
        return "".join(source.choices(_MARKS + " ", k=source.randint(30, 90)))

    def loop() -> str:
        return " ".join([word()] * source.randint(8, 40))

    def code() -> str:
        return base64.b64encode(source.randbytes(source.randint(20, 60))).decode()

    def scripts() -> str:
        return " ".join("".join(source.choices(_EXOTIC, k=source.randint(1, 4))) for _ in range(source.randint(6, 20)))

    def noise() -> str:
        return " ".join(word() for _ in range(source.randint(6, 30)))

    def lottery() -> str:
        return f"Say {source.randint(20, 400)} random words, none of which has to do with the last: {word()} {word()}"

    makers: tuple[Callable[[], str], ...] = (noise, code, marks, scripts, loop, lottery)
    while True:
        for make in makers:
            yield make()


async def measure(
    provider: Service, validators: Mapping[str, Service], questions: Sequence[Question], *, at_once: int = 1
) -> AsyncIterator[list[Sample]]:
    """Yield what the replays of each of a provider's answers come to, as they are done.

    Args:
        provider, validators: the same manifest on each one's engine, prepared; validators by what their family is
            called beside the prompts', "" for the plain one. at_once: answers side by side.
    """
    turns, replaying = asyncio.Semaphore(at_once), asyncio.Lock()

    async def one(question: Question) -> list[Sample]:
        async with turns:
            request = provider.parse(question.api, question.body)
            result = await _answer(provider, request, question.seed)
            claimed = provider.evidence(request, result) if result.trace else b""
        payload, samples = request.payload, []
        regime = regime_of(payload.sampling.temperature) if isinstance(payload, TextPayload) else Regime.COOL
        for name, validator in validators.items():
            async with replaying:
                comparison = await _compare(validator, request, result, claimed, question.seed)
            family = f"{question.family} {name}".strip()
            samples.append(Sample(family=family, regime=regime, positions=comparison.scores))
        return samples

    async def one_or_again(question: Question) -> list[Sample]:
        for left in reversed(range(TRIES)):
            try:
                return await one(question)
            except Unavailable as error:  # an hour's measuring isn't lost to one hiccup of an engine
                if not left:
                    raise
                _log.warning("answer_not_measured", reason=error.message)
        raise Fault("no tries")

    tasks = [asyncio.create_task(one_or_again(question)) for question in questions]
    try:
        for task in asyncio.as_completed(tasks):
            yield await task
    finally:
        for left in tasks:
            left.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _compare(validator: Service, request: Request, result: Result, claimed: bytes, seed: int) -> Comparison:
    try:
        replayed = await validator.replay(request, result, claimed, Context(seed=seed))
        comparison = validator.compare(result, claimed, replayed)
        code = comparison.code
    except BadMessage as error:
        code = error.code
    if code:
        raise BadRequest(f"an honest answer breaks a rule ({code}): these engines can't be calibrated")
    return comparison


async def _answer(service: Service, request: Request, seed: int) -> Result:
    context, content, units_in, units_out, finish = Context(seed=seed), bytearray(), 0, 0, None
    async with aclosing(service.run(request, context)) as chunks:
        async for chunk in chunks:
            content += chunk.content
            units_in += chunk.units_in
            units_out += chunk.units_out
            finish = chunk.finish if chunk.finish is not None else finish
    if finish is None:
        raise Unavailable("the engine gave an answer without an end")
    return Result(
        content=bytes(content), units_in=units_in, units_out=units_out, finish=finish, trace=bytes(context.trace)
    )
