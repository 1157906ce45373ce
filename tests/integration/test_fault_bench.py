"""The fault bench in short: each fault for two of the four kinds in turn, held to what its table states beforehand."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "faults"
MODULES = ("cases", "client", "observe", "provider", "world")
AT_ONCE = 6


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The bench's modules, which lie beside each other and import each other by name."""
    monkeypatch.syspath_prepend(str(BENCH))
    import cases
    import observe
    import provider

    yield cases, observe, provider
    for name in MODULES:
        sys.modules.pop(name, None)


def choose(cases: Any, where: set[str]) -> list[Any]:
    """Each fault of these places: streamed chat always, the other kinds by turns, alone and with a second by turns."""
    chosen = []
    for index, fault in enumerate(fault for fault in cases.FAULTS if fault.where in where):
        kinds = (cases.CHAT_STREAM, (cases.CHAT_WHOLE, cases.EMBEDDINGS, cases.RPC)[index % 3])
        for place, (case, expected) in enumerate(cases.list_cases((fault,), kinds)):
            if place % 2 == (index + place // 2) % 2:
                chosen.append((case, expected))
    return chosen


@pytest.mark.timeout(180)
@pytest.mark.parametrize("where", [{"upstream"}, {"wire", "clock"}], ids=["upstream", "wire"])
def test_fault_of_a_provider_ends_as_the_table_states(bench: Any, tmp_path: Path, where: set[str]) -> None:
    """What the client sees, the bill, the receipts and the metrics of each case are those that were written down."""
    cases, observe, provider = bench

    async def story() -> None:
        turns = asyncio.Semaphore(AT_ONCE)
        async with provider.open_provider() as scripted:

            async def play(number: int, case: Any, expected: Any) -> list[str]:
                async with turns:
                    seen = await observe.play_case(case, tmp_path / str(number), scripted)
                return [f"{case.name}: {miss}" for miss in seen.misses(expected)]

            found = await asyncio.gather(*(play(n, *one) for n, one in enumerate(choose(cases, where))))
            assert [miss for misses in found for miss in misses] == []

    asyncio.run(story())
