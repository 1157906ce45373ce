"""Write checking.json: `python tests/vectors/build_checking.py`. By definitions, in exact fractions or plain sums.

Nothing of steelyard.verification is used: this is a second reading of docs/spec/checking.md.
"""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

HERE = Path(__file__).parent
GAINS = [Fraction(1, 4), *(Fraction(4**power) for power in range(7))]
SIZES = [1.0, 1 / 16, 1 / 128]


def big_log(value: Fraction) -> float:
    """Return the natural logarithm of a fraction of any size."""
    shift = value.numerator.bit_length() - value.denominator.bit_length()
    return math.log(value / Fraction(2) ** shift) + shift * math.log(2)


def build_answers() -> list[dict[str, Any]]:
    """Return answers under one bound for all scores, with each bet as a product of exact factors."""
    rng, cases = random.Random(20), []
    for bound_ppb, count, wrong in ((1_000, 5, 0.5), (20_000_000, 64, 0.0), (20_000_000, 64, 0.5), (400_000_000, 9, 1)):
        rows: list[list[Any]] = []
        for _ in range(count):
            bad = rng.random() < wrong
            rows.append([not bad, rng.randrange(1, 96) / 32 if bad else 0.0, rng.randrange(0, 40) / 32, 0.5, 1.0])
        if count == 5:
            rows.append([False, -1.0, 0.0, 0.5, 1.0])  # says nothing
        bets = []
        for score in range(3):
            for gain in GAINS:
                value = Fraction(1)
                for match, margin, gap, _, _ in rows[:count]:
                    x = [Fraction(not match), min(Fraction(1), Fraction(margin)), min(Fraction(1), Fraction(gap))][
                        score
                    ]
                    value *= (1 + gain * x) / (1 + gain * Fraction(bound_ppb, 10**9))
                bets.append(value)
        mean = sum(bets) / len(bets)
        cases.append(
            {
                "bound_ppb": bound_ppb,
                "positions": rows,
                "tokens": len(rows),
                "scored": count,
                "log_bets": [big_log(value) for value in bets],
                "log_e": big_log(mean),
                "p_value": float(min(Fraction(1), 1 / mean)),
            }
        )
    return cases


def process_value(calls: list[list[float]]) -> float:
    """Return the e-process of some answers' bets: the mean over cells of the sum over starts of weighted products."""
    values, total = [], len(calls)
    for size in SIZES:
        for bet in range(len(calls[0]) if calls else 0):
            factors = [1 - size + size * math.exp(bets[bet]) for bets in calls]
            starts = [math.prod(factors[start:]) / ((start + 1) * (start + 2)) for start in range(total)]
            values.append(math.fsum(starts) + 1 / (total + 1))
    return math.fsum(values) / len(values) if values else 1.0


def build_processes() -> list[dict[str, Any]]:
    """Return sequences of answers of three gateways with the process after each, in all and without the worst one."""
    rng, cases = random.Random(21), []
    for drift in (-0.5, 0.0, 2.0):
        steps: list[dict[str, Any]] = []
        for index in range(6):
            gateway = (bytes([1 + index % 3]) * 20).hex()
            steps.append({"gateway": gateway, "log_bets": [round(rng.gauss(drift, 1.5), 3) for _ in range(24)]})
            seen = {step["gateway"] for step in steps}
            steps[-1]["log_e"] = math.log(process_value([step["log_bets"] for step in steps]))
            steps[-1]["log_e_without_any"] = min(
                math.log(process_value([step["log_bets"] for step in steps if step["gateway"] != left_out]))
                for left_out in seen
            )
        cases.append({"steps": steps})
    return cases


def build_selection() -> list[dict[str, Any]]:
    """Return draws of one secret at several rates, in whole numbers."""
    secret = keccak(b"steelyard checking secret")
    cases = []
    for index in range(12):
        receipt = keccak(b"receipt %d" % index)
        draw = int.from_bytes(keccak(secret + receipt), "big")
        least = draw * 10**9 // 2**256 + 1  # the least rate that draws it
        cases.append({"secret": "0x" + secret.hex(), "receipt": "0x" + receipt.hex(), "least_rate_ppb": least})
    return cases


def build_panels() -> list[dict[str, Any]]:
    """Return draws of 7 and 15 seats, with and without barred accounts, ticket by ticket."""
    people = [
        (bytes([9 - index]) * 20, keccak(b"secret %d" % index), weight)
        for index, weight in enumerate((5, 0, 90, 40, 7))
    ]
    cases = []
    for case_id, seats, barred in ((1, 7, []), (2**64, 15, [people[2][0]]), (3, 7, [people[0][0], people[3][0]])):
        mix = bytes(32)
        for _, secret, weight in people:
            mix = keccak(mix + secret) if weight else mix
        seed = keccak(case_id.to_bytes(32, "big") + mix)
        line = [account for account, _, weight in people if account not in barred for _ in range(weight)]
        drawn = [
            line[int.from_bytes(keccak(seed + seat.to_bytes(32, "big")), "big") % len(line)] for seat in range(seats)
        ]
        cases.append(
            {
                "case_id": case_id,
                "revealers": [["0x" + a.hex(), "0x" + s.hex(), w] for a, s, w in people],
                "barred": ["0x" + account.hex() for account in barred],
                "mix": "0x" + mix.hex(),
                "seats": ["0x" + account.hex() for account in drawn],
            }
        )
    return cases


def main() -> None:
    """Write the file beside this script."""
    content = {
        "law": "docs/spec/checking.md",
        "gains": [float(gain) for gain in GAINS],
        "sizes": SIZES,
        "answers": build_answers(),
        "processes": build_processes(),
        "selection": build_selection(),
        "panels": build_panels(),
    }
    (HERE / "checking.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
