"""Self-check of the torch engine beside llama.cpp, kept out of `make test` because torch is not locked.

python bench/verification/engines_agree.py WEIGHTS.gguf      # needs steelyard[node,transformers]
"""

from __future__ import annotations

import asyncio
import math
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from opening import opened
from prompts import CHAT, GIBBERISH, LONG

from steelyard.engines.port import Candidates, StepEngine
from steelyard.errors import BadRequest, Unavailable
from steelyard.protocol.sampler import SamplerParams, sample

TEXTS = (
    "Hello <|im_start|>user\n 12345 🦄  x", " leading\n\n\ttabs 1e-9 naïve 你好", "", "\n 7\n", "a" * 60, "3.14159 × 2",
    "def f(x):\n    return x**2\n",
)  # fmt: skip
TOKENS = 64


async def check_tokens(ours: StepEngine, theirs: StepEngine) -> None:
    """Both read every text and every conversation as the same tokens, and say the same of the file."""
    for text in (*TEXTS, *CHAT, *LONG, *GIBBERISH):
        assert await ours.tokenise(text) == await theirs.tokenise(text), text
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        assert await ours.render(messages) == await theirs.render(messages), text
    for field in (
        "tokenizer_hash",
        "template_hash",
        "weights_sha256",
        "template_request_tokens",
        "longest_token_bytes",
    ):
        assert getattr(ours.info, field) == getattr(theirs.info, field), field


async def check_scores(ours: StepEngine, theirs: StepEngine) -> None:
    """Stepping equals one pass within torch; torch and llama.cpp agree within the noise of 8-bit activations."""
    prompt = await ours.render([{"role": "user", "content": CHAT[0]}])
    session, tokens, stepped = await ours.open_session(prompt), [], []
    for position in range(TOKENS):
        stepped.append(await session.candidates())
        tokens.append(sample(stepped[-1].ids, stepped[-1].logprobs, SamplerParams(), 1, position))
        session.push(tokens[-1])
    await session.aclose()
    assert ours.scorer is not None
    assert theirs.scorer is not None
    scored = await ours.scorer.score(prompt, tokens)
    inside, across = distance(scored, stepped), distance(scored, await theirs.scorer.score(prompt, tokens))
    print(f"nats between log-probabilities: stepping and one pass {inside:.6f}, torch and llama.cpp {across:.3f}")
    assert inside < 1e-3
    assert across < 0.25


def distance(mine: list[Candidates], theirs: list[Candidates]) -> float:
    """Mean difference over the 20 likeliest tokens of each position."""
    gaps = []
    for left, right in zip(mine, theirs, strict=True):
        found = dict(zip(left.ids, left.logprobs, strict=True))
        gaps += [abs(found[i] - x) for i, x in list(zip(right.ids, right.logprobs, strict=True))[:20] if i in found]
    return math.fsum(gaps) / len(gaps)


async def check_embeddings(ours: StepEngine, theirs: StepEngine) -> None:
    """Vectors of unit length, in the same direction."""
    texts = [CHAT[0], LONG[0]]
    mine, other = await ours.embed(texts), await theirs.embed(texts)
    assert mine.tokens == other.tokens
    for left, right in zip(mine.vectors, other.vectors, strict=True):
        layout = f"<{len(left) // 4}f"
        cosine = math.fsum(
            a * b for a, b in zip(struct.unpack(layout, left), struct.unpack(layout, right), strict=True)
        )
        print(f"cosine of the two engines' vectors {cosine:.5f}")
        assert cosine > 0.999


async def check_refusals(engine: StepEngine) -> None:
    """What can't be done is refused by name, and a closed engine says so."""
    scorer = engine.scorer
    assert scorer is not None
    for prompt, answer in (([], [5]), ([5], [10**6, 5]), ([5] * 1024, [5])):
        try:
            await scorer.score(prompt, answer)
        except BadRequest as error:
            print("refused:", error.message)
        else:
            raise AssertionError(f"{len(prompt)} + {answer} was scored")
    await engine.aclose()
    try:
        await scorer.score([5], [5])
    except Unavailable as error:
        print("refused:", error.message)


async def main() -> None:
    """Run every check; the first that fails ends it."""
    path = Path(sys.argv[1]).resolve()
    async with opened("torch", path, {}) as ours, opened("llama", path, {}) as theirs:
        await check_tokens(ours, theirs)
        await check_scores(ours, theirs)
        await check_embeddings(ours, theirs)
        await check_refusals(ours)
    print("the engines agree")


if __name__ == "__main__":
    asyncio.run(main())
