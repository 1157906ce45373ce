"""Who may serve a call, and who should, by what its caller asks: all pure."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from steelyard.errors import NotFound, Unavailable
from steelyard.gateway.choice import Candidate, behind, is_quantised_as, misfit, nearness, place, refuse_all
from steelyard.gateway.preferences import Preferences

A, B, C = (bytes([number]) * 20 for number in range(1, 4))


def _candidate(provider: bytes = A, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "price_in": 100,
        "price_out": 200,
        "cost_nano": 300,
        "quantisation": "Q8_0",
        "region": "eu-west-1",
        "unit_s": 0.1,
        "first_s": 0.2,
    }
    return Candidate(provider, **{**values, **changes})


@pytest.mark.parametrize(
    ("wished", "word"),
    [
        (Preferences(ignore=frozenset([A])), "`ignore`"),
        (Preferences(only=frozenset([B])), "`only`"),
        (Preferences(only=frozenset([A]), ignore=frozenset([A])), "`ignore`"),
        (Preferences(order=(B,), allow_fallbacks=False), "`order`"),
        (Preferences(region="us", allow_fallbacks=False), "region"),
        (Preferences(region="eu-west-1-a", allow_fallbacks=False), "region"),
        (Preferences(quantizations=("int4", "q4_0")), "Q8_0"),
        (Preferences(max_in_nano=99), "max_price.prompt"),
        (Preferences(max_out_nano=199), "max_price.completion"),
        (Preferences(max_cost_nano=299), "max_price.request"),
    ],
)
def test_candidate_that_is_not_what_was_asked_is_told_why(wished: Preferences, word: str) -> None:
    """Each wish excludes by itself, and the reason has its name."""
    assert word in misfit(wished, _candidate())


@pytest.mark.parametrize(
    "wished",
    [
        Preferences(),
        Preferences(only=frozenset([A, B])),
        Preferences(order=(B,)),
        Preferences(order=(B, A), allow_fallbacks=False),
        Preferences(region="us"),
        Preferences(region="eu-west", allow_fallbacks=False),
        Preferences(quantizations=("int4", "int8")),
        Preferences(quantizations=("q8_0",)),
        Preferences(max_in_nano=100, max_out_nano=200, max_cost_nano=300),
        Preferences(sort="price", allow_fallbacks=False),
    ],
)
def test_candidate_that_is_what_was_asked_may_serve(wished: Preferences) -> None:
    """Limits are inclusive, and what only prefers excludes nobody."""
    assert misfit(wished, _candidate()) == ""


@pytest.mark.parametrize(
    ("word", "own", "is_same"),
    [
        ("int8", "Q8_0", True),
        ("int4", "Q4_K_M", True),
        ("int4", "IQ4_XS", True),
        ("int4", "Q8_0", False),
        ("fp16", "F16", True),
        ("bf16", "BF16", True),
        ("fp16", "BF16", False),
        ("fp32", "F32", True),
        ("unknown", "none", True),
        ("unknown", "Q8_0", False),
        ("q5_k_m", "Q5_K_M", True),
    ],
)
def test_quantisation_has_openrouter_s_words_and_its_own(word: str, own: str, is_same: bool) -> None:
    """int8 is what llama.cpp calls Q8_0; any other word is the manifest's own, in either case."""
    assert is_quantised_as(word, own) is is_same


@pytest.mark.parametrize(
    ("asked", "stated", "shared"),
    [("eu", "eu-west-1", 1), ("eu-west", "eu-west-1", 2), ("eu-west", "eu-north", 1), ("eu", "eur", 0), ("eu", "", 0)],
)
def test_nearness_counts_whole_parts(asked: str, stated: str, shared: int) -> None:
    """`eu` is not the beginning of `eur`."""
    assert nearness(asked, stated) == shared


def test_place_puts_order_before_region_before_sort() -> None:
    """Named ones first as they are named, then the nearest, then the cheapest."""
    wished = Preferences(order=(C,), region="eu-west", sort="price")
    crowd = [
        _candidate(A, region="us", cost_nano=1),
        _candidate(B, region="eu-north", cost_nano=9),
        _candidate(b"\x04" * 20, region="eu-north", cost_nano=2),
        _candidate(b"\x05" * 20, region="eu-west-2", cost_nano=99),
        _candidate(C, region="", cost_nano=999),
    ]
    ranked = sorted(crowd, key=lambda one: place(wished, one))
    assert [one.provider[0] for one in ranked] == [3, 5, 4, 2, 1]
    places = [place(wished, one) for one in ranked]
    words = [behind(wished, best, other) for best, other in itertools.pairwise(places)]
    assert [("order" in word, "eu-west" in word, "price" in word) for word in words] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (False, True, False),
    ]


def test_sort_puts_the_unmeasured_last() -> None:
    """Throughput and latency go by what was measured here."""
    for name in ("throughput", "latency"):
        wished = Preferences(sort=name)
        new = _candidate(B, unit_s=math.inf, first_s=math.inf)
        assert place(wished, _candidate()) < place(wished, new)


def test_refusal_is_final_unless_a_pinned_provider_may_come() -> None:
    """404 with each provider's reason; 503 while one that was asked for by name isn't linked."""
    reasons = {A: "its quantisation is Q8_0, not int4"}
    final = refuse_all("m", Preferences(quantizations=("int4",)), reasons, [A])
    assert isinstance(final, NotFound)
    assert final.code == "no_provider_fits"
    assert f"0x{A.hex()}: its quantisation" in final.message
    for wished in (Preferences(only=frozenset([B])), Preferences(order=(B,), allow_fallbacks=False)):
        waiting = refuse_all("m", wished, {A: "it is not in `only`"}, [A])
        assert isinstance(waiting, Unavailable)
        assert waiting.code == "no_provider_fits"
        assert f"0x{B.hex()}: not linked" in waiting.message
    assert isinstance(refuse_all("m", Preferences(order=(B,)), reasons, [A]), NotFound)
