"""protocol/sampler.py: a choice that anyone recomputes, by docs/spec/sampler.md."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steelyard.protocol.sampler import MARGIN_CLIP, MASK_EDGE, SAMPLER, SamplerParams, gumbel, judge, margin, sample

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "sampler.json").read_text())
FOUR = ([5, 6, 7, 8], [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)])


def _by_the_law(case: dict[str, Any]) -> tuple[int, dict[int, float]]:
    """Sections 2 to 4 of the law, read word for word: the choice, and each survivor's score in nats."""
    ranked = sorted(zip(case["ids"], case["logprobs"], strict=True), key=lambda pair: (-pair[1], pair[0]))[:64]
    temperature = case["temperature"]
    if temperature < 2**-10:
        return ranked[0][0], dict(ranked)
    kept = ranked[: case["top_k"] or 64]
    if case["top_p"] < 1:
        weights = [math.exp((logprob - kept[0][1]) / temperature) for _, logprob in kept]
        before = [math.fsum(weights[:index]) for index in range(len(weights))]
        kept = [pair for pair, mass in zip(kept, before, strict=True) if mass < case["top_p"] * math.fsum(weights)]
    scores = {}
    for token_id, logprob in kept:
        data = b"steelyard/sampler/1" + case["seed"].to_bytes(8, "big") + case["position"].to_bytes(4, "big")
        number = int.from_bytes(hashlib.sha256(data + token_id.to_bytes(4, "big")).digest()[:8], "big") // 2**12
        scores[token_id] = logprob + temperature * -math.log(-math.log((number + 0.5) / 2**52))
    return max(scores, key=lambda token_id: (scores[token_id], -token_id)), scores


def _params(case: dict[str, Any]) -> SamplerParams:
    return SamplerParams(case["temperature"], case["top_p"], case["top_k"])


def test_vectors_name_the_sampler_that_we_ship() -> None:
    """The file of vectors is of this rule and no other."""
    assert VECTORS["sampler"] == SAMPLER


@pytest.mark.parametrize("case", VECTORS["gumbel"])
def test_noise_equals_the_vectors(case: dict[str, Any]) -> None:
    """Seed, position and token id give the noise that the vectors say."""
    assert gumbel(case["seed"], case["position"], case["token_id"]) == pytest.approx(case["value"], abs=1e-12)


@pytest.mark.parametrize("case", VECTORS["sample"])
def test_choice_equals_the_vectors_and_the_law_read_word_for_word(case: dict[str, Any]) -> None:
    """The module, the vectors and a second reading of the law choose the same token."""
    chosen = sample(case["ids"], case["logprobs"], _params(case), case["seed"], case["position"])
    assert chosen == case["choice"] == _by_the_law(case)[0]


@pytest.mark.parametrize("case", VECTORS["margin"])
def test_margin_equals_the_vectors_and_the_law_read_word_for_word(case: dict[str, Any]) -> None:
    """The module, the vectors and a second reading of the law give the same margin."""
    of = VECTORS["sample"][case["sample"]]
    found = margin(of["ids"], of["logprobs"], _params(of), of["seed"], of["position"], case["token_id"])
    scores = _by_the_law(of)[1]
    by_law = min(MARGIN_CLIP, max(scores.values()) - scores.get(case["token_id"], -math.inf))
    assert found == pytest.approx(case["margin"], abs=1e-12)
    assert found == pytest.approx(by_law, abs=1e-9)


def test_choices_over_many_seeds_follow_the_tempered_probabilities() -> None:
    """Over 6,000 seeds each token is drawn about as often as its tempered probability says."""
    for temperature in (1.0, 2.0):
        wins = Counter(sample(*FOUR, SamplerParams(temperature), seed, 0) for seed in range(6000))
        weights = [math.exp(logprob / temperature) for logprob in FOUR[1]]
        for token_id, weight in zip(FOUR[0], weights, strict=True):
            assert wins[token_id] / 6000 == pytest.approx(weight / sum(weights), abs=0.025)


def test_choice_under_top_p_never_leaves_the_mass() -> None:
    """With top_p 0.79 only the two tokens that make up 80 percent are ever drawn."""
    assert {sample(*FOUR, SamplerParams(top_p=0.79), seed, 0) for seed in range(500)} == {5, 6}
    assert {sample(*FOUR, SamplerParams(top_p=0.81), seed, 0) for seed in range(500)} == {5, 6, 7}


def test_choice_at_temperature_zero_is_the_likeliest_and_the_lowest_of_equals() -> None:
    """Greedy decoding needs no noise; a tie goes to the lower token id."""
    assert sample([9, 3, 7], [-1.0, -1.0, -2.0], SamplerParams(0.0), 1, 1) == 3


def test_choice_among_no_candidates_is_refused() -> None:
    """An engine that gives nothing, or lists of different lengths, is an error and never a guess."""
    with pytest.raises(ValueError, match="no candidates"):
        sample([], [], SamplerParams(), 1, 1)
    with pytest.raises(ValueError, match="shorter"):
        sample([1, 2], [-1.0], SamplerParams(), 1, 1)


def _with_gap_at_second(gap: float) -> list[float]:
    """Three log-probabilities of which the second and third lie `gap` nats apart."""
    return [-0.7, -1.2, -1.2 - gap]


def _seed_that_chooses(token_id: int, logprobs: list[float], params: SamplerParams) -> int:
    return next(seed for seed in range(10_000) if sample([1, 2, 3], logprobs, params, seed, 0) == token_id)


@pytest.mark.parametrize(("gap", "is_near"), [(MASK_EDGE / 2, True), (MASK_EDGE * 2, False)])
def test_choice_at_the_edge_of_top_k_has_no_lead(gap: float, is_near: bool) -> None:
    """The last survivor has a lead only if the first candidate beyond lies half a nat away."""
    params, logprobs = SamplerParams(1.0, 1.0, 2), _with_gap_at_second(gap)
    seed = _seed_that_chooses(2, logprobs, params)
    assert (judge([1, 2, 3], logprobs, params, seed, 0, 2)[1] == 0.0) is is_near


@pytest.mark.parametrize(("top_p", "is_near"), [(0.65, True), (0.9, False)])
def test_choice_at_the_edge_of_top_p_has_no_lead(top_p: float, is_near: bool) -> None:
    """With 0.6 before it, the second candidate hangs on the mask at 0.65 and not at 0.9."""
    params, logprobs = SamplerParams(1.0, top_p), [math.log(p) for p in (0.6, 0.399, 0.001)]
    seed = _seed_that_chooses(2, logprobs, params)
    assert (judge([1, 2, 3], logprobs, params, seed, 0, 2)[1] == 0.0) is is_near


def test_choice_that_a_masked_candidate_would_have_beaten_has_no_lead() -> None:
    """The likeliest token has no lead where one just beyond the mask has the higher score."""
    open_, masked, logprobs = SamplerParams(1.0), SamplerParams(1.0, 0.58), [math.log(p) for p in (0.6, 0.399, 0.001)]
    seed = _seed_that_chooses(2, logprobs, open_)
    assert judge([1, 2, 3], logprobs, masked, seed, 0, 1) == (0.0, 0.0)


def test_last_of_sixty_four_has_no_lead() -> None:
    """Beyond the 64th there may be one as likely that no checker sees."""
    ids, logprobs = list(range(64)), [math.log(1 / 64)] * 64
    seed = next(seed for seed in range(1000) if sample(ids, logprobs, SamplerParams(1.0), seed, 0) == 40)
    assert judge(ids, logprobs, SamplerParams(1.0), seed, 0, 40)[1] == 0.0
    assert judge(ids[:63], logprobs[:63], SamplerParams(1.0), seed, 0, 40)[1] > 0.0


def test_greedy_choice_has_no_mask() -> None:
    """Below the greedy temperature top_k and top_p change nothing, and the lead is that of the likeliest."""
    assert judge([1, 2], [-0.5, -0.75], SamplerParams(0.0, 0.5, 1), 0, 0, 2) == (0.25, 0.25)
