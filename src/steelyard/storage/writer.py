"""The group writer: the hot path hands over its writes and goes on; one transaction carries what gathered meanwhile.

1. `submit` never waits. `submit_flushed` returns once the operation is committed: what must not leave the process
   before it is on disk (a voucher, a batch) goes that way, and such a group survives a power cut too; the others
   survive the death of the process.
2. A group starts at once when the writer is idle, else `gather_s` after the one before, or twice that while nobody
   awaits what is queued; it holds whatever was queued by then.
3. The queue is bounded: a full one is `Unavailable`, which the caller sees.
4. One refused operation never takes the others of its group with it, and never disappears: it is raised to whoever
   awaits it, else handed to `on_failure`.
5. If the database itself fails, nothing more is accepted and `on_crash` is called, which has to stop the process.

Law: docs/spec/storage.md, section 4.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from steelyard.errors import Fault, Unavailable
from steelyard.storage.database import Database
from steelyard.storage.operations import Operation

_FLUSH = Operation(steps=())


class GroupBackend(Protocol):
    """Writes one group in one transaction; one implementation per database."""

    async def write(self, operations: list[Operation], *, is_awaited: bool) -> dict[int, Exception]:
        """Commit the operations; return those that were refused, by their index in the list.

        `is_awaited`: the commit must be on the disk itself, not only in the operating system's hands.
        Raises anything only if the database itself fails, so that nothing of the group may be relied on.
        """
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class GroupWriter:
    """The one writer of a process; `open_writer` makes it, `aclose` flushes it."""

    def __init__(
        self,
        backend: GroupBackend,
        *,
        on_failure: Callable[[Operation, Fault], None],
        on_crash: Callable[[BaseException], None],
        capacity: int = 20_000,
        gather_s: float = 0.004,
        group_size: int = 2_000,
    ) -> None:
        self._backend = backend
        self._on_failure = on_failure
        self._on_crash = on_crash
        self._capacity = capacity
        self._gather_s = gather_s
        self._group_size = group_size
        self._queue: deque[tuple[Operation, asyncio.Future[None] | None]] = deque()
        self._awaited = 0
        self._wake = asyncio.Event()
        self._refusal: str | None = None
        self._task = asyncio.create_task(self._run(), name="group-writer")

    @property
    def queued(self) -> int:
        """Return how many operations wait for a group: a gauge for metrics."""
        return len(self._queue)

    def submit(self, operation: Operation) -> None:
        """Queue an operation and return at once.

        Raises:
            Unavailable: the queue is full, or the writer is closed or crashed.
        """
        self._enqueue(operation, None)

    async def submit_flushed(self, operation: Operation) -> None:
        """Queue an operation and return once it is committed.

        Raises:
            Fault: the database refused it (a double insert, a total that would fall); code `write_refused`.
            Unavailable: the queue is full, or the writer is closed or crashed.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue(operation, done)
        await done  # a caller that goes away cancels this future alone: the write stays queued

    async def flush(self) -> None:
        """Return once everything submitted before is committed or has been handed to `on_failure`."""
        await self.submit_flushed(_FLUSH)

    async def aclose(self) -> None:
        """Flush, then stop; later submits are refused. Safe to call twice."""
        if self._refusal is None:
            try:
                await self.flush()
            finally:
                self._refusal = "the writer is closed"
        self._wake.set()
        try:
            await self._task
        finally:
            await self._backend.aclose()

    def _enqueue(self, operation: Operation, done: asyncio.Future[None] | None) -> None:
        if self._refusal is not None:
            raise Unavailable(self._refusal, code="storage_unavailable")
        if len(self._queue) >= self._capacity:
            raise Unavailable(
                f"{self._capacity} writes wait for the database already: retry in a second",
                code="storage_busy",
                retry_after_s=1.0,
            )
        self._queue.append((operation, done))
        if done is not None:
            self._awaited += 1
        if not self._wake.is_set():
            self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        started_s = -math.inf
        while self._refusal is None or self._queue:
            await self._wake.wait()
            await self._gather(started_s)
            started_s = loop.time()
            group = [self._queue.popleft() for _ in range(min(len(self._queue), self._group_size))]
            if not self._queue and self._refusal is None:
                self._wake.clear()
            if group:
                awaited = sum(done is not None for _, done in group)
                self._awaited -= awaited
                try:
                    refused = await self._backend.write([operation for operation, _ in group], is_awaited=awaited > 0)
                except BaseException as error:
                    self._crash(group, error)
                    if isinstance(error, asyncio.CancelledError):
                        raise
                    return
                self._resolve(group, refused)

    async def _gather(self, started_s: float) -> None:
        loop = asyncio.get_running_loop()
        for due_s in (started_s + self._gather_s, started_s + 2 * self._gather_s):
            delay_s = due_s - loop.time()
            if delay_s > 0 and self._refusal is None:
                await asyncio.sleep(delay_s)
            if self._awaited:
                return

    def _resolve(
        self, group: list[tuple[Operation, asyncio.Future[None] | None]], refused: dict[int, Exception]
    ) -> None:
        for index, (operation, done) in enumerate(group):
            cause = refused.get(index)
            if cause is None:
                if done is not None and not done.done():
                    done.set_result(None)
                continue
            fault = Fault(f"{operation.name} was refused: {cause}", code="write_refused")
            fault.__cause__ = cause
            if done is not None and not done.done():
                done.set_exception(fault)
            else:
                self._on_failure(operation, fault)

    def _crash(self, group: list[tuple[Operation, asyncio.Future[None] | None]], error: BaseException) -> None:
        self._refusal = "the database failed, this process is stopping"
        for _, done in (*group, *self._queue):
            if done is not None and not done.done():
                done.set_exception(Unavailable(self._refusal, code="storage_unavailable"))
        self._queue.clear()
        self._on_crash(error)


async def open_writer(
    database: Database,
    *,
    on_failure: Callable[[Operation, Fault], None],
    on_crash: Callable[[BaseException], None],
    capacity: int = 20_000,
    gather_s: float = 0.004,
) -> GroupWriter:
    """Return a running writer on its own connection.

    Args:
        database: open and migrated; the writer is closed before it.
        on_failure: told of each fire-and-forget operation that the database refused; must not raise.
        on_crash: told once that the database failed; stops the process loudly.
        capacity: operations that may wait before `submit` refuses.
        gather_s: the least time between the starts of two groups, at most 0.005; twice that while nobody awaits.
    """
    backend: GroupBackend
    if database.kind == "sqlite":
        from steelyard.storage.writer_sqlite import open_sqlite_backend

        backend = await open_sqlite_backend(database)
    else:
        from steelyard.storage.writer_postgresql import open_postgresql_backend

        backend = await open_postgresql_backend(database)
    return GroupWriter(backend, on_failure=on_failure, on_crash=on_crash, capacity=capacity, gather_s=gather_s)
