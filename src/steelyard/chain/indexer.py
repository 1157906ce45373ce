"""Events as blocks settle: a follower that survives reorganisations, restarts and lagging endpoints.

1. The cursor, (number, hash) of the last block that was handed out, is the caller's to keep, with what it did with it.
2. A block is handed out once it has `depth` blocks above it; with depth 0, at once.
3. Whenever the cursor's hash is no longer the chain's, a `Rollback` names the newest block that both still share,
   before anything else is handed out; the caller undoes what came after it.
4. The logs of a range count only if its last block had the same hash before and after they were read. The first look
   is in the same request as the logs: an endpoint that lags behind answers with fewer logs and no error.
5. A chain that is silent, or shorter than the cursor for a moment (an endpoint that lags), is waited for.

Law: docs/spec/money.md, section 7 (audit walks the same events).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from steelyard.chain.records import Block, Log, parse_block, parse_logs
from steelyard.chain.rpc import ChainRpc, block_call, logs_call
from steelyard.errors import ChainError, ChainUnreachable

DEFAULT_CHUNK_BLOCKS = 2_000
KEPT_CURSORS = 256


@dataclass(frozen=True, slots=True)
class Cursor:
    """A block that was handed out; `hash` is 32 bytes."""

    number: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class BlockEvents:
    """A block and the watched contracts' events in it, in order; the last block of a range comes even without any."""

    block: Block
    logs: tuple[Log, ...]

    @property
    def cursor(self) -> Cursor:
        """What to keep once the events are dealt with."""
        return Cursor(self.block.number, self.block.hash)


@dataclass(frozen=True, slots=True)
class Rollback:
    """Everything above `to` never happened; None: everything, follow began on a chain that is gone."""

    to: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowPolicy:
    """How a follower waits.

    Args:
        depth: blocks that must stand above one before it is handed out. poll_s: between looks at the chain's head.
        chunk_blocks: at most so many at once. regress_patience_s: how long a shorter chain is taken for a lagging one.
    """

    depth: int = 0
    poll_s: float = 0.5
    chunk_blocks: int = DEFAULT_CHUNK_BLOCKS
    regress_patience_s: float = 5.0


async def follow(
    rpc: ChainRpc,
    addresses: Iterable[bytes],
    from_block: int,
    *,
    cursors: Sequence[Cursor] = (),
    policy: FollowPolicy | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[BlockEvents | Rollback, None]:
    """Yield blocks with events, for ever; end it by ending the task, or with `aclose`.

    Args:
        addresses: contracts, 20 bytes each. from_block: where to begin, and where a total rollback begins anew.
        cursors: oldest first, what the caller kept; it goes on after the last. The more are kept, the nearer a
            rollback's target. clock: monotonic seconds.

    Raises:
        ChainError: the chain answers nonsense. Silence, and endpoints that lag, are waited out, never raised.
    """
    follower = _Follower(rpc, tuple(addresses), from_block, cursors, policy or FollowPolicy(), clock)
    while True:
        try:
            steps = await follower.advance()
        except ChainError as error:
            if not (isinstance(error, ChainUnreachable) or error.code == "block_unknown"):
                raise
            steps = []
        for step in steps:
            yield step
            follower.acknowledge(step)
        if not steps:
            await asyncio.sleep(follower.policy.poll_s)


async def fetch_events(
    rpc: ChainRpc,
    addresses: Iterable[bytes],
    from_block: int,
    to_block: int,
    *,
    chunk_blocks: int = DEFAULT_CHUNK_BLOCKS,
) -> AsyncGenerator[list[Log], None]:
    """Yield all events of a settled range, both ends included, a chunk at a time and in order, for an audit.

    Raises:
        ChainError: the range can't be read, even block by block, or the endpoint lags behind its end
            (``block_unknown``). ChainUnreachable: the chain is silent.
    """
    wanted, start = tuple(addresses), from_block
    while start <= to_block:
        end = min(start + chunk_blocks - 1, to_block)
        block, logs = await rpc.batch([block_call(end), logs_call(wanted, start, end)])
        if isinstance(logs, ChainError) and logs.code == "rpc_range_too_large" and end > start:
            chunk_blocks = max(1, (end - start + 1) // 2)
            continue
        for reply in (block, logs):
            if isinstance(reply, ChainError):
                raise reply
        if block is None:
            raise ChainError(f"the endpoint has no block {end} yet: it lags, ask again", code="block_unknown")
        yield parse_logs(logs)
        start = end + 1


class _Follower:
    def __init__(
        self,
        rpc: ChainRpc,
        addresses: tuple[bytes, ...],
        from_block: int,
        cursors: Sequence[Cursor],
        policy: FollowPolicy,
        clock: Callable[[], float],
    ) -> None:
        self.policy = policy
        self._rpc = rpc
        self._addresses = addresses
        self._from_block = from_block
        self._kept: deque[Cursor] = deque(cursors, maxlen=KEPT_CURSORS)
        self._clock = clock
        self._chunk_blocks = policy.chunk_blocks
        self._short_since_s: float | None = None

    def acknowledge(self, step: BlockEvents | Rollback) -> None:
        if isinstance(step, BlockEvents):
            self._kept.append(step.cursor)
        else:
            while self._kept and self._kept[-1] != step.to:
                self._kept.pop()

    async def advance(self) -> list[BlockEvents | Rollback]:
        last = self._kept[-1] if self._kept else None
        ends = [block_call("latest")] + ([block_call(last.number)] if last else [])
        head, *found = await self._rpc.batch_all(ends)
        head_block = parse_block(head)
        if last is not None and not _is_same(found[0], last):
            if found[0] is None and self._is_patient():
                return []
            return [Rollback(await self._find_shared())]
        self._short_since_s = None
        start = last.number + 1 if last else self._from_block
        settled = head_block.number - self.policy.depth
        if start > settled:
            return []
        return await self._read(start, min(start + self._chunk_blocks - 1, settled), last)

    def _is_patient(self) -> bool:
        now_s = self._clock()
        if self._short_since_s is None:
            self._short_since_s = now_s
        return now_s - self._short_since_s < self.policy.regress_patience_s

    async def _find_shared(self) -> Cursor | None:
        kept = list(self._kept)
        found = await self._rpc.batch_all([block_call(cursor.number) for cursor in kept])
        shared = [cursor for cursor, reply in zip(kept, found, strict=True) if _is_same(reply, cursor)]
        return shared[-1] if shared else None

    async def _read(self, start: int, end: int, last: Cursor | None) -> list[BlockEvents | Rollback]:
        before, found = await self._rpc.batch([block_call(end), logs_call(self._addresses, start, end)])
        if isinstance(found, ChainError):
            if found.code != "rpc_range_too_large" or end == start:
                raise found
            self._chunk_blocks = max(1, (end - start + 1) // 2)
            return await self._read(start, start + self._chunk_blocks - 1, last)
        if isinstance(before, ChainError):
            raise before
        if before is None:
            return []
        logs = parse_logs(found)
        numbers = sorted({log.block_number for log in logs} | {end})
        calls = [block_call(number) for number in numbers] + ([block_call(last.number)] if last else [])
        replies = await self._rpc.batch_all(calls)
        if any(reply is None for reply in replies):
            return []
        if last is not None and not _is_same(replies.pop(), last):
            return []
        blocks = {block.number: block for block in map(parse_block, replies)}
        is_settled = blocks[end].hash == parse_block(before).hash
        if not is_settled or any(log.block_hash != blocks[log.block_number].hash for log in logs):
            return []  # the chain moved while it was read: look again
        by_block = {number: tuple(group) for number, group in groupby(logs, key=lambda log: log.block_number)}
        self._chunk_blocks = min(self.policy.chunk_blocks, self._chunk_blocks * 2)
        return [BlockEvents(blocks[number], by_block.get(number, ())) for number in numbers]


def _is_same(reply: object, cursor: Cursor) -> bool:
    return reply is not None and parse_block(reply).hash == cursor.hash
