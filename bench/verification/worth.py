"""What cheating is worth at the shipped parameters, and what framing takes: aim 5.

1. The formulas of `verification.economics`, over a grid of gains, dilutions, speeds and colluders.
2. The same with what was measured: recorded cheats, diluted by recorded honest answers, audited until the challenge.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import herd
import numpy as np
from caught import finite
from recordings import Recording
from weighing import judge_all

from steelyard.verification.economics import ev_of_cheating_nano, framing_odds, largest_order_nano
from steelyard.verification.null import Null
from steelyard.verification.parameters import SHIPPED

STAKE_NANO = 10**15
GAINS = tuple(percent / 100 for percent in range(5, 101, 5))
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ANSWERS = (1, 2, 4, 8, 16, 32, 48, 64)
COLLUDERS = (0.0, 0.1, 0.2, 0.3, 1 / 3)
FRAMERS = (0.10, 0.20, 0.33)
NODES, AUDITS = 200, 6_000
DILUTIONS = (1.0, 0.2, 0.05)


def by_formula() -> dict[str, Any]:
    """Return the highest expected value of cheating over the grid, in parts of the stake, and the odds of framing."""
    order = largest_order_nano(STAKE_NANO)
    values = {
        (gain, fraction, answers, colluders): ev_of_cheating_nano(
            order, STAKE_NANO, gain=gain, fraction=fraction, answers=answers, colluders=colluders
        ) / STAKE_NANO
        for gain, fraction, answers, colluders in product(GAINS, FRACTIONS, ANSWERS, COLLUDERS)
    }  # fmt: skip
    best = max(values, key=lambda key: values[key])
    return {
        "cases": len(values),
        "profitable": sum(value >= 0 for value in values.values()),
        "highest_value_of_stake": round(values[best], 4),
        "at": dict(zip(("gain", "fraction", "answers", "colluders"), best, strict=True)),
        "framing": {str(share): framing_odds(share) for share in FRAMERS},
    }


def by_measure(
    cheat: Recording, honest: Recording, null: Null, rng: np.random.Generator
) -> list[dict[str, Any]]:  # fmt: skip
    """Return, for each dilution, how many audited cheated answers it took until 95 of 100 were challenged, and what the
    cheat is worth then at a gain of the whole price with a third of the validators colluding.
    """
    bad, good = judge_all(cheat, null), judge_all(honest, null)
    rows = []
    for fraction in DILUTIONS:
        copies = max(1, round((1 / fraction - 1) * len(bad.factors)))
        picked = np.arange(copies) % len(good.factors) if fraction < 1 else np.array([], int)
        bets = np.concatenate([bad.log_bets, good.log_bets[picked]])
        tokens = np.concatenate([bad.tokens, good.tokens[picked]])
        run = herd.audit(bets, tokens, nodes=NODES, audits=AUDITS, rng=rng)
        audits = float(np.quantile(run.audits, 0.95, method="higher"))
        answers = audits * fraction
        worth = None
        if np.isfinite(answers):
            worth = ev_of_cheating_nano(
                largest_order_nano(STAKE_NANO), STAKE_NANO, gain=1.0, fraction=fraction, answers=answers,
                colluders=SHIPPED.colluders_bps / 10_000,
            ) / STAKE_NANO  # fmt: skip
        rows.append({
            "provider": cheat.provider, "validator": cheat.validator, "fraction": fraction,
            "cheated_answers_95": finite(answers), "value_of_stake": None if worth is None else round(worth, 4),
        })  # fmt: skip
    return rows


def measure_all(
    cheats: Sequence[Recording], honest: Recording, null: Null, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Return all dilutions of all cheats of one pair of engines."""
    return [row for cheat in cheats for row in by_measure(cheat, honest, null, rng)]
