"""The follower against a chain in memory that grows, reorganises, lags and falls silent while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.chain.indexer import BlockEvents, FollowPolicy, Rollback, fetch_events, follow
from steelyard.errors import ChainError, ChainUnreachable
from steelyard.protocol.hashing import keccak

ADDRESS = b"\xaa" * 20


class MemoryChain:
    """The part of ChainRpc that a follower uses; after each call the next of `history` happens to it.

    `lag` hides that many of the newest blocks.
    """

    def __init__(self, length: int = 3) -> None:
        self.history: list[tuple[str, int, int]] = []
        self.blocks: list[dict[str, Any]] = []
        self.made = 0
        self.lag = 0
        self.is_silent = False
        self.max_range = 10**9
        for _ in range(length):
            self.grow(0)

    def grow(self, logs: int) -> None:
        number, parent = len(self.blocks), self.blocks[-1]["hash"] if self.blocks else "0x" + "00" * 32
        self.made += 1
        block = {
            "number": hex(number),
            "hash": "0x" + keccak(f"{self.made}".encode()).hex(),
            "parentHash": parent,
            "timestamp": hex(number * 2),
            "gasLimit": "0x1",
            "logs": [],
        }
        for index in range(logs):
            block["logs"].append(
                {
                    "address": "0x" + ADDRESS.hex(),
                    "topics": [],
                    "data": "0x" + self.made.to_bytes(4, "big").hex(),
                    "blockNumber": block["number"],
                    "blockHash": block["hash"],
                    "transactionHash": block["hash"],
                    "logIndex": hex(index),
                }
            )
        self.blocks.append(block)

    def reorganise(self, depth: int, logs: int) -> None:
        for _ in range(min(depth, len(self.blocks) - 1)):
            self.blocks.pop()
        for _ in range(depth + 1):
            self.grow(logs)

    def happen(self, name: str, first: int, second: int) -> None:
        if name == "grow":
            for _ in range(second):
                self.grow(first)
        elif name == "reorganise":
            self.reorganise(first, second)
        elif name == "lag":
            self.lag = first
        elif name == "silence":
            self.is_silent = bool(first)

    def events(self, below: int) -> list[tuple[str, str]]:
        return [(log["blockHash"], log["logIndex"]) for block in self.blocks[:below] for log in block["logs"]]

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        await asyncio.sleep(0)
        if self.is_silent:
            self.happen_next()
            raise ChainUnreachable("silent")
        shown = len(self.blocks) - self.lag if self.lag else 10**9  # one request sees one endpoint
        results = []
        for method, params in calls:
            results.append(self.answer(method, params, shown))
            self.happen_next()
        return results

    async def batch_all(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        results = await self.batch(calls)
        for result in results:
            if isinstance(result, ChainError):
                raise result
        return results

    def happen_next(self) -> None:
        if self.history:
            self.happen(*self.history.pop(0))

    def answer(self, method: str, params: Sequence[Any], shown: int) -> Any:
        seen = self.blocks[: max(1, shown)]
        if method == "eth_getBlockByNumber":
            number = len(seen) - 1 if params[0] == "latest" else int(params[0], 16)
            return seen[number] if number < len(seen) else None
        assert method == "eth_getLogs"
        start, end = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        if end - start >= self.max_range:
            return ChainError("too many", code="rpc_range_too_large")
        return [log for block in seen[start : end + 1] for log in block["logs"]]


class Reader:
    """Does what a caller must: keeps what it is handed, and drops what a rollback undoes."""

    def __init__(self) -> None:
        self.kept: list[BlockEvents] = []

    async def run(self, chain: MemoryChain, policy: FollowPolicy, clock: Any) -> None:
        steps = follow(chain, [ADDRESS], 0, policy=policy, clock=clock)  # type: ignore[arg-type]
        async for step in steps:
            if isinstance(step, Rollback):
                while self.kept and self.kept[-1].cursor != step.to:
                    self.kept.pop()
                assert step.to is None or self.kept
            else:
                assert not self.kept or step.block.number > self.kept[-1].block.number
                self.kept.append(step)

    @property
    def events(self) -> list[tuple[str, str]]:
        return [("0x" + log.block_hash.hex(), hex(log.index)) for step in self.kept for log in step.logs]


operations = st.one_of(
    st.just(("nothing", 0, 0)),
    st.tuples(st.just("grow"), st.integers(0, 2), st.integers(1, 3)),
    st.tuples(st.just("reorganise"), st.integers(1, 4), st.integers(0, 2)),
    st.tuples(st.just("lag"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("silence"), st.integers(0, 1), st.just(0)),
)


def check_history(ops: list[tuple[str, int, int]], depth: int, chunk: int) -> None:
    """Let a history happen between the reader's requests, then settle, and compare what it holds with the chain."""
    chain, reader = MemoryChain(), Reader()
    chain.history = ops
    ticks = iter(range(10**9))
    policy = FollowPolicy(depth=depth, poll_s=0.0, chunk_blocks=chunk, regress_patience_s=5.0)

    async def story() -> None:
        task = asyncio.create_task(reader.run(chain, policy, lambda: float(next(ticks))))
        while chain.history and not task.done():  # noqa: ASYNC110  # the chain in memory has no events to wait for
            await asyncio.sleep(0)
        chain.lag, chain.is_silent = 0, False
        chain.grow(1)
        settled = len(chain.blocks) - depth
        for _ in range(3_000):
            if reader.kept and reader.kept[-1].block.number == settled - 1 and reader.events == chain.events(settled):
                break
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert reader.events == chain.events(settled)

    asyncio.run(story())


@given(st.lists(operations, max_size=60), st.integers(0, 3), st.integers(1, 5))
def test_follow_any_history_ends_with_the_chains_events(
    ops: list[tuple[str, int, int]], depth: int, chunk: int
) -> None:
    """Whatever the chain did between any two requests, in the end exactly the settled events are held, in order."""
    check_history(ops, depth, chunk)


@pytest.mark.parametrize("upset", [("reorganise", 1, 1), ("reorganise", 3, 2), ("reorganise", 5, 0), ("lag", 2, 0)])
def test_follow_one_upset_at_any_moment_loses_nothing(upset: tuple[str, int, int]) -> None:
    """A reorganisation or a lagging endpoint does no harm at any of the moments of three rounds of reading."""
    for moment in range(24):
        for chunk, logs in ((2, 1), (50, 1), (50, 0)):
            quiet = [("nothing", 0, 0)] * moment
            recovery = [*[("nothing", 0, 0)] * 4, ("lag", 0, 0)]
            check_history([("grow", logs, 3), *quiet, ("grow", logs, 2), upset, *recovery], depth=0, chunk=chunk)


def test_follow_endpoint_that_refuses_ranges_gets_smaller_ones() -> None:
    """An endpoint that takes few blocks at once is asked for fewer, and nothing is missed."""
    chain, reader = MemoryChain(length=40), Reader()
    chain.grow(2)
    chain.max_range = 3

    async def story() -> None:
        task = asyncio.create_task(reader.run(chain, FollowPolicy(poll_s=0.0), lambda: 0.0))
        for _ in range(2_000):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert reader.events == chain.events(41)
    assert reader.kept[-1].block.number == 40


@pytest.mark.parametrize("max_range", [1, 3, 100])
def test_fetch_events_any_range_limit_reads_all(max_range: int) -> None:
    """An audit reads every block of the range once, however little an endpoint takes at a time."""
    chain = MemoryChain(length=1)
    for logs in (1, 0, 2, 1, 1, 0, 1):
        chain.grow(logs)
    chain.max_range = max_range

    async def story() -> list[Any]:
        parts = fetch_events(chain, [ADDRESS], 1, 6, chunk_blocks=50)  # type: ignore[arg-type]
        return [("0x" + log.block_hash.hex(), hex(log.index)) async for logs in parts for log in logs]

    assert asyncio.run(story()) == chain.events(7)


def test_fetch_events_block_that_is_too_large_alone_is_an_error() -> None:
    """If not even one block can be read the audit is told, never given less."""
    chain = MemoryChain()
    chain.max_range = 0

    async def story() -> None:
        async for _logs in fetch_events(chain, [ADDRESS], 0, 2):  # type: ignore[arg-type]
            pass

    with pytest.raises(ChainError):
        asyncio.run(story())


def test_fetch_events_endpoint_that_lags_is_an_error() -> None:
    """An endpoint that doesn't have the range's end yet would leave events out: the audit is told."""
    chain = MemoryChain(length=5)
    chain.lag = 2

    async def story() -> None:
        async for _logs in fetch_events(chain, [ADDRESS], 0, 4):  # type: ignore[arg-type]
            pass

    with pytest.raises(ChainError, match="no block 4 yet") as caught:
        asyncio.run(story())
    assert caught.value.code == "block_unknown"
