"""The real model under load: many sessions on few slots, cancelled at any moment, closed in the midst, two engines."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from tests.llama_world import opened

from steelyard.engines.llama import LlamaEngine
from steelyard.engines.port import Candidates
from steelyard.errors import Unavailable
from steelyard.protocol.sampler import SamplerParams, sample

TEXTS = ("The sea", "Name three colours, please.", "Once upon a time there was", "def f(x):", "word " * 60)
STEPS = 4


async def write(
    engine: LlamaEngine, prompt: list[int], seed: int, dice: random.Random | None = None
) -> list[Candidates]:
    """Return what each token was sampled from; with dice, its reader is slow now and then."""
    session = await engine.open_session(prompt)
    seen = []
    try:
        for position in range(STEPS):
            seen.append(await session.candidates())
            session.push(sample(seen[-1].ids, seen[-1].logprobs, SamplerParams(0.8, 0.95), seed, position))
            if dice is not None and dice.random() < 0.2:
                await asyncio.sleep(dice.random() * 0.02)
    finally:
        await session.aclose()
    return seen


@pytest.mark.timeout(180)
def test_slots_under_load_with_cancels_give_right_answers_and_are_all_given_back() -> None:
    """Forty sessions on three slots, a third of them cancelled in mid-prompt, in mid-step or while waiting: those that
    finish have the very bits of a session alone, and afterwards every slot is free.
    """
    dice = random.Random(5)

    async def run() -> None:
        async with opened(slots=3) as engine:
            prompts = [await engine.tokenise(text) for text in TEXTS]
            alone = {(index, seed): await write(engine, prompts[index], seed) for index in range(5) for seed in (1, 2)}

            async def one(index: int, seed: int, patience_s: float) -> bool:
                try:
                    async with asyncio.timeout(patience_s):
                        seen = await write(engine, prompts[index], seed, dice)
                except TimeoutError:
                    return False
                assert seen == alone[index, seed]
                return True

            finished = 0
            for _ in range(2):
                calls = [
                    (dice.randrange(5), dice.choice((1, 2)), dice.random() * 0.6 if dice.random() < 0.4 else 120)
                    for _ in range(20)
                ]
                finished += sum(await asyncio.gather(*(one(*call) for call in calls)))
            assert 10 <= finished < 40, finished
            free = [await asyncio.wait_for(engine.open_session(prompts[0]), 5) for _ in range(3)]
            for session in free:
                await session.aclose()

    asyncio.run(run())


def test_engine_closed_in_the_midst_fails_everybody_at_once() -> None:
    """Sessions in a prompt, in a step and in the queue all end with an error, and closing ends too."""

    async def run() -> None:
        async with opened(slots=2) as engine:
            prompts = [(await engine.tokenise("word " * 400))[:300], await engine.tokenise("Hi"), [28, 29]]
            tasks = [asyncio.create_task(write(engine, prompts[index % 3], index)) for index in range(12)]
            await asyncio.sleep(0.2)
            await asyncio.wait_for(engine.aclose(), 10)
            outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
            failed = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
            assert len(failed) >= 10, outcomes
            with pytest.raises(Unavailable, match="not loaded"):
                await engine.open_session([28])

    asyncio.run(run())


def test_two_engines_in_one_process_are_strangers_to_each_other() -> None:
    """Both at once give what one alone gives, and one goes on after the other is closed."""

    async def run() -> None:
        async with opened(slots=1) as first:
            prompt = await first.tokenise(TEXTS[2])
            alone = await write(first, prompt, 1)
            async with opened(slots=2) as second:
                both = await asyncio.gather(write(first, prompt, 1), write(second, prompt, 1), write(second, prompt, 1))
                assert list(both) == [alone] * 3
            assert await write(first, prompt, 1) == alone

    asyncio.run(run())


def test_what_is_cached_leaves_no_trace_in_the_bits() -> None:
    """From an empty cache, from a shared beginning, from the whole prompt: the same candidates."""

    async def run() -> None:
        async with opened(slots=1) as engine:
            prompt = await engine.tokenise("The harbour is quiet in the morning. " * 12)
            seen = []
            for before in ([28, 29], [*prompt[:70], 5, 6, 7], prompt, [*prompt, *[11] * 40]):
                session = await engine.open_session(before)
                await session.candidates()
                await session.aclose()
                seen.append(await write(engine, prompt, 3))
            assert seen == [seen[0]] * 4

    asyncio.run(run())


def test_long_prompt_stops_neither_running_answers_nor_the_event_loop() -> None:
    """While a long prompt is processed, another session gets token after token, and other tasks their turns."""

    async def run() -> None:
        async with opened(slots=2) as engine:
            long = (await engine.tokenise("word " * 600))[:480]
            running = await engine.open_session(await engine.tokenise("Hi"))
            await running.candidates()
            reading = asyncio.create_task(write(engine, long, 1))
            steps = turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0.01)
                    turns += 1

            turning = asyncio.create_task(turn())
            started = time.monotonic()
            while not reading.done() and steps < 8:
                running.push(28)
                await running.candidates()
                steps += 1
            spent = time.monotonic() - started
            turning.cancel()
            assert steps == 8  # of fifteen pieces
            assert turns > spent / 0.01 / 10
            await running.aclose()
            await reading

    asyncio.run(run())
