"""What a call asks of its providers: read exactly, or refused by the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.errors import BadRequest
from steelyard.gateway.preferences import MAX_NAMED, Preferences, read_preferences

A, B = "0x" + "Ab" * 20, "0x" + "0c" * 20


def _read(value: Any, **headers: str) -> Preferences | None:
    raw = b"" if value is None else json.dumps(value).encode()
    return read_preferences(raw, {name.replace("_", "-").encode(): text.encode() for name, text in headers.items()})


def test_request_that_asks_nothing_costs_nothing() -> None:
    """No object, null, an empty one, empty lists and what is usual anyway are the same as nothing."""
    assert read_preferences(b"", {}) is None
    assert read_preferences(b"null", {}) is None
    for value in ({}, {"order": None, "only": [], "max_price": {}}, {"allow_fallbacks": True, "region": ""}):
        assert _read(value) is None


def test_every_field_is_read() -> None:
    """Accounts in either case, prices from numbers and texts, regions in lower case."""
    wished = _read(
        {
            "order": [B, A, B.upper().replace("X", "x")],
            "only": [A],
            "ignore": [B],
            "quantizations": ["Q8_0", "fp16"],
            "sort": "throughput",
            "max_price": {"prompt": 0.5, "completion": "1.25", "request": 2},
            "allow_fallbacks": False,
            "region": "EU-West",
        }
    )
    assert wished == Preferences(
        order=(b"\x0c" * 20, b"\xab" * 20),
        only=frozenset([b"\xab" * 20]),
        ignore=frozenset([b"\x0c" * 20]),
        quantizations=("q8_0", "fp16"),
        sort="throughput",
        max_in_nano=500_000_000,
        max_out_nano=1_250_000_000,
        max_cost_nano=2_000_000_000,
        allow_fallbacks=False,
        region="eu-west",
    )


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("0.1", 100_000_000),
        ("1e-9", 1),
        ("1e-10", 0),
        ("2.5E2", 250_000_000_000),
        ("0.0000000019", 1),
        ('".5"', 500_000_000),
        ("12345678901234567890", 12_345_678_901_234_567_890_000_000_000),
        ("null", None),
    ],
)
def test_price_is_read_from_its_digits(text: str, nano: int | None) -> None:
    """No float stands between a limit and its nano; what is finer than a nano is cut off, never rounded up."""
    wished = read_preferences(b'{"sort":"price","max_price":{"prompt":%s}}' % text.encode(), {})
    assert wished is not None
    assert wished.max_in_nano == nano


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (3, "provider"),
        ([], "provider"),
        ({"orders": [A]}, "provider.orders"),
        ({"order": A}, "provider.order"),
        ({"order": ["openai"]}, "provider.order[0]"),
        ({"only": [A, "0x12"]}, "provider.only[1]"),
        ({"ignore": [1]}, "provider.ignore[0]"),
        ({"only": [A] * (MAX_NAMED + 1)}, "provider.only"),
        ({"quantizations": "int8"}, "provider.quantizations"),
        ({"sort": "fastest"}, "provider.sort"),
        ({"max_price": 1}, "provider.max_price"),
        ({"max_price": {"image": 1}}, "provider.max_price.image"),
        ({"max_price": {"prompt": -1}}, "provider.max_price.prompt"),
        ({"max_price": {"completion": "much"}}, "provider.max_price.completion"),
        ({"max_price": {"request": [1]}}, "provider.max_price.request"),
        ({"allow_fallbacks": 1}, "provider.allow_fallbacks"),
        ({"region": "eu west"}, "provider.region"),
        ({"region": "e" * 33}, "provider.region"),
    ],
)
def test_bad_value_is_refused_by_its_name(value: Any, param: str) -> None:
    """The refusal names the field; nothing is guessed and nothing swallowed."""
    with pytest.raises(BadRequest) as caught:
        _read(value)
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message


def test_header_says_the_same_as_the_body() -> None:
    """For bodies that aren't ours; both at once is refused, and the header's own name is in its refusals."""
    assert _read(None, x_steelyard_choice=json.dumps({"only": [A]})) == _read({"only": [A]})
    with pytest.raises(BadRequest, match="both set"):
        _read({"only": [A]}, x_steelyard_choice="{}")
    for text in ("{", '{"sort": 1}', "\xff"):
        with pytest.raises(BadRequest, match="x-steelyard-choice"):
            _read(None, x_steelyard_choice=text)


def test_region_header_asks_where_the_object_does_not() -> None:
    """The object's own region goes before it; a malformed one is refused."""
    wished = _read({"sort": "price"}, x_steelyard_region="EU")
    assert wished == Preferences(sort="price", region="eu")
    assert _read({"region": "us"}, x_steelyard_region="eu") == Preferences(region="us")
    with pytest.raises(BadRequest, match="x-steelyard-region"):
        _read(None, x_steelyard_region="eu,us")
