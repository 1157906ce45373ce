"""The load: ordinary clients with small budgets, who check every answer that they get, and often hang up.

1. A key is used until its budget is spent, then the next one is made: budgets bind all the time.
2. An answer that says it is whole must be the echo of its request; anything else is a defect, whatever was broken.
3. What a client saw as cost is added up by key: no key may see more than its budget.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from steelyard.storage.database import Database
from steelyard.storage.keys import create_key

WORDS = ("scale", "weight", "yard", "hall", "merchant", "wool", "salt", "measure", "beam", "poise", "trust", "fair")
WHOLE, SLOW = "echo", "echo-slow"
REFUSALS_PER_KEY = 3


@dataclass(slots=True)
class Key:
    """An API key of the load: its budget, and what its clients saw of it."""

    name: str
    secret: str
    limit_nano: int
    seen_nano: int = 0
    refusals: int = 0


@dataclass(slots=True)
class Seen:
    """What all clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    first_piece_s: list[float] = field(default_factory=list)


class Load:
    """Clients that call until told to stop.

    Args:
        url: the gateway's base URL, ending in ``/v1``. database: the gateway's, for making keys.
        seed: of what they ask; the order of events is the machine's. rate: calls a second, all together.
        limit_nano: each key's budget. keys: how many are in use at once.
    """

    def __init__(
        self, url: str, database: Database, seed: int, *, rate: float, workers: int, limit_nano: int, keys: int = 6
    ) -> None:
        self.seen = Seen()
        self._url = url
        self._database = database
        self._draw = random.Random(seed ^ 0x10AD)
        self._pause_s = workers / rate
        self._workers = workers
        self._limit_nano = limit_nano
        self._live: list[Key] = []
        self._wanted = keys
        self._making = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Call until `stop` is set, then let what is in flight end."""
        timeout = aiohttp.ClientTimeout(total=40)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._workers):
                group.create_task(self._work(session, stop, random.Random(self._draw.random())), name=f"w{number}")

    async def _work(self, session: aiohttp.ClientSession, stop: asyncio.Event, draw: random.Random) -> None:
        while not stop.is_set():
            key = await self._key(draw)
            kind = draw.choices(("whole", "long", "stream", "hang-up"), (5, 2, 2, 1))[0]
            try:
                outcome = await (self._stream if kind in ("stream", "hang-up") else self._whole)(
                    session, key, kind, draw
                )
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                outcome = f"no answer: {type(error).__name__}"
            self.seen.outcomes[f"{kind}: {outcome}"] += 1
            if outcome == "402 budget_exceeded":
                key.refusals += 1
                if key.refusals >= REFUSALS_PER_KEY and key in self._live:
                    self._live.remove(key)
            await asyncio.sleep(draw.uniform(0, 2) * self._pause_s)

    async def _key(self, draw: random.Random) -> Key:
        async with self._making:
            while len(self._live) < self._wanted:
                name = f"soak-{len(self.seen.keys)}"
                now_ms = time.time_ns() // 1_000_000
                _, secret = await create_key(self._database, name, limit_nano=self._limit_nano, now_ms=now_ms)
                key = Key(name, secret, self._limit_nano)
                self.seen.keys.append(key)
                self._live.append(key)
        return draw.choice(self._live)

    async def _whole(self, session: aiohttp.ClientSession, key: Key, kind: str, draw: random.Random) -> str:
        text = " ".join(draw.choices(WORDS, k=draw.randint(5, 60) if kind == "whole" else 400))
        if kind == "whole":
            path, body = "/chat/completions", _chat(WHOLE, text)
        else:
            path, body = "/completions", {"model": WHOLE, "prompt": text, "max_tokens": 4000}
        async with session.post(self._url + path, json=body, headers=_headers(key)) as answer:
            said = await answer.json(content_type=None)
            if answer.status != 200:
                return self._refused(answer.status, said)
        choice = said["choices"][0]
        found = choice["message"]["content"] if kind == "whole" else choice["text"]
        if found != text:
            self.seen.wrong.append(f"{kind}: {len(found)} characters for {len(text)}, {choice['finish_reason']}")
        key.seen_nano += said["steelyard"]["cost_nano"]
        return "answered"

    async def _stream(self, session: aiohttp.ClientSession, key: Key, kind: str, draw: random.Random) -> str:
        text = " ".join(draw.choices(WORDS, k=draw.randint(10, 60)))
        leaves_after = draw.randint(1, 8) if kind == "hang-up" else None
        body = _chat(SLOW, text) | {"stream": True}
        found, is_done, failed, cost = "", False, "", 0
        begun_s = time.monotonic()
        pieces = 0
        async with session.post(self._url + "/chat/completions", json=body, headers=_headers(key)) as answer:
            if answer.status != 200:
                return self._refused(answer.status, await answer.json(content_type=None))
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    is_done = True
                    continue
                chunk = json.loads(line[6:])
                failed = failed or (chunk.get("error") or {}).get("code", "")
                cost = (chunk.get("steelyard") or {}).get("cost_nano") or cost
                for choice in chunk.get("choices", ()):
                    piece = (choice.get("delta") or {}).get("content") or ""
                    if piece and not found:
                        self.seen.first_piece_s.append(time.monotonic() - begun_s)
                    found += piece
                    pieces += bool(piece)
                if leaves_after is not None and pieces >= leaves_after:
                    answer.close()
                    return "hung up"
        key.seen_nano += cost
        if is_done and (failed or found != text):
            self.seen.wrong.append(f"stream: [DONE] after {len(found)} of {len(text)} characters, error {failed!r}")
        if not text.startswith(found):
            self.seen.wrong.append(f"stream: {len(found)} characters that are not the echo's")
        return "answered" if is_done else f"cut: {failed or 'without a word'}"

    def _refused(self, status: int, said: Any) -> str:
        code = said["error"]["code"]
        if status == 500:
            self.seen.wrong.append(f"500: {said['error']['message']}")
        return f"{status} {code}"


def _chat(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "max_tokens": 4000, "messages": [{"role": "user", "content": text}]}


def _headers(key: Key) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.secret}"}
