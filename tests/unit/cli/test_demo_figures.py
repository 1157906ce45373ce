"""The figures of the trust demo: when a provider was treated rightly, and what a fingerprint alone would have seen."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from steelyard.cli.demo_figures import ProviderFigures, fingerprint, print_figures
from steelyard.protocol.messages import Outcome
from steelyard.verification.betting import BETS, GAINS
from steelyard.verification.eprocess import Process, Suspicion, add_answer


def figures(**changes: Any) -> ProviderFigures:
    """An honest provider whom nobody harmed."""
    values: dict[str, Any] = {
        "name": "node-1",
        "cheat": "",
        "audited": 5,
        "tokens": 300,
        "challenger_audited": 0,
        "challenger_tokens": 0,
        "verdicts": {Outcome.PASS: 5},
        "power": 0.0,
        "fingerprint_power": 0.0,
        "cases": 0,
        "is_convicted": False,
        "stake_before": 1000,
        "stake_after": 1000,
        "share_before": 0.25,
        "share_after": 0.5,
    }
    return ProviderFigures(**(values | changes))


CAUGHT = {
    "cheat": "backfill",
    "cases": 1,
    "is_convicted": True,
    "stake_after": 500,
    "share_after": 0.0,
    "power": 12.0,
    "verdicts": {Outcome.FAIL: 3},
}


@pytest.mark.parametrize(
    ("changes", "is_right"),
    [
        ({}, True),
        ({"verdicts": {Outcome.PASS: 9, Outcome.FAIL: 1}}, False),
        ({"cases": 1}, False),
        ({"stake_after": 999}, False),
        ({"share_after": 0.2}, True),
        ({"share_after": 0.1}, False),
        (CAUGHT, True),
        (CAUGHT | {"is_convicted": False}, False),
        (CAUGHT | {"stake_after": 1000}, False),
        (CAUGHT | {"share_after": 0.1}, False),
    ],
)
def test_provider_was_treated_rightly_only_if_nothing_is_amiss(changes: dict[str, Any], is_right: bool) -> None:
    """Each thing that may go wrong alone makes the demo fail."""
    assert figures(**changes).is_right is is_right


def test_table_says_yes_twice_only_if_all_is_well() -> None:
    """The closing lines and the status follow from every provider."""
    for changes, is_well in (({}, True), ({"cases": 1}, False)):
        told = io.StringIO()
        assert print_figures(Console(file=told, width=200), [figures(**changes), figures(**CAUGHT)]) is is_well
        assert "every cheat caught, slashed and out of work: yes" in told.getvalue()
        assert f"no honest provider lost anything: {'yes' if is_well else 'no'}" in told.getvalue()
        assert "a log-probability fingerprint alone catches it: no" in told.getvalue()


def test_fingerprint_is_the_same_process_on_the_gap_alone() -> None:
    """Bets on other scores don't move it; bets on the gap do."""
    assert fingerprint(Process()) == 0.0
    elsewhere = (30.0,) * (BETS - len(GAINS)) + (0.0,) * len(GAINS)
    gap = (0.0,) * (BETS - len(GAINS)) + (30.0,) * len(GAINS)
    seen = add_answer(Suspicion(), b"\x01" * 20, elsewhere).whole
    assert seen.log_e > 20
    assert fingerprint(seen) < math.log(2)
    assert fingerprint(add_answer(Suspicion(), b"\x01" * 20, gap).whole) > 20
