"""What owning the sampler costs, and what a replay costs beside making the answer.

Ways are measured in turns, in CPU seconds of this process, since others use these cores too. Of a replay the best round
of each way counts; stepping and the engine's own loop are so close that each round's two are held against each other,
and the median of their ratios counts.

    python bench/verification/overhead.py WEIGHTS.gguf [torch]     # needs steelyard[node]; with `torch`, that extra too
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from native import opened_native
from opening import CONTEXT, opened
from prompts import CHAT, LONG

from steelyard.engines.port import StepEngine
from steelyard.protocol.sampler import SamplerParams, sample
from steelyard.services.chat.evidence import encode_row, entropy

RESULTS = Path(__file__).parent / "results" / "overhead.json"
TOKENS = 24
REPLAY_ROUNDS = 3
SAMPLER_ROUNDS = 15
SLOTS = (1, 2, 4)
SAMPLING = SamplerParams(0.8, 0.95)


async def stepped(engine: StepEngine, prompts: list[list[int]]) -> None:
    """Answer every prompt at once by our sampler, evidence included."""

    async def one(prompt: list[int], seed: int) -> None:
        session = await engine.open_session(prompt)
        try:
            for position in range(TOKENS):
                found = await session.candidates()
                token_id = sample(found.ids, found.logprobs, SAMPLING, seed, position)
                encode_row(found, token_id)
                session.push(token_id)
        finally:
            await session.aclose()

    await asyncio.gather(*(one(prompt, seed) for seed, prompt in enumerate(prompts)))


async def turns(ways: dict[str, Callable[[], Awaitable[Any]]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round of each way, after one round that warms up."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            await way()
            if round_number:
                spent[name].append(time.process_time() - started)
    return spent


async def measure_sampler(path: Path, slots: int) -> dict[str, Any]:
    """Our stepping beside the engine's own loop, with this many answers at once."""
    async with opened("llama", path, {"slots": slots}) as engine, opened_native(path, slots, CONTEXT) as native:
        prompts = [await engine.render([{"role": "user", "content": text}]) for text in CHAT[:slots]]
        ways = {"ours": lambda: stepped(engine, prompts), "engine": lambda: native(prompts, TOKENS)}
        spent = await turns(ways, SAMPLER_ROUNDS)
    count = slots * TOKENS
    return {
        "slots": slots,
        "stepping_ms_a_token": round(1000 * median(spent["ours"]) / count, 2),
        "engine_ms_a_token": round(1000 * median(spent["engine"]) / count, 2),
        "overhead": round(median(a / b for a, b in zip(spent["ours"], spent["engine"], strict=True)) - 1, 4),
    }


async def measure_own_work(path: Path) -> dict[str, Any]:
    """What our own Python adds per token: sampling and the row of evidence; a replay's findings need the like."""
    async with opened("llama", path, {}) as engine:
        session = await engine.open_session(await engine.tokenise(CHAT[0]))
        found = await session.candidates()
        await session.aclose()
    work: dict[str, Callable[[int], Any]] = {
        "sample": lambda position: sample(found.ids, found.logprobs, SAMPLING, 1, position),
        "encode_row": lambda position: encode_row(found, found.ids[0]),
        "entropy": lambda position: entropy(found.logprobs),
    }
    spent = {}
    for name, way in work.items():
        started = time.process_time()
        for position in range(2000):
            way(position)
        spent[f"{name}_us"] = round((time.process_time() - started) / 2000 * 1e6, 1)
    return spent


async def measure_replay(path: Path, other: StepEngine | None) -> list[dict[str, Any]]:
    """Making an answer, its prompt included, beside replaying it by one pass and by steps."""
    rows = []
    async with opened("llama", path, {"slots": 1}) as engine:
        for text, count in ((CHAT[0], 64), (CHAT[0], 256), (LONG[0], 128)):
            prompt = await engine.render([{"role": "user", "content": text}])
            answer = await make(engine, prompt, count)
            assert engine.scorer is not None
            scorer = engine.scorer
            ways: dict[str, Callable[[], Awaitable[Any]]] = {
                "make": lambda: fresh(engine, prompt, answer),  # noqa: B023  # called within this turn
                "one_pass": lambda: scorer.score(prompt, answer),  # noqa: B023
            }
            if other is not None and other.scorer is not None:
                torch = other.scorer
                ways["torch_one_pass"] = lambda: torch.score(prompt, answer)  # noqa: B023
            best = {name: min(seconds) for name, seconds in (await turns(ways, REPLAY_ROUNDS)).items()}
            rows.append({
                "prompt_tokens": len(prompt), "answer_tokens": count,
                **{f"{name}_s": round(seconds, 3) for name, seconds in best.items()},
                **{f"{name}_share": round(best[name] / best["make"], 3) for name in best if name != "make"},
            })  # fmt: skip
    return rows


async def make(engine: StepEngine, prompt: list[int], count: int) -> list[int]:
    """Sample an answer of this length, whatever ends it."""
    session, tokens = await engine.open_session(prompt), []
    for position in range(count):
        found = await session.candidates()
        tokens.append(sample(found.ids, found.logprobs, SamplerParams(), 1, position))
        session.push(tokens[-1])
    await session.aclose()
    return tokens


async def fresh(engine: StepEngine, prompt: list[int], answer: list[int]) -> None:
    """Make the answer again from an empty cache, as the first call of a conversation."""
    clear = await engine.open_session([answer[0]])
    await clear.candidates()
    await clear.aclose()
    await make(engine, prompt, len(answer))


async def main() -> None:
    """Measure, print and keep."""
    path = Path(sys.argv[1]).resolve()
    results: dict[str, Any] = {"own_work": await measure_own_work(path)}
    results["sampler"] = [await measure_sampler(path, slots) for slots in SLOTS]
    if "torch" in sys.argv[2:]:
        async with opened("torch", path, {}) as other:
            results["replay"] = await measure_replay(path, other)
    else:
        results["replay"] = await measure_replay(path, None)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
