"""One check: what the provider signed and got wrong fails by name, what the validator lacks abstains, each kind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from tests.service_world import LetterEngine, collect, ignore
from tests.validator_world import SALT, SERVICE
from tests.verification_world import flat_null

from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Grade, Order, Outcome, Receipt, content_hash
from steelyard.services.chat import ChatService
from steelyard.services.embeddings import EmbeddingsService
from steelyard.services.port import Context, Service
from steelyard.validator.checker import Checkable, Checked, check_call
from steelyard.validator.gateway_client import ShownCall
from steelyard.validator.replayer import OwnReplayer
from steelyard.verification.calibration import ORDINARY, Pair, Sample, calibrate
from steelyard.verification.null import Null
from steelyard.verification.scores import PLAIN_STRATA, VECTOR_CLIPS, Regime

SEED = 11
TEXTS = [f"text {number}" for number in range(8)]


class Answer(msgspec.Struct, frozen=True):
    """A call as a check meets it, by whatever engine made it."""

    order: Order
    receipt: Receipt
    call: ShownCall
    evidence: bytes

    def check(self, checkable: Checkable | None, **changes: Any) -> Checked:
        """Check it, with some of it another's."""
        answer = msgspec.structs.replace(self, **changes)

        async def call() -> ShownCall | None:
            return answer.call

        async def evidence() -> bytes | None:
            return answer.evidence

        return asyncio.run(check_call(answer.order, answer.receipt, checkable, call, evidence))


def _chat(engine: LetterEngine) -> ChatService:
    service = ChatService(ChatService.describe("letters", engine.info), engine=engine)
    asyncio.run(service.prepare(ignore))
    return service


def _embeddings(engine: LetterEngine) -> EmbeddingsService:
    return EmbeddingsService(EmbeddingsService.describe("vectors", engine.info), engine=engine)


def _answer(service: Service, api: str, fields: dict[str, Any]) -> Answer:
    """Have a request answered, and sign for it as gateway and provider do (signatures apart)."""
    body = json.dumps({"model": "m", **fields}).encode()
    request = service.parse(api, body)
    result, _ = asyncio.run(collect(service, request, SEED))
    evidence = service.evidence(request, result)
    parties = (b"\x01" * 16, b"\x02" * 20, b"\x03" * 20, SERVICE, 1)
    order = Order(*parties, content_hash(SALT, body), ZERO32, SEED, Grade.STATISTICAL, 1, 1, 10**9, 10**13)
    root = evidence_root(evidence) if evidence else ZERO32
    counts = (result.units_in, result.units_out, 1, 1, 2, int(result.finish))
    receipt = Receipt(order.struct_hash(), 0, content_hash(SALT, result.content), root, *counts)
    return Answer(order, receipt, ShownCall(api, body, result.content, SALT), evidence)


def _chatted(engine: LetterEngine | None = None) -> Answer:
    fields = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
    return _answer(_chat(engine or LetterEngine()), "chat.completions", fields)


def _chat_check(null: Null | None) -> Checkable:
    service = _chat(LetterEngine())
    return Checkable(service, False, OwnReplayer(service, "letters 1"), null)


def _said(checked: Checked) -> tuple[Outcome, str]:
    return checked.judgement.outcome, checked.judgement.reason


def test_honest_answer_passes_and_another_models_fails() -> None:
    """By the replay's scores under a null; both open all that was signed."""
    check = _chat_check(flat_null(20_000_000))
    assert _said(_chatted().check(check)) == (Outcome.PASS, "")
    assert _said(_chatted(LetterEngine(noise=3.0)).check(check)) == (Outcome.FAIL, "improbable")


@pytest.mark.parametrize("spoil", ["garbage", "cut", "tokens"])
def test_malformed_evidence_fails_by_name_where_it_was_signed_and_abstains_where_not(spoil: str) -> None:
    """Under the receipt's root they are the provider's own word; else the relay may have spoilt them."""
    answer = _chatted()
    spoilt = {
        "garbage": b"no evidence of anything",
        "cut": answer.evidence[:-1],
        "tokens": answer.evidence[:15] + bytes([answer.evidence[15] ^ 1]) + answer.evidence[16:],
    }[spoil]
    check = _chat_check(flat_null(20_000_000))
    signed = msgspec.structs.replace(answer.receipt, evidence_hash=evidence_root(spoilt))
    outcome, reason = _said(answer.check(check, receipt=signed, evidence=spoilt))
    assert outcome is Outcome.FAIL
    assert reason == ("evidence_spelling" if spoil == "tokens" else "evidence_malformed")
    assert _said(answer.check(check, evidence=spoilt)) == (Outcome.ABSTAIN, "no_evidence")


def test_what_the_validator_lacks_abstains_even_on_another_models_answer() -> None:
    """The kind, the texts, the right texts, the model, the calibration, the evidence, a grade that can be replayed."""
    answer = _chatted(LetterEngine(noise=3.0))
    check = _chat_check(flat_null(20_000_000))
    other_text = msgspec.structs.replace(answer.call, content=b"another answer")
    weaker = msgspec.structs.replace(answer.order, grade=Grade.LOGPROBS)
    assert [
        _said(answer.check(None)),
        _said(answer.check(check, call=None)),
        _said(answer.check(check, call=other_text)),
        _said(answer.check(msgspec.structs.replace(check, replayer=None))),
        _said(answer.check(_chat_check(None))),
        _said(answer.check(check, evidence=None)),
        _said(answer.check(check, order=weaker)),
    ] == [
        (Outcome.ABSTAIN, reason)
        for reason in ("no_model", "no_call", "no_call", "no_model", "no_calibration", "no_evidence", "uncheckable")
    ]


def test_embeddings_are_judged_under_a_calibration_of_their_own() -> None:
    """Vectors of an honest engine that rounds otherwise pass, another model's fail, and fewer than four say nothing."""
    honest = _embeddings(LetterEngine())
    samples = []
    for number in range(500):
        request = honest.parse("embeddings", json.dumps({"model": "m", "input": f"question {number}"}).encode())
        result, _ = asyncio.run(collect(_embeddings(LetterEngine(noise=1e-4)), request))
        replayed = asyncio.run(honest.replay(request, result, b"", Context()))
        scores = honest.compare(result, b"", replayed).scores
        samples.append(Sample(family=ORDINARY, regime=Regime.COOL, positions=scores))
    pair = Pair(manifest="ab" * 32, provider_engine="letters 1", validator_engine="letters 1")
    null = calibrate(samples, pair, clips=VECTOR_CLIPS, strata=PLAIN_STRATA, required=(ORDINARY,))
    check = Checkable(honest, False, OwnReplayer(honest, "letters 1"), null)

    def judged(noise: float, texts: list[str]) -> tuple[Outcome, str]:
        return _said(_answer(_embeddings(LetterEngine(noise=noise)), "embeddings", {"input": texts}).check(check))

    assert judged(1e-4, TEXTS) == (Outcome.PASS, "")
    assert judged(200.0, TEXTS) == (Outcome.FAIL, "improbable")
    assert judged(200.0, TEXTS[:3]) == (Outcome.ABSTAIN, "too_few_tokens")
