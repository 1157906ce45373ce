"""Whoever trades with himself, over however many accounts, pays the protocol more than rewards give back."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from steelyard.verification.quality import PPM, Epoch, Record, Redeemed, next_record, quality_ppm, reward_weights

_accounts = st.integers(0, 9).map(lambda index: bytes([index]) * 20)
_entries = st.lists(
    st.builds(
        Redeemed,
        provider=_accounts,
        service_id=st.integers(0, 2).map(lambda index: bytes([index]) * 32),
        cut_nano=st.integers(0, 10**18),
        quality_ppm=st.integers(0, PPM),
    ),
    max_size=30,
)
_epochs = st.builds(
    Epoch,
    passes=st.integers(0, 10**9),
    fails=st.integers(0, 10**6),
    probes_answered=st.integers(0, 10**6),
    probes_failed=st.integers(0, 10**6),
)


@given(_entries, st.sets(_accounts))
def test_coalition_gets_at_most_nine_tenths_of_what_it_paid(entries: list[Redeemed], coalition: set[bytes]) -> None:
    """For any set of providers, among any others: the rest of the market can't make it a profit."""
    rewards = reward_weights(entries)
    paid = sum(entry.cut_nano for entry in entries if entry.provider in coalition)
    got = sum(amount for provider, amount in rewards.items() if provider in coalition)
    assert got * 10 <= paid * 9
    assert got < paid or paid == 0


@given(st.integers(0, 10**18), st.integers(0, PPM), st.lists(st.integers(1, 100), min_size=1, max_size=9))
def test_splitting_into_accounts_never_raises_a_reward(cut: int, quality: int, shares: list[int]) -> None:
    """One account gets at least what the same redemptions give over many, each of the same quality."""
    parts = [cut * share // sum(shares) for share in shares]
    many = [
        Redeemed(provider=bytes([at]) * 20, service_id=b"s" * 32, cut_nano=part, quality_ppm=quality)
        for at, part in enumerate(parts)
    ]
    one = [Redeemed(provider=b"x" * 20, service_id=b"s" * 32, cut_nano=cut, quality_ppm=quality)]
    assert sum(reward_weights(many).values()) <= sum(reward_weights(one).values())


@given(_entries)
def test_rewards_do_not_depend_on_the_order_of_redemptions(entries: list[Redeemed]) -> None:
    """Anyone who recomputes them gets the same list, byte for byte."""
    assert list(reward_weights(entries).items()) == list(reward_weights(entries[::-1]).items())


@given(st.lists(_epochs, max_size=12), _epochs)
def test_quality_stays_in_its_range_and_follows_the_verdicts(history: list[Epoch], last: Epoch) -> None:
    """From 0 to 1, higher with a pass more, lower with a fail more, never above what a perfect record gives."""
    record = Record()
    for epoch in history:
        record = next_record(record, epoch)
    found, better, worse = (
        quality_ppm(
            next_record(record, msgspec.structs.replace(last, passes=last.passes + more, fails=last.fails + bad))
        )
        for more, bad in ((0, 0), (1, 0), (0, 1))
    )
    assert 0 <= worse <= found <= better < PPM
