"""verification/calibration.py: from honest answers to bounds, by docs/spec/checking.md, section 4."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.verification_world import PAIR, Position

from steelyard.errors import BadRequest
from steelyard.verification.calibration import GIBBERISH, ORDINARY, Sample, calibrate, upper_mean
from steelyard.verification.null import PPB, decode_null, encode_null
from steelyard.verification.scores import PLAIN_STRATA, Regime


def _sample(family: str, positions: list[Position], regime: Regime = Regime.COOL) -> Sample:
    return Sample(family=family, regime=regime, positions=tuple(positions))


def _token(lead: float, wrong: bool = False, entropy: float = 0.5) -> Position:
    return Position(not wrong, 0.1 if wrong else 0.0, 0.001, entropy, lead)


def test_upper_bound_of_no_events_is_the_rule_of_the_logarithm() -> None:
    """With nothing seen in n tokens the bound is about (ln(1/chance) + ln(bets)) / n."""
    assert upper_mean(Counter({0: 10_000}), 1e-9) == pytest.approx(23.1 / 10_000, rel=0.1)
    assert upper_mean(Counter(), 1e-9) == 1.0
    assert upper_mean(Counter({1024: 50}), 1e-9) == 1.0


def test_upper_bound_shrinks_to_the_mean() -> None:
    """A hundred times as many tokens bring the bound nearer to what was seen."""
    few, many = (upper_mean(Counter({0: 90 * n, 1024: 10 * n}), 1e-9) for n in (10, 1000))
    assert 0.1 < many < 0.11 < few < 0.2


def test_upper_bound_covers_the_mean() -> None:
    """At a chance of 1 % hardly any of 500 calibrations falls below the true mean, and a naive mean does half the
    time.
    """
    rng, low, naive = random.Random(3), 0, 0
    for _ in range(500):
        seen = sum(rng.random() < 0.05 for _ in range(400))
        tally = Counter({0: 400 - seen, 1024: seen})
        low += upper_mean(tally, 0.01) < 0.05
        naive += seen / 400 < 0.05
    assert low <= 8
    assert naive > 150


def test_token_is_judged_by_nearer_ties_than_its_own() -> None:
    """What was seen at smaller leads bounds a bin, not what was seen in it; the nearest bin has no bound."""
    positions = [_token(0.3) for _ in range(5000)] + [_token(3.0, wrong=True) for _ in range(5000)]
    null = calibrate([_sample(family, positions) for family in (ORDINARY, GIBBERISH)], PAIR)
    mismatch = null.bounds_ppb[0][Regime.COOL]
    assert mismatch[:6] == (None,) * 6  # nothing was measured nearer than 0.3
    assert mismatch[6] == mismatch[7] == mismatch[8]
    assert mismatch[8] is not None
    assert mismatch[8] < 0.011 * PPB


def test_stratum_with_too_few_tokens_has_no_bound() -> None:
    """Ninety-nine tokens of a family are not enough, a hundred are."""
    for count, is_bound in ((99, False), (100, True)):
        rows = [_token(0.01)] * count + [_token(3.0)]
        null = calibrate([_sample(family, rows) for family in (ORDINARY, GIBBERISH)], PAIR)
        assert (null.bounds_ppb[0][Regime.COOL][8] is not None) is is_bound


def test_worst_family_sets_the_bound() -> None:
    """Gibberish that confuses honest machines raises the bound for all, and a family that lacks a stratum closes it."""
    calm, confused = [_token(0.01)] * 2000, [_token(0.01)] * 1800 + [_token(0.01, wrong=True)] * 200
    mild = calibrate([_sample(ORDINARY, calm), _sample(GIBBERISH, calm)], PAIR)
    wild = calibrate([_sample(ORDINARY, calm), _sample(GIBBERISH, confused)], PAIR)
    bounds = [null.bounds_ppb[0][Regime.COOL][8] for null in (mild, wild)]
    assert None not in bounds
    assert (bounds[1] or 0) > 0.2 * PPB > (bounds[0] or 0)
    lacking = calibrate([_sample(ORDINARY, calm), _sample(GIBBERISH, confused, Regime.HOT)], PAIR)
    assert lacking.bounds_ppb[0][Regime.COOL][8] is None


def test_stratum_where_honest_machines_often_differ_has_no_bound() -> None:
    """A bound above one half is none."""
    rows = [_token(0.01, wrong=index % 3 == 0) for index in range(5000)]
    null = calibrate([_sample(family, rows) for family in (ORDINARY, GIBBERISH)], PAIR)
    assert null.bounds_ppb[0][Regime.COOL][8] is None
    assert null.bounds_ppb[1][Regime.COOL][8] is not None  # the margins are small


def test_kind_without_candidates_has_one_bin_that_bounds_itself() -> None:
    """Vectors have neither lead nor entropy."""
    rows = [Position(True, 1e-6, 100.0, 0.0, 0.0)] * 4000
    null = calibrate([_sample(ORDINARY, rows)], PAIR, strata=PLAIN_STRATA, required=(ORDINARY,))
    assert all(null.bounds_ppb[score][Regime.COOL][0] is not None for score in (0, 1))


def test_calibration_without_gibberish_is_refused() -> None:
    """Adversarial prompts are part of every calibration of text; the error says so."""
    with pytest.raises(BadRequest, match="gibberish"):
        calibrate([_sample(ORDINARY, [_token(1.0)])], PAIR)
    with pytest.raises(BadRequest, match="no tokens"):
        calibrate([_sample(ORDINARY, []), _sample(GIBBERISH, [])], PAIR)


def test_calibration_names_its_pair_and_survives_its_json() -> None:
    """Engines, manifest, families and counts stand in the blob."""
    null = calibrate([_sample(family, [_token(1.0)] * 10) for family in (GIBBERISH, ORDINARY)], PAIR)
    assert (null.manifest, null.provider_engine, null.validator_engine) == ("ab" * 32, "toy 1/one", "toy 1/other")
    assert (null.families, null.answers, null.tokens) == ((GIBBERISH, ORDINARY), 2, 20)
    assert decode_null(encode_null(null)) == null
