"""Light requests of different callers, sent to a node together where one by one they would only wait for each other.

1. While fewer than `MERGE_ABOVE` are on their way a request goes at once: nobody waits on an idle node.
2. Those that come then wait for one to come back, and go as one batch: one exchange for all.
3. A batch that fails is asked again one by one, so that nobody's request fails for another's.

Only methods that any node answers at once belong here: an answer comes when the slowest of its batch does.

Law: docs/spec/kinds/rpc.md, section 5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from steelyard.errors import Unavailable
from steelyard.services.rpc.messages import RpcItem

MERGE_ABOVE = 4
MERGE_ITEMS = 100

Answer = tuple[bytes, bytes]
"""A raw result and a raw error; one of them is empty."""

AskOne = Callable[[RpcItem], Awaitable[Answer]]
AskBatch = Callable[[Sequence[RpcItem]], Awaitable[list[Answer] | None]]
_Waiter = tuple[RpcItem, "asyncio.Future[Answer]"]


class Merger:
    """The light requests to one node.

    Args:
        ask_one, ask_batch: raise Unavailable; the second returns None where the node takes no batches.
    """

    def __init__(self, ask_one: AskOne, ask_batch: AskBatch) -> None:
        self._ask_one = ask_one
        self._ask_batch = ask_batch
        self._waiting: deque[_Waiter] = deque()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: RpcItem) -> Answer:
        """Return the raw result and the raw error of one request; raises Unavailable."""
        if self._under_way >= MERGE_ABOVE:
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._waiting.append((item, future))
            return await future
        self._under_way += 1
        try:
            return await self._ask_one(item)
        finally:
            self._end()

    async def aclose(self) -> None:
        """Let nobody wait any more."""
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            future.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self) -> None:
        """One came back: send those that wait."""
        self._under_way -= 1
        group: list[_Waiter] = []
        while self._waiting and len(group) < MERGE_ITEMS:
            item, future = self._waiting.popleft()
            if not future.done():  # else its caller hung up
                group.append((item, future))
        if group:
            self._under_way += 1
            task = asyncio.create_task(self._ask_group(group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask_group(self, group: list[_Waiter]) -> None:
        try:
            found = None
            if len(group) > 1:
                with suppress(Unavailable):
                    found = await self._ask_batch([item for item, _ in group])
            if found is None:
                await asyncio.gather(*(self._ask_alone(item, future) for item, future in group))
                return
            for (_, future), answer in zip(group, found, strict=True):
                if not future.done():
                    future.set_result(answer)
        finally:
            for _, future in group:
                future.cancel()  # does nothing to those that are done
            self._end()

    async def _ask_alone(self, item: RpcItem, future: asyncio.Future[Answer]) -> None:
        try:
            answer = await self._ask_one(item)
        except Unavailable as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(answer)
