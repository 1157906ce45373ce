"""A lane's receipts on their way to batches: whole ones share a write, and none waits longer than the delay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.link_world import DOMAIN, PROVIDER_KEY, build_order, until

from steelyard.errors import Fault
from steelyard.node.lane_account import LaneAccount, LaneTools, Leaf
from steelyard.node.settings import NodeSettings
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState
from steelyard.protocol.messages import Receipt
from steelyard.storage.operations import Operation

NOW_MS = 1_000_000
DELAY_S = 0.05


class _Writer:
    """Notes how many batches each write holds; the first one fails if it shall."""

    def __init__(self, error: Exception | None = None, pause_s: float = 0.0) -> None:
        self.writes: list[int] = []
        self.pause_s = pause_s
        self._error = error

    async def submit_flushed(self, operation: Operation) -> None:
        await asyncio.sleep(self.pause_s)
        if self._error is not None:
            raise self._error
        self.writes.append(sum(1 for statement, _ in operation.steps if statement.name == "insert node_batches"))


def _leaf(number: int) -> Leaf:
    order = build_order(number.to_bytes(16, "big"), NOW_MS + 10_000)
    receipt = Receipt(order.struct_hash(), 0, ZERO32, ZERO32, 1, 1, 3, NOW_MS, NOW_MS, 0)
    return Leaf(order, order.struct_hash(), b"t" * 16, receipt, receipt.struct_hash(), None)  # type: ignore[arg-type]


def _tell(
    story: Callable[[LaneAccount], Coroutine[Any, Any, None]], writer: _Writer
) -> tuple[LaneAccount, list[BaseException]]:
    crashes: list[BaseException] = []

    async def tell() -> LaneAccount:
        settings = NodeSettings(batch_delay_s=DELAY_S)
        tools = LaneTools(PROVIDER_KEY, DOMAIN, None, writer, settings, crashes.append, lambda: NOW_MS)  # type: ignore[arg-type]
        account = LaneAccount(tools, LaneState(lane=_leaf(0).order.lane), is_new=True)
        await story(account)
        return account

    return asyncio.run(tell()), crashes


def test_whole_batches_share_a_write_and_the_rest_waits_for_its_own() -> None:
    """150 receipts at once: two batches of 64 in one write, then one of 22."""

    async def story(account: LaneAccount) -> None:
        for number in range(150):
            account.add(_leaf(number))
        await until(lambda: account.state.seq == 2)
        assert (account.state.seq, account.state.count, account.state.cumulative) == (2, 128, 384)
        await until(lambda: account.state.count == 150)
        assert account.state.seq == 3

    writer = _Writer()
    _tell(story, writer)
    assert writer.writes == [2, 1]


def test_receipts_that_come_during_a_write_are_written_too() -> None:
    """Nothing starts a timer while the disk is slow, and still nothing is left behind."""

    async def story(account: LaneAccount) -> None:
        account.add(_leaf(0))
        await asyncio.sleep(DELAY_S + 0.01)
        account.add(_leaf(1))
        account.add(_leaf(2))
        await until(lambda: account.state.count == 3)

    writer = _Writer(pause_s=0.03)
    account, _ = _tell(story, writer)
    assert writer.writes == [1, 1]
    assert account.state.seq == 2


def test_flush_writes_everything_in_order() -> None:
    """What is left over goes too, in one write, and the totals are those of all."""

    async def story(account: LaneAccount) -> None:
        for number in range(100):
            account.add(_leaf(number))
        await account.flush()

    writer = _Writer()
    account, _ = _tell(story, writer)
    assert writer.writes == [2]
    assert (account.state.seq, account.state.count) == (2, 100)


@pytest.mark.parametrize("receipts", [1, 100])
def test_write_that_fails_stops_the_node_and_advances_nothing(receipts: int) -> None:
    """The process is told once; the lane stands where it stood, and nothing is tried again."""

    async def story(account: LaneAccount) -> None:
        for number in range(receipts):
            account.add(_leaf(number))
        await asyncio.sleep(3 * DELAY_S)

    account, crashes = _tell(story, _Writer(Fault("the disk is gone")))
    assert len(crashes) == 1
    assert account.state.seq == 0
