"""verification/selection.py: who checks what, by docs/spec/checking.md, section 2."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steelyard.errors import BadMessage
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.messages import Receipt
from steelyard.verification.parameters import SHIPPED
from steelyard.verification.selection import (
    Reason,
    Standing,
    assigned_validator,
    check_rate_ppb,
    commitment,
    is_long,
    is_selected,
    select_calls,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "checking.json").read_text())
STAKES = {bytes([index]) * 20: stake for index, stake in enumerate((100, 250, 650), 1)}
KNOWN = Standing(verdicts=50)
SECRET = keccak(b"a validator's secret")


def _receipts(count: int, units_out: int = 64, units_in: int = 10) -> list[Receipt]:
    return [
        Receipt(
            order_hash=keccak(b"order %d" % index),
            part=0,
            response_hash=ZERO32,
            evidence_hash=ZERO32,
            units_in=units_in,
            units_out=units_out,
            cost=1,
            started_ms=0,
            finished_ms=1,
            finish_reason=0,
        )
        for index in range(count)
    ]


def test_selection_is_uniform_over_receipts() -> None:
    """Of 40,000 receipts in 16 classes of hashes each class has its share drawn (chi-square, p above 10^-4)."""
    drawn: Counter[int] = Counter()
    total = 40_000
    for index in range(total):
        receipt = keccak(b"receipt %d" % index)
        if is_selected(SECRET, receipt, 100_000_000):
            drawn[receipt[0] % 16] += 1
    expected = total * 0.1 / 16
    chi_square = sum((drawn[cell] - expected) ** 2 / (expected * 0.9) for cell in range(16))
    assert chi_square < 44.3  # 15 degrees of freedom and one for the total


def test_selection_at_no_rate_draws_nothing_and_at_the_full_rate_everything() -> None:
    """The ends of the scale are exact."""
    receipts = [keccak(b"%d" % index) for index in range(200)]
    assert not any(is_selected(SECRET, receipt, 0) for receipt in receipts)
    assert all(is_selected(SECRET, receipt, 10**9) for receipt in receipts)


def test_secrets_decide_which_calls_are_drawn() -> None:
    """Two secrets draw two sets that overlap no more than by chance; one secret draws one set again."""
    receipts = _receipts(4000)
    mine = {bytes([1]) * 20: 1}
    first = {found.receipt for found in select_calls(SECRET, bytes([1]) * 20, receipts, KNOWN, mine)}
    again = {found.receipt for found in select_calls(SECRET, bytes([1]) * 20, receipts, KNOWN, mine)}
    other = {found.receipt for found in select_calls(keccak(SECRET), bytes([1]) * 20, receipts, KNOWN, mine)}
    assert first == again
    assert 15 < len(first) < 70  # 40 on average
    assert len(first & other) < 8


def test_shares_of_the_rate_add_up_to_the_whole() -> None:
    """All validators' rates together are the rate, but for rounding down; four times that when boosted."""
    for is_boosted, whole in ((False, SHIPPED.rate_ppb), (True, SHIPPED.rate_ppb * 4)):
        rates = [check_rate_ppb(stake, 1000, is_boosted) for stake in STAKES.values()]
        assert whole - len(rates) < sum(rates) <= whole
        assert rates == [whole // 10, whole // 4, whole * 65 // 100]


@pytest.mark.parametrize(("stake", "total"), [(0, 10), (10, 0), (-1, 10)])
def test_rate_without_stake_is_zero(stake: int, total: int) -> None:
    """Who has no stake checks nothing."""
    assert check_rate_ppb(stake, total) == 0


def test_newcomers_first_long_calls_are_each_checked_by_exactly_one_validator() -> None:
    """Of 80 long calls the first 50 are covered once, by stake; nobody has to know another's secret for that."""
    receipts = _receipts(80)
    drawn: Counter[bytes] = Counter()
    whose: Counter[bytes] = Counter()
    for index, validator in enumerate(STAKES):
        for found in select_calls(keccak(bytes([index])), validator, receipts, Standing(), STAKES):
            if found.reason is Reason.NEWCOMER:
                drawn[found.receipt] += 1
                whose[validator] += 1
    assert drawn == Counter({receipt.struct_hash(): 1 for receipt in receipts[:50]})
    assert whose.most_common(1)[0][0] == bytes([3]) * 20


def test_newcomers_short_calls_are_not_counted_among_the_first() -> None:
    """Short calls before them leave the first 50 long ones covered, and long ones of earlier epochs count."""
    short, long = _receipts(60, units_out=63), _receipts(60)
    everyone = {b"\x01" * 20: 1}
    found = select_calls(SECRET, b"\x01" * 20, short + long, Standing(), everyone)
    assert [one.receipt for one in found if one.reason is Reason.NEWCOMER] == [r.struct_hash() for r in long[:50]]
    late = select_calls(SECRET, b"\x01" * 20, long, Standing(), everyone, long_calls_before=45)
    assert sum(one.reason is Reason.NEWCOMER for one in late) == 5


def test_newcomers_assignment_does_not_follow_what_the_provider_writes() -> None:
    """Another finishing time makes another receipt, and the same validator."""
    first = _receipts(1)[0]
    times = [
        Receipt(**{name: getattr(first, name) for name in Receipt.__struct_fields__} | {"finished_ms": ms})
        for ms in range(20)
    ]
    for validator in STAKES:
        found = {len(select_calls(SECRET, validator, [receipt], Standing(), STAKES)) for receipt in times}
        assert len(found) == 1


def test_call_is_long_by_its_input_where_its_kind_bills_no_output() -> None:
    """Embeddings have input units alone."""
    assert is_long(_receipts(1, units_out=0, units_in=64)[0])
    assert not is_long(_receipts(1, units_out=0, units_in=63)[0])
    assert not is_long(_receipts(1, units_out=1, units_in=640)[0])


def test_fail_raises_the_rate_for_the_first_fifty_calls_of_a_lane() -> None:
    """After a FAIL four times as many of the first 50 calls are drawn, and no more of the later ones."""
    first: Counter[Reason] = Counter()
    for trial in range(400):
        receipts = _receipts(60)
        standing = Standing(verdicts=50, has_failed=True)
        for found in select_calls(keccak(b"%d" % trial), b"\x01" * 20, receipts, standing, {b"\x01" * 20: 1}):
            first[found.reason] += 1
            place = [receipt.struct_hash() for receipt in receipts].index(found.receipt)
            assert (place < 50) == (found.reason is Reason.BOOST)
    assert 700 < first[Reason.BOOST] < 900  # 800 on average
    assert 15 < first[Reason.RATE] < 70  # 40 on average


def test_assignment_follows_stake() -> None:
    """A validator with 65 % of the stake gets 65 % of the newcomers' calls."""
    rng = random.Random(5)
    counts = Counter(assigned_validator(rng.randbytes(32), STAKES) for _ in range(4000))
    assert abs(counts[bytes([3]) * 20] / 4000 - 0.65) < 0.04
    assert assigned_validator(SECRET, {}) is None


def test_secret_of_another_length_is_refused() -> None:
    """A short secret would be guessed; the error names both lengths."""
    with pytest.raises(BadMessage, match="32 bytes, not 31"):
        commitment(b"x" * 31)
    with pytest.raises(BadMessage, match="not 33"):
        select_calls(b"x" * 33, b"\x01" * 20, [], KNOWN, STAKES)


@pytest.mark.parametrize("case", VECTORS["selection"])
def test_draw_equals_the_vectors(case: dict[str, str | int]) -> None:
    """The least rate that draws a receipt draws it, and one part in a billion less does not."""
    secret, receipt = (bytes.fromhex(str(case[name])[2:]) for name in ("secret", "receipt"))
    assert is_selected(secret, receipt, int(case["least_rate_ppb"]))
    assert not is_selected(secret, receipt, int(case["least_rate_ppb"]) - 1)
