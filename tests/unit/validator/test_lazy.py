"""Lazy validators: a PASS on what is blatantly wrong convicts, and nothing less does."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from tests.validator_world import DOMAIN, START_MS, LaneMaker, echo_checkable

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Outcome, Verdict
from steelyard.protocol.signing import SigningKey
from steelyard.protocol.verdicts_blob import PublishedVerdict
from steelyard.validator.case_file import Material
from steelyard.validator.checker import Checkable, Checked
from steelyard.validator.lazy import encode_lazy, is_blatant, judge_lazy
from steelyard.verification.betting import AnswerEvidence
from steelyard.verification.verdict import Judgement

ACCUSED = SigningKey(b"\x31" * 32)


def _answer(*, is_lie: bool) -> Material:
    lane = LaneMaker()
    return lane.materials(lane.add("what I said", is_lie=is_lie))[0]


def _verdict(
    answer: Material, outcome: Outcome = Outcome.PASS, key: SigningKey = ACCUSED, receipt: bytes = b""
) -> PublishedVerdict:
    verdict = Verdict(key.account, receipt or answer.receipt.struct_hash(), int(outcome), ZERO32, 3)
    signature = key.sign(DOMAIN.digest(verdict.struct_hash()))
    order = answer.order
    return PublishedVerdict(verdict, signature, order.provider, order.service_id, order.gateway, "rate", "", 0, 0)


def _judge(blob: bytes, *, since_s: int = 0, checkable: Checkable | None = None) -> Outcome:
    async def find(service: bytes) -> Checkable | None:
        return checkable

    return asyncio.run(judge_lazy(blob, ACCUSED.account, since_s, find, DOMAIN))


def test_pass_on_a_planted_lie_is_guilty_and_on_the_truth_is_not() -> None:
    """The juror's own replay decides; without the means to replay it abstains; what was punished before acquits."""
    lie, truth = _answer(is_lie=True), _answer(is_lie=False)
    guilty = encode_lazy(lie, _verdict(lie))
    assert _judge(guilty, checkable=echo_checkable()) is Outcome.FAIL
    assert _judge(encode_lazy(truth, _verdict(truth)), checkable=echo_checkable()) is Outcome.PASS
    assert _judge(guilty) is Outcome.ABSTAIN
    assert _judge(guilty, since_s=START_MS // 1000, checkable=echo_checkable()) is Outcome.PASS


def test_file_that_does_not_hold_the_accused_s_own_pass_acquits() -> None:
    """Another's verdict, a FAIL, another answer, a forged signature, other texts, or no file at all."""
    lie = _answer(is_lie=True)
    mine = _verdict(lie)
    changes: dict[str, Any] = {"content": b"something else"}
    wrong_texts = msgspec.structs.replace(lie, call=msgspec.structs.replace(lie.call, **changes))
    other = SigningKey(b"\x32" * 32)
    for blob in (
        encode_lazy(lie, _verdict(lie, key=other)),
        encode_lazy(lie, _verdict(lie, Outcome.FAIL)),
        encode_lazy(lie, _verdict(lie, receipt=b"\x09" * 32)),
        encode_lazy(lie, msgspec.structs.replace(mine, signature=_verdict(lie, key=other).signature)),
        encode_lazy(wrong_texts, mine),
        b"",
        b"\xc1",
    ):
        assert _judge(blob, checkable=echo_checkable()) is Outcome.PASS


def test_doubtful_answer_is_not_blatant() -> None:
    """A FAIL by 1,000 convicts nobody of laziness; one by 10^6, or a broken rule, does."""

    def checked(outcome: Outcome, log_e: float | None) -> Checked:
        evidence = None if log_e is None else AnswerEvidence(log_bets=(log_e,), tokens=64, scored=64)
        return Checked(Judgement(outcome, "improbable"), evidence)

    assert not is_blatant(checked(Outcome.PASS, None))
    assert not is_blatant(checked(Outcome.FAIL, 7.0))
    assert is_blatant(checked(Outcome.FAIL, 14.0))
    assert is_blatant(checked(Outcome.FAIL, None))
