"""Whoever trades with himself, over however many accounts, pays the protocol more than rewards give back."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from steelyard.protocol.pricing import split_payment
from steelyard.protocol.rewards_blob import add_earnings
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


_trades = st.lists(
    st.tuples(
        st.integers(1, 10**15),  # what one voucher pays
        st.integers(0, 9),  # by which of his providers
        st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000)),  # his service's split
        st.integers(0, PPM),  # whatever quality he has
    ),
    min_size=1,
    max_size=30,
)


@given(_trades)
def test_trader_with_himself_loses_a_tenth_of_the_cut(
    trades: list[tuple[int, int, tuple[int, int, int], int]],
) -> None:
    """He is gateway, providers, builder and data pot at once, at any split: rewards never bring the cut back."""
    paid = got = cut = 0
    redeemed = []
    for amount, provider, cuts, quality in trades:
        first, second, third = sorted(cuts)
        split = (first, second - first, third - second, 10_000 - third)
        to_provider, to_builder, to_data, to_protocol = split_payment(amount, split)
        paid += amount
        got += to_provider + to_builder + to_data
        cut += to_protocol
        account = bytes([provider]) * 20
        redeemed.append(Redeemed(provider=account, service_id=b"s" * 32, cut_nano=to_protocol, quality_ppm=quality))
    shares = add_earnings({}, reward_weights(redeemed))
    lost = paid - got - sum(shares.values())
    assert lost * 10 >= cut
    assert lost > 0 or cut == 0
    assert sum(shares.values()) <= cut * 9 // 10  # what the contract lets any root promise of it


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
