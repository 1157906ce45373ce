"""services/chat/evidence.py: 36 bytes a token, read back with suspicion."""

from __future__ import annotations

import math
import struct

import pytest

from steelyard.engines.port import Candidates
from steelyard.errors import BadMessage
from steelyard.services.chat.evidence import (
    BREACH_TAG,
    BREACHES,
    CLAIM_TAG,
    FLOOR,
    NO_TOKEN,
    REPLAY_TAG,
    ROW_BYTES,
    Finding,
    compare_rows,
    decode_claim,
    encode_breach,
    encode_claim,
    encode_replay,
    encode_row,
    entropy,
)


def margin(nats: float) -> Finding:
    """A finding with this margin."""
    return Finding(nats, 0.5, 2.0)


SEVEN = Candidates((10, 11, 12, 13, 14, 15, 16), (-0.5, -1.0, -2.0, -3.0, -4.0, -5.0, -40.0))


def test_row_holds_the_token_and_the_likeliest_five() -> None:
    """Each log-probability is kept to 1/2048 nat, in 36 bytes a token."""
    row = encode_row(SEVEN, 12)
    assert len(row) == ROW_BYTES <= 40
    found = decode_claim(encode_claim(9, row)).rows[0]
    assert (found.token_id, found.steps) == (12, 4096)
    assert found.top == ((10, 1024), (11, 2048), (12, 4096), (13, 6144), (14, 8192))


def test_row_of_a_token_that_is_unlikely_or_absent_has_the_floor() -> None:
    """Beyond 32 nats, and outside the candidates, there is one and the same worst value."""
    for token_id in (16, 999):
        assert decode_claim(encode_claim(1, encode_row(SEVEN, token_id))).rows[0].steps == FLOOR


def test_row_of_few_candidates_is_padded() -> None:
    """A vocabulary of two still fills the row."""
    top = decode_claim(encode_claim(1, encode_row(Candidates((1, 2), (-0.1, -2.4)), 1))).rows[0].top
    assert top[2:] == ((NO_TOKEN, FLOOR),) * 3


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"SYC1",
        b"XXXX" + bytes(8),
        CLAIM_TAG + bytes(4) + (1).to_bytes(4, "big"),
        CLAIM_TAG + bytes(4) + (2**32 - 1).to_bytes(4, "big") + bytes(36),
        CLAIM_TAG + bytes(8) + b"x",
        REPLAY_TAG + bytes(8),
    ],
)
def test_claim_that_is_malformed_is_refused_and_compares_as_such(blob: bytes) -> None:
    """Wrong tags, counts and lengths are named; comparing never raises on them."""
    with pytest.raises(BadMessage):
        decode_claim(blob)
    found = compare_rows(blob, encode_replay(1, b"", []))
    assert not found.is_wellformed
    assert found.reason


def test_distance_adds_probability_gaps_and_margins() -> None:
    """One nat of difference on one of two tokens, and a margin of three on the other, is two nats a token."""
    rows = encode_row(SEVEN, 10) + encode_row(SEVEN, 11)
    other = encode_row(SEVEN, 10) + encode_row(Candidates((10, 11), (-1.0, -2.0)), 11)
    found = compare_rows(encode_claim(1, rows), encode_replay(1, other, [margin(3.0), margin(0.0)]))
    assert (found.distance, found.positions) == (2.0, 2)


def test_distance_of_one_position_is_bounded() -> None:
    """One absurd row can't convict a provider by itself: a gap counts 8 nats at most."""
    rows, other = encode_row(SEVEN, 999), encode_row(SEVEN, 10)
    other = rows[:4] + other[4:]  # the same token, at the likeliest one's probability
    assert compare_rows(encode_claim(1, rows), encode_replay(1, other, [margin(0.0)])).distance == 8.0


def test_comparing_different_tokens_is_not_wellformed() -> None:
    """A replay follows the claim's own tokens; any other is a mix-up, not a distance."""
    found = compare_rows(encode_claim(1, encode_row(SEVEN, 10)), encode_replay(1, encode_row(SEVEN, 11), [margin(0.0)]))
    assert not found.is_wellformed


def test_scores_are_one_per_token_with_what_strata_need() -> None:
    """Match, clipped margin and gap, and the replay's own entropy and lead, row by row."""
    rows = encode_row(SEVEN, 10) + encode_row(SEVEN, 11)
    scores = compare_rows(encode_claim(1, rows), encode_replay(1, rows, [Finding(0.0, 1.5, 4.0), margin(3.0)])).scores
    assert [score.is_match for score in scores] == [True, False]
    assert [score.margin for score in scores] == [0.0, 3.0]
    assert (scores[0].entropy, scores[0].lead, scores[0].gap) == (1.5, 4.0, 0.0)


@pytest.mark.parametrize("code", sorted(BREACHES))
def test_replay_that_is_a_breach_compares_as_that_breach(code: str) -> None:
    """What a seller of replays found wrong is named to whoever bought it."""
    found = compare_rows(b"anything", encode_breach(code))
    assert (found.is_wellformed, found.code, found.reason) == (False, code, BREACHES[code])


@pytest.mark.parametrize(
    "numbers", [(math.nan, 0, 0), (-1.0, 0, 0), (17.0, 0, 0), (0, math.inf, 0), (0, 5.0, 0), (0, 0, math.nan)]
)
def test_bought_replay_with_an_absurd_number_is_refused(numbers: tuple[float, float, float]) -> None:
    """A seller can't slip in margins or strata that no replay has, nor a breach that there isn't."""
    row = encode_row(SEVEN, 10)
    with pytest.raises(BadMessage) as caught:
        compare_rows(encode_claim(1, row), encode_replay(1, row, [Finding(*numbers)]))
    assert caught.value.code == "evidence_malformed"
    with pytest.raises(BadMessage, match="which isn't one"):
        compare_rows(b"", BREACH_TAG + b"ugly")


def test_entropy_is_that_of_the_candidates() -> None:
    """Eight equal ones have ln 8, a certain one none; what lies beyond the candidates is left out."""
    assert entropy([-5.0] * 8) == pytest.approx(math.log(8))
    assert entropy([-0.0, -90.0]) == pytest.approx(0.0, abs=1e-12)
    assert entropy([math.log(0.25), math.log(0.75)]) == pytest.approx(0.5623, abs=1e-4)


def test_replay_costs_twelve_bytes_a_token_beyond_the_claim() -> None:
    """Findings are three float32; a claim stays within 40 bytes a token."""
    row = encode_row(SEVEN, 10)
    assert len(encode_replay(1, row, [margin(1.0)])) - len(encode_claim(1, row)) == struct.calcsize(">fff")
