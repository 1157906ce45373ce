"""Long work beside the beat: begun once, and picked up by a later beat when it is done.

A replay of many answers takes longer than a secret may wait for its reveal, so nothing that judges runs in the beat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Backroom:
    """Work under way, by key; `aclose` when done. One piece at a time is at work, in the order of asking."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._turn = asyncio.Lock()

    def take(self, key: Hashable, begin: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Return what the work of a key came to, once; None while it is under way, which begins with the first ask.

        Raises:
            What the work raised; the next ask begins it again.
        """
        task = self._tasks.get(key)
        if task is None:
            self._tasks[key] = asyncio.create_task(self._run(begin), name="backroom")
            return None
        if not task.done():
            return None
        del self._tasks[key]
        return task.result()  # type: ignore[no-any-return]  # what `begin` gives under this key

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def _run(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turn:
            return await begin()
