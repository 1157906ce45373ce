"""verification/quality.py: the record and the rewards, by docs/spec/checking.md, section 8."""

from __future__ import annotations

import pytest

from steelyard.errors import BadMessage
from steelyard.protocol.messages import Outcome
from steelyard.verification.quality import (
    PPM,
    Epoch,
    Record,
    Redeemed,
    count_verdicts,
    next_record,
    quality_ppm,
    reward_weights,
)


def _after(*epochs: Epoch) -> Record:
    record = Record()
    for epoch in epochs:
        record = next_record(record, epoch)
    return record


def test_newcomer_begins_with_little_and_earns_it() -> None:
    """One twentieth at first, almost three quarters after the first 50 passes, more than nine tenths after 500."""
    assert quality_ppm(Record()) == PPM // 20
    assert quality_ppm(_after(Epoch(passes=50))) == 728_571
    assert quality_ppm(_after(Epoch(passes=500))) > 950_000


def test_fail_weighs_as_much_as_twenty_passes() -> None:
    """Twenty passes and a fail leave half of what the passes alone were worth."""
    assert quality_ppm(_after(Epoch(passes=200, fails=10))) < quality_ppm(_after(Epoch(passes=200))) * 6 // 10


def test_record_halves_in_168_epochs() -> None:
    """The half-life is the one that the page states."""
    record = _after(Epoch(passes=1000), *[Epoch()] * 168)
    assert record.passes_ppm == pytest.approx(500 * PPM, rel=1e-3)


def test_forgetting_lets_a_failed_provider_recover_slowly() -> None:
    """A FAIL is still felt after a hundred epochs of passes, and no more after two thousand."""
    good, bad = [Epoch(passes=2)] * 100, Epoch(fails=5)
    assert quality_ppm(_after(bad, *good)) < quality_ppm(_after(*good)) - 50_000
    assert quality_ppm(_after(bad, *good * 20)) > quality_ppm(_after(*good * 20)) - 1000


def test_barred_provider_has_no_quality() -> None:
    """While a challenge is open nobody sends traffic for quality's sake; its record is kept."""
    record = next_record(_after(Epoch(passes=500)), Epoch(passes=1), is_barred=True)
    assert quality_ppm(record) == 0
    assert quality_ppm(next_record(record, Epoch())) > 900_000


def test_abstentions_count_for_nothing_and_probes_count_as_passes_or_misses() -> None:
    """Only what was seen is counted."""
    epoch = count_verdicts([Outcome.PASS, Outcome.ABSTAIN, Outcome.FAIL, Outcome.PASS], 3, 4)
    assert epoch == Epoch(passes=2, fails=1, probes_answered=3, probes_failed=4)
    record = _after(epoch)
    assert (record.passes_ppm, record.fails_ppm) == (5 * PPM, 24 * PPM)


def test_reward_is_the_cut_times_quality_and_sums_over_services() -> None:
    """Ninety per cent of the cut at full quality, in proportion below, rounded down for each service."""
    entries = [
        Redeemed(provider=b"b" * 20, service_id=b"1" * 32, cut_nano=1001, quality_ppm=PPM),
        Redeemed(provider=b"a" * 20, service_id=b"1" * 32, cut_nano=1000, quality_ppm=500_000),
        Redeemed(provider=b"b" * 20, service_id=b"2" * 32, cut_nano=10, quality_ppm=0),
    ]
    assert list(reward_weights(entries).items()) == [(b"a" * 20, 450), (b"b" * 20, 900)]


@pytest.mark.parametrize(("cut", "quality"), [(-1, 0), (1, -1), (1, PPM + 1)])
def test_impossible_reward_is_refused(cut: int, quality: int) -> None:
    """Quality lies between nothing and everything."""
    with pytest.raises(BadMessage):
        reward_weights([Redeemed(provider=b"a" * 20, service_id=b"1" * 32, cut_nano=cut, quality_ppm=quality)])
