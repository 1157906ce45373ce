"""The real model in one forward pass: what it scores is what stepping gives, to the bit."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.llama_world import opened

from steelyard.engines.llama import LlamaEngine
from steelyard.engines.port import Candidates
from steelyard.errors import BadRequest, Unavailable
from steelyard.protocol.sampler import SamplerParams, sample

QUESTION = [{"role": "user", "content": "Describe a quiet harbour in the morning, in a few sentences."}]


async def step(engine: LlamaEngine, prompt: list[int], count: int) -> tuple[list[int], list[Candidates]]:
    """Sample this many tokens, and keep what each was chosen from."""
    session = await engine.open_session(prompt)
    tokens, seen = [], []
    try:
        for position in range(count):
            seen.append(await session.candidates())
            tokens.append(sample(seen[-1].ids, seen[-1].logprobs, SamplerParams(1.0, 1.0), 7, position))
            session.push(tokens[-1])
    finally:
        await session.aclose()
    return tokens, seen


def test_scorer_beside_stepping_gives_the_same_bits() -> None:
    """Over a prompt and an answer longer than a batch, one pass gives the very candidates that stepping gave."""

    async def run() -> None:
        async with opened(slots=1) as engine:
            prompt = await engine.render(QUESTION)
            tokens, stepped = await step(engine, prompt, 40)
            assert engine.scorer is not None
            assert len(prompt) + len(tokens) > 64  # two batches
            assert await engine.scorer.score(prompt, tokens) == stepped
            assert await engine.scorer.score(prompt, tokens) == stepped  # the sequence before is forgotten
            for found in stepped:
                assert len(found.ids) == len(set(found.ids)) == 64
                assert math.fsum(map(math.exp, found.logprobs)) <= 1.0001

    asyncio.run(run())


def test_scorer_beside_sessions_disturbs_nobody() -> None:
    """Scoring while others are stepped, on one model in two threads, changes no bit of either."""

    async def run() -> None:
        async with opened(slots=2) as engine:
            prompt = await engine.render(QUESTION)
            tokens, stepped = await step(engine, prompt, 16)
            assert engine.scorer is not None
            scored, again, other = await asyncio.gather(
                engine.scorer.score(prompt, tokens), step(engine, prompt, 16), step(engine, prompt[:-3], 8)
            )
            assert scored == stepped
            assert again == (tokens, stepped)
            assert len(other[0]) == 8

    asyncio.run(run())


def test_scorer_asked_for_what_it_cant_score_refuses() -> None:
    """No prompt, too many tokens, a token that is not in the vocabulary, a closed engine: each has its error; no answer
    has no scores.
    """

    async def run() -> None:
        async with opened(slots=1, context_tokens=64) as engine:
            scorer = engine.scorer
            assert scorer is not None
            assert await scorer.score([1], []) == []
            for prompt, answer, words in (
                ([], [5], "prompt"),
                ([5] * 60, [5] * 5, "60 \\+ 5"),
                ([5], [49152, 5], "49152"),
            ):
                with pytest.raises(BadRequest, match=words):
                    await scorer.score(prompt, answer)
            assert len(await scorer.score([5] * 60, [5] * 4)) == 4
        await scorer.aclose()
        with pytest.raises(Unavailable, match="closed"):
            await scorer.score([5], [5])

    asyncio.run(run())
