"""The real model in one forward pass: what it scores is what stepping gives, whatever the batch."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.llama_world import MODEL, fetch_test_model, opened

from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_logits import LlamaScorer
from steelyard.engines.llama_server import LlamaOptions
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


def test_scorer_beside_stepping_agrees_on_every_candidate() -> None:
    """Over a prompt and an answer longer than a batch, one pass gives the same candidates in the same places, and
    log-probabilities that differ by no more than the server's float32 sums: 0.001 nats.
    """

    async def run() -> tuple[list[Candidates], list[Candidates]]:
        async with opened(slots=1) as engine:
            prompt = await engine.render(QUESTION)
            tokens, stepped = await step(engine, prompt, 40)
            assert engine.scorer is not None
            assert len(prompt) + len(tokens) > 64  # two batches
            scored = await engine.scorer.score(prompt, tokens)
            assert scored == await engine.scorer.score(prompt, tokens)  # the sequence before is forgotten
            return stepped, scored

    stepped, scored = asyncio.run(run())
    assert len(scored) == len(stepped)
    for mine, theirs in zip(scored, stepped, strict=True):
        assert len(mine.ids) == len(set(mine.ids)) == 64
        assert math.fsum(map(math.exp, mine.logprobs)) <= 1.0001
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
        found = dict(zip(mine.ids, mine.logprobs, strict=True))
        assert all(
            found[i] == pytest.approx(x, abs=1e-3) for i, x in zip(theirs.ids[:60], theirs.logprobs, strict=False)
        )


def test_scorer_asked_for_what_it_cant_score_refuses() -> None:
    """No prompt, too many tokens, a token that is not in the vocabulary, a closed engine: each has its error; no answer
    has no scores.
    """

    async def run() -> None:
        path = await fetch_test_model()
        scorer = LlamaScorer(path, LlamaOptions(context_tokens=64, batch_tokens=32))
        assert await scorer.score([1], []) == []
        for prompt, answer, words in (([], [5], "prompt"), ([5] * 60, [5] * 5, "60 \\+ 5"), ([5], [49152, 5], "49152")):
            with pytest.raises(BadRequest, match=words):
                await scorer.score(prompt, answer)
        assert len(await scorer.score([5] * 60, [5] * 4)) == 4
        await scorer.aclose()
        await scorer.aclose()
        with pytest.raises(Unavailable, match="closed"):
            await scorer.score([5], [5])

    assert MODEL.name == "smollm2-135m"
    asyncio.run(run())
