"""The numbers of docs/spec/checking.md are the code's."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
import pytest

from steelyard.verification import betting, calibration, eprocess, scores
from steelyard.verification.economics import (
    answers_to_convict,
    conviction_odds,
    framing_odds,
    needed_floor_orders,
)
from steelyard.verification.parameters import SHIPPED
from steelyard.verification.quality import PPM, Epoch, Record, next_record, quality_ppm
from steelyard.verification.verdict import Lack

RAW = (Path(__file__).parents[3] / "docs/spec/checking.md").read_text()
PAGE = " ".join(RAW.split())


def test_spec_table_lists_every_parameter_with_its_shipped_value() -> None:
    """The table of section 10 and the struct are the same."""
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (\d+) \|", RAW, flags=re.MULTILINE))
    assert {name: int(value) for name, value in rows.items()} == msgspec.structs.asdict(SHIPPED)


def test_spec_numbers_equal_the_code() -> None:
    """Whoever changes a constant changes the page with it."""
    fractions = {1 / 64: "1/64", 1 / 32: "1/32", 1 / 16: "1/16", 1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2"}

    def spoken(values: tuple[float, ...]) -> str:
        words = [fractions.get(value, f"{value:g}") for value in values]
        return ", ".join(words[:-1]) + f" and {words[-1]}"

    for said in (
        f"edges at {spoken(scores.CHAT_STRATA.lead)} nats",
        f"edges at {spoken(scores.CHAT_STRATA.entropy)} nats",
        f"g = {spoken(calibration.UPPER_GAINS)}",
        f"at gains {spoken(betting.GAINS)}: {betting.BETS} bets",
        f"makes {eprocess.CELLS} cells",
        f"The first {eprocess.MAX_GROUPS} gateways",
        f"up to {eprocess.MAX_GATEWAYS}, join",
        f"at most {eprocess.MAX_GROUPS + 1} processes of {eprocess.CELLS}",
        f"fewer than {calibration.MIN_TOKENS} tokens",
        f"multiplied by {calibration.SAFETY_BPS / 10_000:g}",
        f"{SHIPPED.rate_ppb:,} * stake",
        f"breaks even at S = {needed_floor_orders():,.0f} R; the floor is {SHIPPED.stake_floor_orders:,}",
        f"has {quality_ppm(next_record(Record(), Epoch(passes=50))) / PPM:.0%}".replace("%", " % after 50 passes"),
        ", ".join(f"`{lack.value}`" for lack in Lack),
    ):
        assert said in PAGE, said
    assert eprocess.SIZES == (1.0, 1 / 16, 1 / 128)
    assert calibration.HIGHEST_BOUND == 0.5


@pytest.mark.parametrize("colluders", [0.10, 0.20, 0.33])
def test_spec_odds_equal_the_code(colluders: float) -> None:
    """The table of section 9 is computed."""
    framed = f"{framing_odds(colluders):.1e}".replace("e-0", "e-")
    shielded = 1 - conviction_odds(colluders)
    shown = f"{shielded:.1%}" if shielded < 0.1 else f"{shielded:.0%}"
    assert f"| {colluders:.0%} | {framed} | {shown} |".replace("%", " %") in PAGE


@pytest.mark.parametrize(("log_e", "fraction"), [(6.0, 0.01), (1.5, 1.0), (0.45, 1.0), (1.5, 0.05)])
def test_spec_answers_to_conviction_equal_the_code(log_e: float, fraction: float) -> None:
    """The table of section 10 is computed."""
    answers = answers_to_convict(log_e, fraction)
    shown = "never" if answers == math.inf else f"{answers:.0f}"
    assert f"| {log_e:g} | {fraction:.0%} | {shown} |".replace("%", " %") in PAGE
