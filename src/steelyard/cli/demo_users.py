"""Users of the trust demo: they chat over every gateway through the stock `openai` client, and note who answered."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from steelyard.cli.demo_calls import find_stock_client
from steelyard.cli.local_network import Network
from steelyard.errors import Unavailable
from steelyard.validator.probes import load_prompts

MAX_TOKENS = 80
EACH = 2
"""Users of one gateway."""
TEMPERATURES = (0.0, 0.7, 1.0)
WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class UserCall:
    """An answered call as its user saw it."""

    gateway: str
    provider: bytes
    tokens: int


class Users:
    """People who ask and ask, until the ``async with`` block ends; `pause_s` lies between one's calls."""

    def __init__(self, network: Network, model: str) -> None:
        open_client = find_stock_client()
        self.calls: list[UserCall] = []
        self.pause_s = 0.0
        self._model = model
        self._prompts = load_prompts()
        self._clients: dict[str, Any] = {
            name: open_client(base_url=url, api_key=network.keys[name], max_retries=1)
            for name, url in network.base_urls.items()
        }
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Users:
        for name in self._clients:
            self._tasks += [asyncio.create_task(self._ask_on(name, number)) for number in range(EACH)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    @property
    def count(self) -> int:
        """How many they are: so many calls are on their way at most."""
        return len(self._tasks)

    def check(self) -> None:
        """Raise what a user's call ended with, if one did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def until(self, count: int) -> None:
        """Wait until so many calls were answered in all."""
        deadline = time.monotonic() + WAIT_S
        while len(self.calls) < count:
            self.check()
            if time.monotonic() > deadline:
                raise Unavailable(f"{len(self.calls)} of {count} calls were answered in {WAIT_S:.0f} s")
            await asyncio.sleep(0.2)

    async def _ask_on(self, gateway: str, number: int) -> None:
        chance = random.Random(f"{gateway} {number}")  # noqa: S311  # a user's whims
        while True:
            answer = await self._clients[gateway].chat.completions.create(
                model=self._model,
                max_tokens=MAX_TOKENS,
                temperature=chance.choice(TEMPERATURES),
                messages=[{"role": "user", "content": chance.choice(self._prompts)}],
            )
            tokens = answer.usage.completion_tokens
            self.calls.append(UserCall(gateway, bytes.fromhex(answer.steelyard["provider"][2:]), tokens))
            await asyncio.sleep(self.pause_s)
