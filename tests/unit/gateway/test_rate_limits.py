"""Requests per minute."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from steelyard.errors import RateLimited
from steelyard.gateway import access
from steelyard.gateway.rate_limits import TokenBucket
from steelyard.storage.database import Database
from steelyard.storage.keys import ApiKey


def test_bucket_allows_its_minute_and_then_says_how_long() -> None:
    """Sixty a minute: sixty at once, then one a second."""
    bucket = TokenBucket(60, 0.0)
    assert [bucket.take(0.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(0.0) == 1.0
    assert bucket.take(0.5) == 0.5
    assert bucket.take(1.0) == 0.0


def test_bucket_never_holds_more_than_a_minute() -> None:
    """An hour of silence does not save up."""
    bucket = TokenBucket(2, 0.0)
    assert [bucket.take(3600.0) for _ in range(2)] == [0.0, 0.0]
    assert bucket.take(3600.0) > 0


def test_key_beyond_its_rate_asks_the_database_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are answered from memory until a turn can be there: else one key fills the database with refusals."""
    asked: list[str] = []
    now_s = 100.0

    async def lease(database: object, key_id: str, **terms: object) -> tuple[int, float]:
        asked.append(key_id)
        return (0, 0.5) if len(asked) == 1 else (1, 0.0)

    monkeypatch.setattr(access, "lease_turns", lease)
    database = cast(Database, SimpleNamespace(kind="postgresql"))
    keys = access.Access(database, check_s=0.5, clock=lambda: now_s, clock_ms=lambda: int(now_s * 1000))
    account = access.Account(ApiKey("k", "k", "", 120, None, None, 0, None, 0, 0), now_s, is_shared=True)

    async def story() -> None:
        nonlocal now_s
        for _ in range(100):
            with pytest.raises(RateLimited):
                await keys.take_turn(account)
        assert len(asked) == 1
        now_s += 0.51
        await keys.take_turn(account)
        assert len(asked) == 2

    asyncio.run(story())
