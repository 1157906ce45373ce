"""protocol/rendezvous.py: a weighted choice that anyone recomputes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.protocol.rendezvous import rendezvous_order

CROWD = [(bytes([i]) * 20, 100) for i in range(9)] + [(b"\xff" * 20, 200)]
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rendezvous.json").read_text())["cases"]


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: str(case["name"]))
def test_order_equals_the_vectors(case: dict[str, Any]) -> None:
    """Whoever computes with other numbers than a double's finds the same order, in whatever order the crowd came."""
    seed = bytes.fromhex(case["seed"][2:])
    crowd = [(bytes.fromhex(candidate[2:]), weight) for candidate, weight in case["candidates"]]
    for given in (crowd, crowd[::-1]):
        assert ["0x" + candidate.hex() for candidate in rendezvous_order(seed, given)] == case["order"]


def test_choice_follows_the_weights() -> None:
    """Over 4,000 seeds, a candidate of twice the weight wins about twice as often as each other."""
    wins = {candidate: 0 for candidate, _ in CROWD}
    for number in range(4000):
        wins[rendezvous_order(number.to_bytes(4, "big"), CROWD)[0]] += 1
    light = sum(count for candidate, count in wins.items() if candidate != b"\xff" * 20) / 9
    assert 1.7 < wins[b"\xff" * 20] / light < 2.3


def test_choice_without_one_candidate_moves_only_its_share() -> None:
    """Removing a candidate changes the winner only where it had won."""
    for number in range(200):
        seed = number.to_bytes(4, "big")
        first, second = rendezvous_order(seed, CROWD)[:2]
        without = [pair for pair in CROWD if pair[0] != first]
        assert rendezvous_order(seed, without)[0] == second


def test_choice_leaves_out_weightless_candidates() -> None:
    """A weight of zero or less is never chosen."""
    assert rendezvous_order(b"s", [(b"a" * 20, 0), (b"b" * 20, -1)]) == []
