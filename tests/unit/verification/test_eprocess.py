"""verification/eprocess.py: how evidence adds up, by docs/spec/checking.md, section 6."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.verification_world import counted_bets, flat_null

from steelyard.errors import BadMessage
from steelyard.verification.betting import BETS
from steelyard.verification.eprocess import (
    CELLS,
    MAX_GATEWAYS,
    MAX_GROUPS,
    Process,
    Suspicion,
    add_answer,
    decode_suspicion,
    encode_suspicion,
    is_challenge_due,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "checking.json").read_text())
ALICE, BOB, CAROL = (bytes([index]) * 20 for index in (1, 2, 3))
STRONG, NOTHING, WEAK = (10.0,) * BETS, (0.0,) * BETS, (-0.5,) * BETS


def _fold(*calls: tuple[bytes, tuple[float, ...]]) -> Suspicion:
    state = Suspicion()
    for gateway, bets in calls:
        state = add_answer(state, gateway, bets)
    return state


@pytest.mark.parametrize("case", VECTORS["processes"])
def test_process_equals_the_vectors(case: dict[str, Any]) -> None:
    """The vectors were computed from the definition: all starts, all cells, summed in plain numbers."""
    state = Suspicion()
    for step in case["steps"]:
        state = add_answer(state, bytes.fromhex(step["gateway"]), tuple(step["log_bets"]))
        assert state.log_e == pytest.approx(step["log_e"], abs=1e-9)
        assert state.log_e_without_any == pytest.approx(step["log_e_without_any"], abs=1e-9)


def test_process_begins_at_one() -> None:
    """Nothing seen is no evidence, and answers that say nothing leave it so."""
    assert Suspicion().log_e == Suspicion().log_e_without_any == 0.0
    assert _fold(*[(ALICE, NOTHING)] * 20).log_e == pytest.approx(0.0, abs=1e-12)


def test_challenge_needs_two_gateways() -> None:
    """However bad the answers to one gateway are, it can't bring a challenge about alone."""
    one = _fold(*[(ALICE, STRONG)] * 50)
    assert one.log_e > 400
    assert one.log_e_without_any == 0.0
    assert not is_challenge_due(one)
    assert is_challenge_due(_fold(*[(ALICE, STRONG), (BOB, STRONG)] * 4))


def test_challenge_falls_with_the_gateway_that_carries_it() -> None:
    """Two honest gateways' good answers don't turn into a challenge by a third one's bad ones."""
    state = _fold(*[(ALICE, STRONG), (BOB, WEAK), (CAROL, WEAK)] * 30)
    assert state.log_e > math.log(1e6)
    assert not is_challenge_due(state)


def test_process_without_a_gateway_is_the_process_of_the_others() -> None:
    """Leaving a gateway out is exactly as if it had never called, whenever it came."""
    rng = random.Random(8)
    calls = [(rng.choice((ALICE, BOB, CAROL)), tuple(rng.gauss(0, 2) for _ in range(BETS))) for _ in range(40)]
    calls = [(ALICE, NOTHING), *calls]
    state = _fold(*calls)
    for gateway, group in state.groups.items():
        others = _fold(*[call for call in calls if call[0] != gateway])
        assert state.without[group].count == others.whole.count
        assert state.without[group].log_e == pytest.approx(others.log_e, abs=1e-9)


def test_clean_past_is_no_credit() -> None:
    """After 10,000 clean answers a cheat is caught at most twice as late as at once: 14 ln(10) + ln(72) nats against
    6 ln(10) + ln(72), and starts near the change add up.
    """
    bets = counted_bets(flat_null(20_000_000), 32)
    rng = random.Random(11)

    def draw(rate: float) -> tuple[float, ...]:
        return bets[sum(rng.random() < rate for _ in range(32))]

    def until_due(state: Suspicion) -> int:
        for count in range(1, 1000):
            state = add_answer(state, (ALICE, BOB, CAROL)[count % 3], draw(0.12))
            if is_challenge_due(state):
                return count
        raise AssertionError("never")

    clean = Suspicion()
    for index in range(10_000):
        clean = add_answer(clean, (ALICE, BOB, CAROL)[index % 3], draw(0.004))
    assert clean.whole.count == 10_000
    assert clean.log_e < 1.0
    fresh = sum(until_due(Suspicion()) for _ in range(20))
    late = sum(until_due(clean) for _ in range(20))
    assert fresh < late <= 2 * fresh
    assert late / 20 < 40


def test_diluted_cheat_is_found_by_the_small_bets() -> None:
    """One strong answer in fifty honest ones adds up, though whole bets would lose it all in between."""
    honest, cheated = (-3.0,) * BETS, (8.0,) * BETS
    calls = [(ALICE if index % 2 else BOB, cheated if index % 51 < 2 else honest) for index in range(1500)]
    assert is_challenge_due(_fold(*calls))


def test_state_survives_its_bytes_and_goes_on() -> None:
    """A validator that restarts comes to the same numbers as one that doesn't."""
    before = _fold((ALICE, STRONG), (BOB, WEAK), (ALICE, WEAK))
    after = decode_suspicion(encode_suspicion(before))
    assert after == before
    assert add_answer(after, CAROL, STRONG) == add_answer(before, CAROL, STRONG)
    assert decode_suspicion(encode_suspicion(Suspicion())) == Suspicion()


def test_state_stays_small_however_many_gateways_there_are() -> None:
    """Beyond 16 groups gateways share them, beyond 256 they are not even listed; all keep being left out."""
    state = Suspicion()
    accounts = [index.to_bytes(20, "big") for index in range(300)]
    for account in accounts:
        state = add_answer(state, account, WEAK)
    assert len(state.without) == MAX_GROUPS
    assert len(state.groups) == MAX_GATEWAYS
    assert len(encode_suspicion(state)) < 32 * 1024
    counts = [state.whole.count - process.count for process in state.without]
    assert sum(counts) == 300
    assert max(counts) <= 24  # 16 each, and the 44 unlisted ones by their hashes


def test_later_gateway_joins_the_group_with_the_fewest_answers() -> None:
    """So a big gateway stays alone, and small ones share."""
    state = Suspicion()
    for index in range(16):
        for _ in range(1 if index == 5 else 3):
            state = add_answer(state, bytes([index]) * 20, WEAK)
    assert add_answer(state, b"\xaa" * 20, WEAK).groups[b"\xaa" * 20] == 5


def test_evidence_of_any_strength_stays_a_number() -> None:
    """Logarithms of a million, either way, neither overflow nor vanish."""
    for value in (1e6, -1e6):
        state = _fold(*[(ALICE, (value,) * BETS), (BOB, (value,) * BETS)] * 10)
        assert math.isfinite(state.log_e)
        assert math.isfinite(state.log_e_without_any)
        assert is_challenge_due(state) is (value > 0)
    assert state.log_e > -1  # the whole bets are lost, the starts to come are not


def test_foreign_account_and_foreign_evidence_are_refused() -> None:
    """Whatever is added has an account of 20 bytes and finite bets."""
    with pytest.raises(BadMessage, match="20 bytes"):
        add_answer(Suspicion(), b"short", NOTHING)
    with pytest.raises(BadMessage, match="finite"):
        add_answer(Suspicion(), ALICE, (math.nan,) * BETS)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (Suspicion(whole=Process(1, ())), "cells"),
        (Suspicion(whole=Process(-1, ())), "cells"),
        (Suspicion(whole=Process(1, (math.nan,) * CELLS)), "finite"),
        (Suspicion(groups={ALICE: 0}), "group"),
        (Suspicion(without=(Process(),), groups={b"x": 0}), "group"),
    ],
)
def test_state_that_cant_be_is_refused(state: Suspicion, says: str) -> None:
    """A damaged file gives an error that says what is wrong, not a wrong number later."""
    with pytest.raises(BadMessage, match=says):
        decode_suspicion(msgspec.msgpack.encode(state))


def test_state_of_garbage_is_refused() -> None:
    """Neither random bytes nor a flood of them are a state."""
    with pytest.raises(BadMessage, match="malformed"):
        decode_suspicion(b"\x00garbage")
    with pytest.raises(BadMessage, match="limit"):
        decode_suspicion(b"\x00" * (256 * 1024 + 1))
