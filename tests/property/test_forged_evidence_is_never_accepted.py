"""Whatever bytes a provider shows as evidence: they are refused by a named breach, or they are another receipt's."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.service_world import END, SAMPLES, LetterEngine, body, collect, ignore

from steelyard.errors import BadMessage
from steelyard.protocol.evidence import evidence_root
from steelyard.services.chat import ChatService
from steelyard.services.chat.evidence import BREACHES, MARGIN_CLIP
from steelyard.services.port import Context, Request, Result

SEED = 5


def _answer() -> tuple[ChatService, Request, Result, bytes]:
    engine = LetterEngine([*"grüß dich".encode(), END])
    service = ChatService(ChatService.describe("letters", engine.info), engine=engine)
    asyncio.run(service.prepare(ignore))
    request = service.parse("chat.completions", body(SAMPLES["chat.completions"], temperature=1))
    result, _ = asyncio.run(collect(service, request, SEED))
    return service, request, msgspec.structs.replace(result, trace=b""), service.evidence(request, result)


SERVICE, REQUEST, RESULT, HONEST = _answer()
ROOT = evidence_root(HONEST)


def _is_accepted(claimed: bytes) -> bool:
    """Whether a check finds nothing wrong with the claim itself; it never raises anything but a named breach."""
    try:
        replayed = asyncio.run(SERVICE.replay(REQUEST, RESULT, claimed, Context(seed=SEED)))
    except BadMessage as error:
        if error.code not in BREACHES:
            raise
        return False
    found = SERVICE.compare(RESULT, claimed, replayed)
    assert found.is_wellformed
    assert all(0 <= score.margin <= MARGIN_CLIP and 0 <= score.gap <= 8 for score in found.scores)
    return found.distance == 0.0


@given(st.binary(max_size=2_000))
def test_any_bytes_are_no_evidence_of_an_answer(blob: bytes) -> None:
    """Bytes at random never pass, and cost a name, not a crash."""
    assert not _is_accepted(blob)
    assert evidence_root(blob) != ROOT


@given(st.data())
def test_changed_evidence_is_a_breach_a_distance_or_not_the_signed_one(data: st.DataObject) -> None:
    """Bytes changed, cut, added or swapped: whatever is left of it does not give the root that was signed."""
    blob = bytearray(HONEST)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(blob) - 1)))
        change = data.draw(st.sampled_from(("set", "cut", "add", "swap")))
        if change == "set" and blob:
            blob[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del blob[at : at + data.draw(st.integers(1, 40))]
        elif change == "add":
            blob[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        else:
            blob[:] = blob[at:] + blob[:at]
    if bytes(blob) == HONEST:
        return
    _is_accepted(bytes(blob))
    assert evidence_root(bytes(blob)) != ROOT


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_bought_replay_of_any_bytes_is_refused_or_compared_without_a_crash(claimed: bytes, replayed: bytes) -> None:
    """A seller's answer may be anything: it is a comparison, or refused as malformed."""
    for tag in (b"", b"SYR1", b"SYB1", b"SYQ1"):
        try:
            found = SERVICE.compare(RESULT, claimed, tag + replayed)
        except BadMessage as error:
            if error.code != "evidence_malformed":
                raise
        else:
            assert not found.is_wellformed or not found.positions or found.scores
