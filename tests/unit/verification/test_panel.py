"""verification/panel.py: the Court's draw, by docs/spec/checking.md, section 9."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steelyard.errors import BadMessage
from steelyard.protocol.hashing import keccak
from steelyard.verification.panel import Revealer, draw_panel, mix_secrets

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "checking.json").read_text())


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _crowd(*weights: int) -> list[Revealer]:
    return [Revealer(bytes([i + 1]) * 20, keccak(bytes([i])), weight) for i, weight in enumerate(weights)]


@pytest.mark.parametrize("case", VECTORS["panels"])
def test_draw_equals_the_vectors(case: dict[str, Any]) -> None:
    """Mix and seats as the vectors drew them, ticket by ticket over single nano of stake."""
    revealers = [Revealer(_bytes(account), _bytes(secret), weight) for account, secret, weight in case["revealers"]]
    barred = [_bytes(account) for account in case["barred"]]
    assert mix_secrets(revealers) == _bytes(case["mix"])
    seats = draw_panel(case["case_id"], revealers, len(case["seats"]), barred=barred)
    assert seats == [_bytes(account) for account in case["seats"]]


def test_seats_follow_stake() -> None:
    """Over many cases a validator with 90 % of the stake has 90 % of the seats."""
    crowd = _crowd(90, 10)
    seats = Counter(account for case in range(500) for account in draw_panel(case, crowd, 7))
    assert abs(seats[crowd[0].account] / 3500 - 0.9) < 0.03


def test_one_secret_changes_the_whole_panel() -> None:
    """Nobody who keeps his secret knows the panel, though he knows all the others'."""
    crowd = _crowd(*range(10, 40))
    other = [*crowd[:-1], Revealer(crowd[-1].account, keccak(b"another"), crowd[-1].weight)]
    assert draw_panel(1, crowd, 15) != draw_panel(1, other, 15)


def test_accused_and_challenger_have_no_seat() -> None:
    """Whoever is barred is never drawn, but its secret stays in the mix."""
    crowd = _crowd(1000, 1, 1, 1)
    barred = [crowd[0].account]
    assert crowd[0].account not in draw_panel(5, crowd, 15, barred=barred)
    assert draw_panel(5, crowd, 15, barred=barred) != draw_panel(5, crowd[1:], 15)


def test_too_few_validators_make_no_panel() -> None:
    """The case waits."""
    assert draw_panel(1, _crowd(5, 0, 5), 7, least=3) == []
    assert draw_panel(1, [], 7) == []
    assert len(draw_panel(1, _crowd(5, 0, 5), 7, least=2)) == 7


def test_secret_of_another_length_is_refused() -> None:
    """What isn't 32 bytes was never committed."""
    with pytest.raises(BadMessage, match="32 bytes"):
        draw_panel(1, [Revealer(b"\x01" * 20, b"short", 5)], 7)
