"""engines/llama_decoder.py: steps and prompts that meet are decoded together, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from steelyard.engines.llama_context import Piece
from steelyard.engines.llama_decoder import LlamaDecoder, plan_batch
from steelyard.engines.llama_slots import Slot
from steelyard.engines.port import Candidates
from steelyard.errors import Fault, Unavailable


class FakeContext:
    """Decodes when told; the likeliest token after a piece is its last one."""

    def __init__(self) -> None:
        self.batches: list[list[Piece]] = []
        self.failure: Exception | None = None
        self.is_closed = False
        self._turns = threading.Semaphore(0)

    def let(self, count: int = 1) -> None:
        """Let so many batches through."""
        self._turns.release(count)

    def decode(self, pieces: Sequence[Piece]) -> list[list[Candidates]]:
        self.batches.append(list(pieces))
        assert self._turns.acquire(timeout=5)
        if self.failure is not None:
            raise self.failure
        return [[Candidates((piece.tokens[-1],), (0.0,))] * piece.wanted for piece in pieces]

    def close(self) -> None:
        self.is_closed = True


def slots(count: int) -> list[Slot]:
    """Fresh slots, by their index."""
    return [Slot(index, can_cut=True) for index in range(count)]


async def begun(context: FakeContext, batches: int) -> None:
    """Wait until this many batches have been begun."""
    while len(context.batches) < batches:  # noqa: ASYNC110 - the list is all there is to look at
        await asyncio.sleep(0.001)


def test_plan_takes_steps_first_and_fills_up_with_prompts() -> None:
    """A batch is sorted by sequence, never longer than it may be, and leaves a share to prompts where steps abound."""
    assert plan_batch({2: 100, 0: 1, 1: 1}, 8) == {0: 1, 1: 1, 2: 6}
    assert plan_batch({3: 2, 1: 100, 0: 5}, 8) == {1: 6, 3: 2}
    assert plan_batch(dict.fromkeys(range(9), 1), 8) == dict.fromkeys(range(8), 1)
    assert plan_batch({**dict.fromkeys(range(9), 1), 9: 50}, 8) == {**dict.fromkeys(range(6), 1), 9: 2}
    assert plan_batch({}, 8) == {}


def test_prompt_goes_through_in_pieces_beside_the_steps_of_others() -> None:
    """A step that comes during a long prompt is in the next batch, and the slot holds what was processed."""

    async def run() -> None:
        context, (first, second) = FakeContext(), slots(2)
        decoder = LlamaDecoder(context, 4)
        prompt = asyncio.create_task(decoder.step(first, list(range(10))))
        await begun(context, 1)
        second.held = [7]
        step = asyncio.create_task(decoder.step(second, [7, 8]))
        await asyncio.sleep(0)
        context.let(2)
        assert (await step).ids == (8,)
        context.let(1)
        assert (await prompt).ids == (9,)
        assert context.batches == [
            [Piece(0, 0, [0, 1, 2, 3], 0)],
            [Piece(0, 4, [4, 5, 6], 0), Piece(1, 1, [8], 1)],
            [Piece(0, 7, [7, 8, 9], 1)],
        ]
        assert (first.held, second.held) == (list(range(10)), [7, 8])
        await decoder.aclose()
        assert context.is_closed

    asyncio.run(run())


def test_prompts_take_turns() -> None:
    """A short prompt waits for one piece of a long one, not for all of it."""

    async def run() -> None:
        context, (first, second) = FakeContext(), slots(2)
        decoder = LlamaDecoder(context, 4)
        long = asyncio.create_task(decoder.step(first, list(range(40))))
        short = asyncio.create_task(decoder.step(second, [1, 2]))
        context.let(2)
        assert (await asyncio.wait_for(short, 2)).ids == (2,)
        context.let(20)
        await long
        await decoder.aclose()

    asyncio.run(run())


def test_steps_of_sessions_that_come_back_in_time_are_decoded_together() -> None:
    """After a batch its sessions are waited for; one that stays away costs the others one grace, not one per token."""

    async def run() -> None:
        context, (first, second) = FakeContext(), slots(2)
        decoder = LlamaDecoder(context, 4)
        context.let(9)
        await asyncio.gather(decoder.step(first, [1]), decoder.step(second, [7]))
        step = asyncio.create_task(decoder.step(first, [1, 2]))
        await asyncio.sleep(0)
        await asyncio.gather(step, decoder.step(second, [7, 8]))
        for tokens in ([1, 2, 3], [1, 2, 3, 4]):
            await asyncio.wait_for(decoder.step(first, tokens), 1)
        assert [[piece.sequence for piece in batch] for batch in context.batches] == [[0, 1], [0, 1], [0], [0]]
        await decoder.aclose()

    asyncio.run(run())


def test_slot_of_a_session_that_leaves_is_given_back_when_its_batch_has_ended() -> None:
    """Never before, and at once if nothing of it runs; what the batch processed stays in its cache."""

    async def run() -> None:
        context, (first, second) = FakeContext(), slots(2)
        decoder, given = LlamaDecoder(context, 4), []
        step = asyncio.create_task(decoder.step(first, [1, 2, 3, 4, 5]))
        await begun(context, 1)
        waiting = asyncio.create_task(decoder.step(second, [7]))
        await asyncio.sleep(0)
        for task, slot in ((step, first), (waiting, second)):
            task.cancel()
            decoder.leave(slot, lambda slot=slot: given.append(slot.index))  # type: ignore[misc]  # bound
        assert given == [1]
        context.let()
        for task in (step, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
        while len(given) < 2:  # noqa: ASYNC110 - the list is all there is to look at
            await asyncio.sleep(0.001)
        assert (first.held, second.held) == ([1, 2, 3, 4], [])
        await asyncio.sleep(0.01)
        assert len(context.batches) == 1
        await decoder.aclose()

    asyncio.run(run())


def test_session_that_is_closed_under_a_waiting_step_fails_it() -> None:
    """Whoever else awaits the step of a closed session is told."""

    async def run() -> None:
        context, (slot,) = FakeContext(), slots(1)
        decoder = LlamaDecoder(context, 4)
        step = asyncio.create_task(decoder.step(slot, [1, 2, 3, 4, 5, 6]))
        await begun(context, 1)
        decoder.leave(slot, lambda: None)
        context.let()
        with pytest.raises(Unavailable, match="closed"):
            await step
        await decoder.aclose()
        assert len(context.batches) == 1

    asyncio.run(run())


def test_step_that_was_given_up_can_be_asked_for_again() -> None:
    """A step cancelled in flight is repeated from what the cache holds by then; two at once are our own bug."""

    async def run() -> None:
        context, (slot,) = FakeContext(), slots(1)
        decoder = LlamaDecoder(context, 4)
        step = asyncio.create_task(decoder.step(slot, [1, 2, 3]))
        await begun(context, 1)
        with pytest.raises(Fault, match="twice at once"):
            await decoder.step(slot, [1, 2, 3])
        step.cancel()
        await asyncio.sleep(0)
        again = asyncio.create_task(decoder.step(slot, [1, 2, 3]))
        await asyncio.sleep(0)
        with pytest.raises(Fault, match="twice at once"):
            await decoder.step(slot, [1, 2, 3])
        context.let(2)
        assert (await again).ids == (3,)
        assert context.batches[1] == [Piece(0, 2, [3], 1)]
        await decoder.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("failure", [RuntimeError("gone"), Unavailable("llama.cpp failed", code="engine_failed")])
def test_failed_batch_fails_all_who_were_in_it_and_forgets_their_caches(failure: Exception) -> None:
    """Errors reach everyone; the next step starts afresh, from the first token."""

    async def run() -> None:
        context, (first, second) = FakeContext(), slots(2)
        decoder = LlamaDecoder(context, 4)
        first.held, context.failure = [1], failure
        context.let(2)
        for outcome in await asyncio.gather(
            decoder.step(first, [1, 2]), decoder.step(second, [7]), return_exceptions=True
        ):
            assert isinstance(outcome, Unavailable)
        context.failure = None
        assert (await decoder.step(first, [1, 2])).ids == (2,)
        assert context.batches[-1] == [Piece(0, 0, [1, 2], 1)]
        await decoder.aclose()

    asyncio.run(run())


def test_closing_fails_those_who_wait_after_the_batch_that_runs() -> None:
    """Everybody is told at once; the context is freed when nothing runs in it; closing twice is safe."""

    async def run() -> None:
        context, (first, second) = FakeContext(), slots(2)
        decoder = LlamaDecoder(context, 4)
        steps = [asyncio.create_task(decoder.step(first, [1, 2, 3, 4, 5]))]
        await begun(context, 1)
        steps.append(asyncio.create_task(decoder.step(second, [7])))
        await asyncio.sleep(0)
        closing = asyncio.create_task(decoder.aclose())
        for step in steps:
            with pytest.raises(Unavailable, match="closed"):
                await asyncio.wait_for(step, 1)
        freed = [context.is_closed]
        context.let()
        await closing
        assert [*freed, context.is_closed] == [False, True]
        await decoder.aclose()
        with pytest.raises(Unavailable, match="closed"):
            await decoder.step(first, [1])
        assert len(context.batches) == 1

    asyncio.run(run())
