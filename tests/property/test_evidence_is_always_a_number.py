"""No replay, claim or bound, however extreme, leads to an infinity, a not-a-number or an exception."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from tests.verification_world import Position, flat_null

from steelyard.errors import BadMessage
from steelyard.verification.betting import BETS, weigh_answer
from steelyard.verification.eprocess import Suspicion, add_answer, decode_suspicion, encode_suspicion
from steelyard.verification.null import decode_null
from steelyard.verification.scores import Regime

_any = st.floats()
_positions = st.lists(st.builds(Position, st.booleans(), _any, _any, _any, _any), max_size=40)
_bounds = st.none() | st.integers(1, 10**9)
_logs = st.floats(-1e12, 1e12)


@given(_positions, _bounds, st.sampled_from(Regime))
def test_any_positions_give_finite_bets(positions: list[Position], bound: int | None, regime: Regime) -> None:
    """Every float there is, infinities and not-a-numbers included."""
    found = weigh_answer(flat_null(bound), regime, positions)
    assert all(map(math.isfinite, found.log_bets))
    assert math.isfinite(found.log_e)
    assert 0.0 <= found.p_value <= 1.0
    assert found.scored <= found.tokens == len(positions)


@given(
    st.lists(st.tuples(st.binary(min_size=20, max_size=20), st.lists(_logs, min_size=BETS, max_size=BETS)), max_size=8)
)
def test_any_finite_bets_keep_the_process_finite_and_above_its_floor(calls: list[tuple[bytes, list[float]]]) -> None:
    """After t answers the process is at least 1/(t+1): what is lost before can't stop a later start."""
    state = Suspicion()
    for count, (gateway, bets) in enumerate(calls, 1):
        state = add_answer(state, gateway, tuple(bets))
        assert math.isfinite(state.log_e)
        assert math.isfinite(state.log_e_without_any)
        assert state.log_e >= -math.log(count + 1) - 1e-9
    assert decode_suspicion(encode_suspicion(state)) == state


@given(st.binary(max_size=200))
def test_any_bytes_are_a_state_and_a_null_or_refused(blob: bytes) -> None:
    """Decoding ends in a value or in BadMessage, never in anything else."""
    for decode in (decode_suspicion, decode_null):
        try:
            decode(blob)
        except BadMessage:
            continue
