"""Measuring honest answers for a calibration: what is asked, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from itertools import islice

import pytest
from tests.service_world import LetterEngine

from steelyard.errors import BadRequest
from steelyard.services.chat import ChatService
from steelyard.services.embeddings import EmbeddingsService
from steelyard.validator.measuring import SETTINGS, measure, write_gibberish, write_questions
from steelyard.verification.calibration import GIBBERISH, ORDINARY, Sample
from steelyard.verification.scores import Regime

PROMPTS = ("What is a steelyard?", "Why is the sky blue?")


def chat(noise: float = 0.0) -> ChatService:
    """A chat service on the little model."""
    engine = LetterEngine(noise=noise)
    return ChatService(ChatService.describe("letters", engine.info), engine=engine)


def measured(provider: ChatService, validators: dict[str, ChatService], answers: int) -> list[Sample]:
    """All samples of so many questions."""
    questions = write_questions(provider, PROMPTS, answers=answers, tokens=12, seed=3)

    async def story() -> list[Sample]:
        found = []
        async for samples in measure(provider, validators, questions, at_once=4):
            found += samples
        return found

    return asyncio.run(story())


def test_questions_are_half_gibberish_and_meet_every_setting() -> None:
    """Both families see each setting; a seed gives the same questions, another one others."""
    asked = write_questions(chat(), PROMPTS, answers=80, tokens=12, seed=3)
    assert Counter(question.family for question in asked) == {ORDINARY: 40, GIBBERISH: 40}
    for family in (ORDINARY, GIBBERISH):
        bodies = [json.loads(question.body) for question in asked if question.family == family]
        seen = {tuple(sorted((k, v) for k, v in body.items() if k.startswith(("temp", "top")))) for body in bodies}
        assert len(seen) == len(SETTINGS)
        assert all(body["max_tokens"] == 12 for body in bodies)
    assert asked == write_questions(chat(), PROMPTS, answers=80, tokens=12, seed=3)
    assert asked != write_questions(chat(), PROMPTS, answers=80, tokens=12, seed=4)


def test_gibberish_never_repeats_itself() -> None:
    """Sixty prompts are sixty."""
    source = write_gibberish(random.Random(1))
    assert len(set(islice(source, 60))) == 60


def test_honest_answers_score_nothing_under_each_validator() -> None:
    """One sample for each validator, in families of their own, in the regime of the request."""
    samples = measured(chat(), {"": chat(), "other": chat()}, 20)
    assert Counter(sample.family for sample in samples) == dict.fromkeys(
        (ORDINARY, GIBBERISH, f"{ORDINARY} other", f"{GIBBERISH} other"), 10
    )
    assert {sample.regime for sample in samples} == {Regime.COOL, Regime.HOT}
    assert all(score.is_match and score.gap == 0 for sample in samples for score in sample.positions)


def test_engines_that_differ_show_in_their_own_family_only() -> None:
    """A validator that rounds otherwise adds its differences to its family, and to no other."""
    samples = measured(chat(), {"": chat(), "other": chat(noise=0.2)}, 20)
    plain = [score for sample in samples if not sample.family.endswith("other") for score in sample.positions]
    other = [score for sample in samples if sample.family.endswith("other") for score in sample.positions]
    assert not any(score.gap for score in plain)
    assert any(score.gap for score in other)


def test_embeddings_are_asked_as_embeddings() -> None:
    """The same questions, in the kind's own body."""
    engine = LetterEngine()
    service = EmbeddingsService(EmbeddingsService.describe("letters", engine.info), engine=engine)
    asked = write_questions(service, PROMPTS, answers=4, tokens=12, seed=0)
    assert {question.api for question in asked} == {"embeddings"}
    assert json.loads(asked[0].body) == {"model": "letters", "input": PROMPTS[0]}


def test_answer_that_breaks_a_rule_is_no_calibration() -> None:
    """Engines that disagree on the tokenizer can't be calibrated, and the rule is named."""

    class Longer(ChatService):
        def evidence(self, request, result):  # type: ignore[no-untyped-def]
            return super().evidence(request, result)[:-1]

    broken = Longer(chat().manifest, engine=LetterEngine())
    with pytest.raises(BadRequest, match="evidence_malformed"):
        measured(broken, {"": chat()}, 8)
