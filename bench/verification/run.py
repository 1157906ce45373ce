"""Is every promise about checking kept? One run over what was recorded, each figure beside its aim.

`make bench-verification`, or `python bench/verification/run.py [--audits 1000000] [--seed 0]`. Needs numpy and no
model. Prints a table; writes results/verification.json and results/detection.svg. What the recordings are, and how to
make more: README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import caught
import costs
import herd
import honest
import numpy as np
import worth
from caught import COARSE, FINE, OTHER_MODELS, PREFILL
from plot import draw
from recordings import Recording, load_recordings
from telling import tell_apart
from weighing import check_twin, count_bounds, judge_all, null_of, pair_of, shipped_null

from steelyard.verification.null import Null

RESULTS = Path(__file__).parent / "results"
SELECTED = ("changed", "pruned", "q2+prefill", "q3", "q3+prefill", "q4", "q4+prefill")


def nulls(recordings: Sequence[Recording]) -> dict[tuple[str, str], tuple[Null, str]]:
    """Return for each pair of engines the null that cheats are judged by, and where it comes from: the shipped one or
    that of all honest recordings, whichever was measured on more tokens.
    """
    found = {}
    for pair in sorted({pair_of(recording) for recording in recordings}):
        own, shipped = null_of(recordings, pair), shipped_null(pair)
        candidates = [(null, name) for null, name in ((shipped, "shipped"), (own, "recordings")) if null is not None]
        if candidates:
            found[pair] = max(candidates, key=lambda candidate: candidate[0].tokens)
    return found


def check_twins(recordings: Sequence[Recording], judged_by: dict[tuple[str, str], tuple[Null, str]]) -> None:
    """Hold the arrays against the product's own functions, on recorded answers."""
    for recording in recordings[:: max(1, len(recordings) // 4)]:
        null = judged_by[pair_of(recording)][0] if pair_of(recording) in judged_by else None
        if null is not None:
            check_twin(null, recording.answers[:8])
            herd.check_twin(np.clip(judge_all(recording, null).log_bets[:20], -30, 30))


def verdict_rows(result: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    """Return the table: what, its aim, what was found, and whether it is met (None: no aim, or not measured)."""
    rows: list[tuple[str, str, str, bool | None]] = []
    for row in result["cheats"]:
        rows += _cheat_rows(row)
    rows += _honest_rows(result["honest"], result["honest_totals"])
    rows += _worth_rows(result["worth"])
    rows += _cost_rows(result["costs"])
    rows += _traffic_rows(result["traffic"])
    return rows


def _cheat_rows(row: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    name, who = row["provider"], f"{row['provider']} by {row['validator']}"
    out: list[tuple[str, str, str, bool | None]] = []
    if name in OTHER_MODELS:
        one = row["within_answer"]
        share = one["share_of_simulated"]
        told = f"{one['caught']} of {one['answers']} recorded, {_percent(share, 2)} of {one['simulated']:,} from blocks"
        told += f" at their place ({_percent(one['share_from_anywhere'], 2)} from anywhere)"
        out.append((f"{who}: one answer of 64", ">= 99.9 %", told, share is not None and share >= 0.999))
    base = name.removesuffix(PREFILL)
    is_cheap_decode = name.endswith(PREFILL) and base in (*OTHER_MODELS, *COARSE)
    aim = 0.99 if base in COARSE or is_cheap_decode else None
    told = f"{_percent(row['within_1000_tokens'])}, median {_tokens(row['median_tokens'])}"
    if name.endswith(PREFILL):
        told += f"; gap alone {_percent(row['gap_alone_within_1000_tokens'])}"
    is_met = None if aim is None else row["within_1000_tokens"] >= aim
    out.append((f"{who}: 1,000 tokens", ">= 99 %" if aim else "as it is", told, is_met))
    if base in FINE and not name.endswith(PREFILL):
        out.append((f"{who}: 99 % challenged after", "as it is", _tokens(row["tokens_for_99"]), None))
    return out


def _honest_rows(rows: list[dict[str, Any]], totals: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    out: list[tuple[str, str, str, bool | None]] = []
    for row in rows:
        single, scored = _percent(row["single_threshold_convicts"]), _percent(row["scored"], 0)
        told = (
            f"{row['convicted']} in {row['audits']:,} audits, highest e {row['highest_e']:.3g}, {scored} of tokens "
            f"scored; a single threshold convicts {single}"
        )
        out.append((f"honest {row['pair']} ({row['calibrated_on']})", "0 convicted", told, row["convicted"] == 0))
    told = (
        f"{totals['convicted']} in {totals['audits']:,} audits; in each row below {totals['rate_bound_95']:.1e} an "
        f"audit (95 %), of {totals['recorded_answers']} replays of recorded answers, not of all that could be"
    )
    is_met = totals["convicted"] == 0 and totals["audits"] >= 10**6
    return [*out, ("honest, all of them", "0 in 10^6", told, is_met)]


def _worth_rows(found: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    formula = found["formula"]
    told = f"highest {formula['highest_value_of_stake']:+.3f} of the stake in {formula['cases']:,} cases"
    out: list[tuple[str, str, str, bool | None]] = [
        ("value of cheating over honesty", "< 0", told, formula["profitable"] == 0)
    ]
    odds = "  ".join(f"{float(share):.0%}: {chance:.1e}" for share, chance in formula["framing"].items())
    out.append(("framing through both stages", "reported", odds, None))
    for row in found["measured"]:
        answers, value = row["cheated_answers_95"], row["value_of_stake"]
        told = (
            "never challenged" if answers is None else f"{answers:.0f} cheated answers, worth {value:+.3f} of the stake"
        )
        has_aim = row["fraction"] == 1.0 and row["provider"].removesuffix(PREFILL) not in FINE
        aim, is_met = ("< 0", value is not None and value < 0) if has_aim else ("as it is", None)
        out.append((f"{row['provider']} by {row['validator']} on {row['fraction']:.0%} of calls", aim, told, is_met))
    return out


def _cost_rows(found: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    own = found["own"]
    told = f"{own['evidence_bytes_a_token']} bytes a token, {own['answer_us'] / 1000:.1f} ms an answer of 64"
    out: list[tuple[str, str, str, bool | None]] = [
        ("evidence and receipt", "<= 40 bytes", told, own["evidence_bytes_a_token"] <= 40)
    ]
    if "checks_of_compute" not in found:
        return [*out, ("checks, of all compute", "<= 1 %", "not measured: run overhead.py", None)]
    checks, receipts = found["checks_of_compute"], found["receipts_and_evidence_of_generation"]
    out.append(("checks at 1 %, of all compute", "<= 1 %", _percent(checks, 3), checks <= 0.01))
    out.append(("receipts and evidence, of generation", "<= 5 %", _percent(receipts, 2), receipts <= 0.05))
    slots = found["own_sampler_of_generation"]
    told = "  ".join(f"{count} slots: {_percent(share, 1)}" for count, share in slots.items())
    out.append(("owned sampler, of generation", "< 5 %", told, max(slots.values()) < 0.05))
    return out


def _traffic_rows(found: dict[str, Any] | None) -> list[tuple[str, str, str, bool | None]]:
    if found is None:
        return [("probes told from users", "AUC <= 0.55", "not recorded: run traffic.py", None)]
    return [
        (
            f"probes told from users: {name}",
            "AUC <= 0.55",
            f"{one['auc']:.3f} ({one['interval'][0]:.3f} to {one['interval'][1]:.3f}) on {found['calls']:,} calls",
            one["auc"] <= 0.55,
        )
        for name, one in found["classifiers"].items()
    ]


def _percent(share: float | None, digits: int = 1) -> str:
    return "none" if share is None else f"{100 * share:.{digits}f} %"


def _tokens(count: float | None) -> str:
    return "never" if count is None else f"{count:,.0f} tokens"


def measure(audits: int, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return all figures."""
    rng, recordings = np.random.default_rng(seed), load_recordings()
    judged_by = nulls(recordings)
    check_twins(recordings, judged_by)
    result: dict[str, Any] = {
        "nulls": [
            {"pair": " by ".join(pair), "from": name, "answers": null.answers, "tokens": null.tokens,
             "families": list(null.families), "bounds": dict(count_bounds(null))}
            for pair, (null, name) in judged_by.items()
        ]
    }  # fmt: skip
    tell("cheats")
    cheats = [found for found in recordings if not found.is_honest and pair_of(found) in judged_by]
    result["cheats"] = [caught.catch(found, judged_by[pair_of(found)][0], rng) for found in cheats]
    draw(result["cheats"], caught.CURVE, RESULTS / "detection.svg")
    tell("honest nodes")
    result["honest"] = honest.simulate(recordings, audits, rng)
    convicted, done = (sum(row[key] for row in result["honest"]) for key in ("convicted", "audits"))
    result["honest_totals"] = {
        "convicted": convicted, "audits": done,
        "rate_bound_95": max(
            (honest.rate_bound(row["convicted"], row["audits"]) for row in result["honest"]), default=1.0
        ),
        "recorded_answers": sum(len(found.answers) for found in recordings if found.is_honest),
    }  # fmt: skip
    tell("what cheating is worth")
    measured = []
    for cheat in (found for found in cheats if found.provider in SELECTED):
        pair = pair_of(cheat)
        same = next(
            (found for found in recordings if (found.provider, found.validator) == ("llama", cheat.validator)), None
        )
        if same is not None:
            measured += worth.by_measure(cheat, same, judged_by[pair][0], rng)
    result["worth"] = {"formula": worth.by_formula(), "measured": measured}
    tell("costs")
    result["costs"] = costs.shares()
    tell("telling probes from users")
    result["traffic"] = tell_apart()
    return result


def main() -> int:
    """Measure, print, keep; the exit status says whether every aim that was measured is met."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--audits", type=int, default=1_000_000, help="of honest nodes, for each pair")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    started = time.monotonic()
    result = measure(options.audits, options.seed, lambda what: print(f"… {what}", file=sys.stderr, flush=True))
    rows = verdict_rows(result)
    result["table"] = [dict(zip(("what", "aim", "found", "is_met"), row, strict=True)) for row in rows]
    width = max(len(row[0]) for row in rows)
    for what, aim, found, is_met in rows:
        print(f"{what:<{width}}  {aim:<16} {'' if is_met is None else 'yes' if is_met else 'NO':<4} {found}")
    missed = [row[0] for row in rows if row[3] is False]
    print(f"{len(missed)} of {sum(row[3] is not None for row in rows)} aims missed; {time.monotonic() - started:.0f} s")
    for row in result["cheats"]:
        del row["curve"]  # it is in the plot
    (RESULTS / "verification.json").write_text(json.dumps(result, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
