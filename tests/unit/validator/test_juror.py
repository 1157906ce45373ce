"""How a juror judges: by what the provider signed, replayed here, and by nobody's word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.validator_world import DOMAIN, GATEWAYS, PROVIDER, SERVICE, LaneMaker, echo_checkable

from steelyard.errors import BadMessage
from steelyard.protocol.messages import Outcome
from steelyard.protocol.signing import SigningKey
from steelyard.validator.case_file import Material, decode_case, encode_case, encode_material
from steelyard.validator.checker import Checkable
from steelyard.validator.juror import judge_case


def answers(lies: Sequence[bool], gateways: Sequence[bytes] = GATEWAYS) -> list[Material]:
    """Answers over the gateways in turn, each a batch of its own."""
    lanes = [LaneMaker(gateway) for gateway in gateways]
    found = []
    for number, is_lie in enumerate(lies):
        lane = lanes[number % len(lanes)]
        found += lane.materials(lane.add(f"some words {number}", is_lie=is_lie))
    return found


def file(materials: Iterable[Material], first: int = 1) -> bytes:
    """The case file of these answers."""
    return encode_case(PROVIDER.account, SERVICE, first, [encode_material(material) for material in materials])


def vote(
    blob: bytes,
    *,
    accused: bytes = PROVIDER.account,
    claims: Iterable[tuple[bytes, int]] = (),
    checkable: Checkable | None = None,
) -> Outcome:
    """A juror's vote, with echo at hand."""
    return asyncio.run(judge_case(blob, accused, SERVICE, claims, checkable or echo_checkable(), DOMAIN))


def test_lies_over_two_gateways_are_guilty() -> None:
    """Three other results of an exact kind, so that two stay without either gateway, and honest answers between."""
    assert vote(file(answers([True, True, False, False, True]))) is Outcome.FAIL


def test_lies_over_one_gateway_alone_are_not() -> None:
    """A gateway could have made it all up with a friend: nobody is convicted on its calls only."""
    assert vote(file(answers([True] * 6, GATEWAYS[:1]))) is Outcome.PASS


def test_honest_answers_are_innocent() -> None:
    """Whatever the challenger says."""
    assert vote(file(answers([False] * 6))) is Outcome.PASS


def test_later_run_needs_more() -> None:
    """A run that begins at the millionth answer needs 10^12 times more than one from the start."""
    lies = answers([True, True])
    assert vote(file(lies)) is Outcome.FAIL
    assert vote(file(lies, first=10**6)) is Outcome.PASS


def test_claims_above_what_the_failed_answers_cost_acquit() -> None:
    """The challenger pays with its bond for asking too much, on the right lane or on another."""
    materials = answers([True, True, False])
    lane, cost = materials[0].order.lane.key, materials[0].receipt.cost
    assert vote(file(materials), claims=[(lane, cost)]) is Outcome.FAIL
    assert vote(file(materials), claims=[(lane, cost + 1)]) is Outcome.PASS
    assert vote(file(materials), claims=[(b"\x01" * 32, 1)]) is Outcome.PASS


def test_file_that_does_not_open_acquits() -> None:
    """Another provider's batch, another receipt, another signature: nothing that the accused didn't sign counts."""
    good = answers([True, True])
    stranger = SigningKey(b"\x66" * 32)
    other_signature = msgspec.structs.replace(good[0].signed, signature=stranger.sign(b"\x00" * 32))
    receipt = msgspec.structs.replace(good[0].receipt, response_hash=b"\x01" * 32)
    for bad in (
        msgspec.structs.replace(good[0], signed=other_signature),
        msgspec.structs.replace(good[0], receipt=receipt),
        msgspec.structs.replace(good[0], receipts=(b"\x01" * 32,)),
        msgspec.structs.replace(good[0], signed=good[1].signed),
        msgspec.structs.replace(good[0], claimed=b"evidence that nobody committed to"),
    ):
        assert vote(file([bad, good[1]])) is Outcome.PASS
    assert vote(file(good), accused=stranger.account) is Outcome.PASS


def test_texts_that_are_not_the_receipts_abstain() -> None:
    """The gateway's lack is not the provider's guilt: a case with such an answer decides nothing."""
    good = answers([True, True])
    call = msgspec.structs.replace(good[0].call, content=b"something else")
    assert vote(file([msgspec.structs.replace(good[0], call=call), good[1]])) is Outcome.ABSTAIN


def test_juror_without_the_kind_abstains() -> None:
    """It can't tell."""
    blob = file(answers([True, True]))
    assert asyncio.run(judge_case(blob, PROVIDER.account, SERVICE, (), None, DOMAIN)) is Outcome.ABSTAIN


def test_answer_that_stands_twice_is_refused() -> None:
    """One lie counts once."""
    [lie, other] = answers([True, True])
    with pytest.raises(BadMessage, match="twice"):
        decode_case(file([lie, lie, other]))
    assert vote(file([lie, lie, other])) is Outcome.PASS


def test_answers_that_were_punished_before_acquit() -> None:
    """One wrong is punished once: a file with an answer that a conviction covers is none."""
    materials = answers([True, True, True])
    ended_s = materials[0].receipt.finished_ms // 1000
    arguments = (file(materials), PROVIDER.account, SERVICE, (), echo_checkable(), DOMAIN)
    assert asyncio.run(judge_case(*arguments, since_s=ended_s - 1)) is Outcome.FAIL
    assert asyncio.run(judge_case(*arguments, since_s=ended_s)) is Outcome.PASS


@given(st.binary(max_size=400), st.integers(0, 4000))
def test_no_bytes_make_a_juror_stumble(noise: bytes, at: int) -> None:
    """Garbage, and a good file with bytes overwritten, convict nobody and raise nothing."""
    assert vote(noise) is Outcome.PASS
    good = file(answers([False, False, False]))
    at %= len(good)
    assert vote(good[:at] + noise + good[at + len(noise) :]) in (Outcome.PASS, Outcome.ABSTAIN)
