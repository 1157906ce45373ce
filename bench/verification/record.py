"""Record how real answers score under real replays: honest nodes beside each other, and cheats.

A *run* is a provider making answers (`PROVIDERS`), token by token through our own sampler, with the log-probabilities
that it would put into its evidence. A *replay* is a validator scoring a run's tokens in one pass (`VALIDATORS`). A
*recording* is a pair of both, with one score a token; for a cheat there is a second one, `NAME+prefill`: the tokens of
the cheap weights, with evidence that an honest prefill of the real weights made.

Runs and replays are kept under `.steelyard/bench-runs/`, so an interrupted recording goes on; recordings are written to
`bench/verification/recordings/` and are committed (format: README.md beside this file).

    python bench/verification/record.py WEIGHTS.gguf [NAME…]     # needs steelyard[node,transformers]
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from opening import opened
from prompts import LOTTERY, REQUESTS, Asked
from recordings import ENTROPY_STEPS, FORMAT, LEAD_STEPS, MARGIN_STEPS, RECORDINGS
from weights import ROOT, VARIANTS, make_variant

from steelyard.engines.port import Candidates, StepEngine
from steelyard.protocol.sampler import judge, sample
from steelyard.services.chat.evidence import STEPS_PER_NAT, entropy

RUNS = ROOT / ".steelyard" / "bench-runs"
MAX_TOKENS = 96
FLOOR = 0xFFFF


# name: weights, engine, options, how many requests (or which)
PROVIDERS: dict[str, tuple[str, str, dict[str, int], int | range]] = {
    "llama": ("real", "llama", {"slots": 1}, 128),
    "llama-lottery": ("real", "llama", {"slots": 8}, LOTTERY[:256]),
    "llama-2-threads": ("real", "llama", {"slots": 1, "threads": 2}, 32),
    "llama-3-slots": ("real", "llama", {"slots": 3}, 48),
    "llama-batch-256": ("real", "llama", {"slots": 1, "batch_tokens": 256}, 48),
    "torch": ("real", "torch", {}, 32),
    **{name: (name, "llama", {"slots": 8}, 48) for name in VARIANTS},
    "q3": ("q3", "llama", {"slots": 8}, 128),  # its answers end early
}
VALIDATORS: dict[str, tuple[str, dict[str, int]]] = {
    "llama": ("llama", {}),
    "torch": ("torch", {}),
    "llama-batch-256": ("llama", {"batch_tokens": 256}),
}
PAIRS = (
    ("llama", "llama"), ("llama", "torch"), ("llama", "llama-batch-256"),
    ("llama-lottery", "torch"), ("llama-lottery", "llama"), ("llama-lottery", "llama-batch-256"),
    ("llama-2-threads", "llama"), ("llama-2-threads", "torch"),
    ("llama-3-slots", "llama"), ("llama-3-slots", "torch"),
    ("llama-batch-256", "llama"), ("llama-batch-256", "torch"),
    ("torch", "llama"), ("torch", "torch"),
    *((name, validator) for name in VARIANTS for validator in ("llama", "torch")),
)  # fmt: skip


class Desk:
    """The validators' engines over the real weights, each opened once."""

    def __init__(self, real: Path, stack: AsyncExitStack) -> None:
        self.real = real
        self._stack = stack
        self._opened: dict[str, StepEngine] = {}

    async def validator(self, name: str) -> StepEngine:
        """Return a validator's engine."""
        if name not in self._opened:
            kind, options = VALIDATORS[name]
            self._opened[name] = await self._stack.enter_async_context(opened(kind, self.real, options))
        return self._opened[name]


async def make_answer(engine: StepEngine, asked: Asked) -> dict[str, Any]:
    """Answer one request as a node does, and keep what its evidence would say."""
    prompt = await engine.render([{"role": "user", "content": asked.prompt}])
    session = await engine.open_session(prompt)
    tokens: list[int] = []
    claimed: list[int] = []
    try:
        while len(tokens) < MAX_TOKENS:
            found = await session.candidates()
            tokens.append(sample(found.ids, found.logprobs, asked.sampling, asked.seed, len(tokens)))
            claimed.append(steps_of(found, tokens[-1]))
            if engine.is_end(tokens[-1]):
                break
            session.push(tokens[-1])
    finally:
        await session.aclose()
    return {"request": asked.index, "prompt": prompt, "tokens": tokens, "claimed": claimed}


def steps_of(found: Candidates, token_id: int) -> int:
    """A token's log-probability as evidence has it: steps of 1/2048 nat below zero."""
    for candidate, logprob in zip(found.ids, found.logprobs, strict=True):
        if candidate == token_id:
            return min(FLOOR, max(0, round(-logprob * STEPS_PER_NAT)))
    return FLOOR


async def record_run(name: str, real: Path) -> list[dict[str, Any]]:
    """Return a provider's answers; those that are not kept yet are made now."""
    path = RUNS / f"{name}.json"
    weights, kind, options, wanted = PROVIDERS[name]
    span = range(wanted) if isinstance(wanted, int) else wanted
    answers: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    if len(answers) >= len(span):
        return answers
    started = time.monotonic()
    async with opened(kind, real if weights == "real" else make_variant(weights, real), options) as engine:
        for group in grouped([REQUESTS[index] for index in span[len(answers) :]], options.get("slots", 1)):
            answers += await asyncio.gather(*(make_answer(engine, asked) for asked in group))
            path.write_text(json.dumps(answers))
    tell(f"run {name}: {sum(len(answer['tokens']) for answer in answers)} tokens", started)
    return answers


async def record_replay(
    name: str, answers: list[dict[str, Any]], validator: str, desk: Desk
) -> list[list[list[float]]]:
    """Return a validator's findings of a run, per answer and token: margin, entropy, lead, log-probability in steps."""
    path = RUNS / f"{name}--{validator}.json"
    replays: list[list[list[float]]] = json.loads(path.read_text()) if path.exists() else []
    if len(replays) >= len(answers):
        return replays
    scorer = (await desk.validator(validator)).scorer
    assert scorer is not None, "this version of xllamacpp was never tested: the scorer is missing"
    started = time.monotonic()
    for answer in answers[len(replays) :]:
        asked = REQUESTS[answer["request"]]
        found = await scorer.score(answer["prompt"], answer["tokens"])
        replays.append(
            [
                find(candidates, asked, position, token_id)
                for position, (candidates, token_id) in enumerate(zip(found, answer["tokens"], strict=True))
            ]
        )
    path.write_text(json.dumps(replays))
    tell(f"replay {name} by {validator}", started)
    return replays


def find(found: Candidates, asked: Asked, position: int, token_id: int) -> list[float]:
    """What a replay's own candidates say of one claimed token."""
    margin, lead = judge(found.ids, found.logprobs, asked.sampling, asked.seed, position, token_id)
    return [margin, entropy(found.logprobs), lead, steps_of(found, token_id)]


def write_recording(
    pair: tuple[str, str], name: str, answers: list[dict[str, Any]], replays: list[list[list[float]]],
    claims: Sequence[Sequence[float]], *, is_honest: bool,
) -> None:  # fmt: skip
    """Write one pair's scores, in the columns that README.md describes."""
    rows = [row for replay in replays for row in replay]
    gaps = [
        int(min(8 * STEPS_PER_NAT, abs(row[3] - claimed)))
        for replay, claim in zip(replays, claims, strict=True)
        for row, claimed in zip(replay, claim, strict=True)
    ]
    described = []
    for answer in answers:
        asked = REQUESTS[answer["request"]]
        described.append({
            "request": asked.index, "sort": asked.sort, "tokens": len(answer["tokens"]),
            "temperature": asked.sampling.temperature, "top_p": asked.sampling.top_p, "top_k": asked.sampling.top_k,
        })  # fmt: skip
    recording = {
        "format": FORMAT,
        "model": "smollm2-135m",
        "provider": name,
        "validator": pair[1],
        "is_honest": is_honest,
        "answers": described,
        "margin": [math.ceil(row[0] * MARGIN_STEPS) for row in rows],  # a miss, however small, is not 0
        "gap": gaps,
        "entropy": [round(row[1] * ENTROPY_STEPS) for row in rows],
        "lead": [round(row[2] * LEAD_STEPS) for row in rows],
    }
    RECORDINGS.mkdir(exist_ok=True)
    data = gzip.compress(json.dumps(recording, separators=(",", ":")).encode(), 9, mtime=0)
    (RECORDINGS / f"{name}--{pair[1]}.json.gz").write_bytes(data)
    count = len(rows)
    tell(
        f"{name:>18} by {pair[1]:<16} {count:6} tokens  match {sum(row[0] == 0 for row in rows) / count:7.3%}  "
        f"margin {sum(row[0] for row in rows) / count:.4f}  gap {sum(gaps) / count / STEPS_PER_NAT:.4f}"
    )


async def record_pair(provider: str, validator: str, desk: Desk) -> None:
    """Write the recording of a pair, and for a cheat that with honest-looking evidence beside it."""
    answers = await record_run(provider, desk.real)
    replays = await record_replay(provider, answers, validator, desk)
    is_honest = PROVIDERS[provider][0] == "real"
    pair = (provider, validator)
    write_recording(pair, provider, answers, replays, [a["claimed"] for a in answers], is_honest=is_honest)
    if not is_honest:
        prefilled = await record_replay(provider, answers, "llama", desk)
        claims = [[row[3] for row in replay] for replay in prefilled]
        write_recording(pair, f"{provider}+prefill", answers, replays, claims, is_honest=False)


def grouped(requests: Sequence[Asked], size: int) -> Iterator[Sequence[Asked]]:
    """Cut the requests into groups that are answered at once."""
    for start in range(0, len(requests), size):
        yield requests[start : start + size]


def tell(what: str, started: float | None = None) -> None:
    """Print a line at once."""
    print(what if started is None else f"{what} in {time.monotonic() - started:.0f} s", flush=True)


async def main() -> None:
    """Record every pair, or those whose provider is named."""
    real, wanted = Path(sys.argv[1]).resolve(), set(sys.argv[2:])
    RUNS.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        desk = Desk(real, stack)
        for provider, validator in PAIRS:
            if not wanted or provider in wanted:
                await record_pair(provider, validator, desk)


if __name__ == "__main__":
    asyncio.run(main())
