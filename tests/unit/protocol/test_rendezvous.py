"""protocol/rendezvous.py: a weighted choice that anyone recomputes."""

from __future__ import annotations

from steelyard.protocol.rendezvous import rendezvous_order

CROWD = [(bytes([i]) * 20, 100) for i in range(9)] + [(b"\xff" * 20, 200)]


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
