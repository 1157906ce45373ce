"""Requests per minute."""

from __future__ import annotations

from steelyard.gateway.rate_limits import TokenBucket


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
