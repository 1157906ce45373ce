"""Work beside the beat: begun once, picked up once, and no beat waits for it."""

from __future__ import annotations

import asyncio

import pytest

from steelyard.validator.backroom import Backroom


def test_work_is_begun_once_and_picked_up_when_it_is_done() -> None:
    """Asking again while it runs begins nothing; after it was picked up the next ask begins anew."""

    async def story() -> None:
        backroom, gate, begun = Backroom(), asyncio.Event(), 0

        async def work() -> int:
            nonlocal begun
            begun += 1
            await gate.wait()
            return begun

        for _ in range(3):
            assert backroom.take("case", work) is None
            await asyncio.sleep(0)
        assert begun == 1
        gate.set()
        await asyncio.sleep(0.01)
        assert backroom.take("case", work) == 1
        assert backroom.take("case", work) is None
        await backroom.aclose()

    asyncio.run(story())


def test_one_piece_is_at_work_at_a_time() -> None:
    """Two cases take turns, in the order of asking."""

    async def story() -> None:
        backroom, running, most, order = Backroom(), 0, 0, []

        async def work(name: str) -> str:
            nonlocal running, most
            running, order[len(order) :] = running + 1, [name]
            most = max(most, running)
            await asyncio.sleep(0.005)
            running -= 1
            return name

        for name in ("a", "b", "c"):
            backroom.take(name, lambda name=name: work(name))  # type: ignore[misc]
        await asyncio.sleep(0.05)
        assert [backroom.take(name, lambda: work("never")) for name in ("a", "b", "c")] == ["a", "b", "c"]
        assert (most, order) == (1, ["a", "b", "c"])

    asyncio.run(story())


def test_failure_is_raised_once_and_then_tried_again() -> None:
    """Whoever picks it up hears of it."""

    async def story() -> None:
        backroom = Backroom()

        async def fail() -> int:
            raise ValueError("no engine")

        async def work() -> int:
            return 7

        assert backroom.take("case", fail) is None
        await asyncio.sleep(0.01)
        with pytest.raises(ValueError, match="no engine"):
            backroom.take("case", fail)
        assert backroom.take("case", work) is None
        await asyncio.sleep(0.01)
        assert backroom.take("case", work) == 7

    asyncio.run(story())
