"""The coroutines of one link, run one after the other in the order of the messages; reading pauses while many wait.

Law: docs/spec/link.md, section 5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine

import structlog

from steelyard.errors import Fault, SteelyardError

_log = structlog.get_logger("steelyard.link")

Job = Callable[[], Coroutine[None, None, None]]


class Backlog:
    """A bounded queue of coroutines; a task exists only while there is something to do.

    Args:
        limit: jobs that may wait before `on_full`; `on_room` is called when half of them are done.
        on_error: told of the first job that failed; the rest are dropped.
    """

    def __init__(
        self,
        limit: int,
        on_error: Callable[[SteelyardError], None],
        on_full: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self._limit = limit
        self._on_error = on_error
        self._on_full = on_full
        self._on_room = on_room
        self._jobs: deque[Job] = deque()
        self._task: asyncio.Task[None] | None = None
        self.is_full = False
        self._is_closed = False

    def put(self, job: Job) -> None:
        """Run a coroutine function after those before it."""
        if self._is_closed:
            return
        self._jobs.append(job)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="link-backlog")
        if not self.is_full and len(self._jobs) >= self._limit:
            self.is_full = True
            self._on_full()

    def close(self, *, is_dropping: bool) -> None:
        """Take no more; what waits is dropped, or still done. The job that runs may be writing and is left alone."""
        self._is_closed = True
        if is_dropping:
            self._jobs.clear()

    async def join(self) -> None:
        """Wait for the jobs that are still to be done."""
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._jobs:
                await self._jobs.popleft()()
                if self.is_full and len(self._jobs) * 2 <= self._limit:
                    self.is_full = False
                    self._on_room()
        except SteelyardError as error:
            self._fail(error)
        except Exception as error:  # a supervisor: our own fault ends this link, and is logged whole
            _log.exception("link_job_failed")
            self._fail(Fault(f"{type(error).__name__} in a link's callback"))
        finally:
            self._task = None

    def _fail(self, error: SteelyardError) -> None:
        self.close(is_dropping=True)
        self._on_error(error)
