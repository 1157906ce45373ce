"""Whatever bytes stand for evidence, replays, receipts, cases, verdicts, nulls, suspicions or frames: they are read or
refused, never taken for the honest ones, and cost little memory. The long version: bench/verification/fuzz.py.
"""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "verification"
sys.path.insert(0, str(BENCH))

import fuzz_targets  # noqa: E402  # a bench is no package
from fuzz import TRACED_MOST, examples, mutate  # noqa: E402
from fuzz_targets import CLAIM, RECEIPT, TARGETS, Accepted, Target  # noqa: E402

sys.path.remove(str(BENCH))

EXAMPLES = (20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 2_000) // len(TARGETS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_fuzzed_bytes_of_every_form_are_refused_or_harmless(target: Target) -> None:
    """Mutated from valid seeds, and noise; the same ones in every run."""
    assert all(map(target.check, target.seeds))
    source = random.Random(target.name)
    tracemalloc.start()
    try:
        for data in examples(source, target.seeds, EXAMPLES):
            target.check(data)
        assert tracemalloc.get_traced_memory()[1] <= TRACED_MOST
    finally:
        tracemalloc.stop()


def test_lax_check_is_found_out_by_the_fuzzer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer can fail: with a gateway that checks no receipt, one is soon taken that nobody honest sent."""
    monkeypatch.setattr(fuzz_targets, "check_receipt", lambda *_: None)
    receipts = next(target for target in TARGETS if target.name == "receipts")
    found = examples(random.Random(1), receipts.seeds, EXAMPLES)
    with pytest.raises(Accepted):
        list(map(receipts.check, found))


def test_mutation_changes_every_part_of_a_seed() -> None:
    """No byte of the evidence or of the receipt is out of the fuzzer's reach."""
    source, seeds = random.Random(2), (CLAIM,)
    touched = set()
    for _ in range(3_000):
        data = mutate(source, seeds)
        touched |= {place for place, (new, old) in enumerate(zip(data, CLAIM, strict=False)) if new != old}
    assert touched == set(range(len(CLAIM)))
    assert RECEIPT.units_out
