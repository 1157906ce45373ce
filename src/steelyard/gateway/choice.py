"""Whether a provider may serve a call, and which should, by what its caller asks.

1. Pure: candidates in, reasons and places out. No clock, no link, no luck.
2. `only`, `ignore`, `quantizations` and `max_price` exclude. `order`, `region` and `sort` prefer, in this order.
3. With `allow_fallbacks` false `order` and `region` exclude too; without `order`, who is asked first is the only one.

Law: docs/spec/gateway.md, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from steelyard.errors import NotFound, Refusal, Unavailable
from steelyard.gateway.preferences import Preferences
from steelyard.protocol.ids import format_hex
from steelyard.protocol.pricing import format_yard

_FAMILIES = {
    "int4": r"i?q4.*|int4|w4.*|awq.*|gptq.*",
    "int8": r"q8.*|int8|w8.*",
    "fp4": r"fp4.*|mxfp4.*|nvfp4.*",
    "fp6": r"fp6.*",
    "fp8": r"fp8.*|f8.*",
    "fp16": r"fp?16",
    "bf16": r"bf16",
    "fp32": r"fp?32",
    "unknown": r"none",
}
"""OpenRouter's words for quantisations, and what manifests call them; any other word has to be the manifest's own."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One seller as a choice sees it.

    Attributes:
        price_in, price_out: nano per 1,000,000 units. cost_nano: the highest cost of this call.
        quantisation: of the manifest, "" if there is none. region: as its node states it, "" if it states none.
        unit_s: seconds per unit, first_s: seconds to the first piece; infinite while nothing was measured.
    """

    provider: bytes
    price_in: int
    price_out: int
    cost_nano: int
    quantisation: str
    region: str
    unit_s: float
    first_s: float


def misfit(wished: Preferences, candidate: Candidate) -> str:
    """Return why a candidate may not serve a call at all, or an empty string."""
    provider = candidate.provider
    if provider in wished.ignore:
        return "it is in `ignore`"
    if wished.only and provider not in wished.only:
        return "it is not in `only`"
    if not wished.allow_fallbacks:
        if wished.order and provider not in wished.order:
            return "it is not in `order`, and `allow_fallbacks` is false"
        if wished.region and nearness(wished.region, candidate.region) < _parts(wished.region):
            return f"its region is {candidate.region or 'not stated'}, not {wished.region}; `allow_fallbacks` is false"
    quantisation = candidate.quantisation or "none"
    if wished.quantizations and not any(is_quantised_as(word, quantisation) for word in wished.quantizations):
        return f"its quantisation is {quantisation[:40]}, not {' or '.join(wished.quantizations)[:80]}"
    for name, price, limit in (
        ("prompt", candidate.price_in, wished.max_in_nano),
        ("completion", candidate.price_out, wished.max_out_nano),
    ):
        if limit is not None and price > limit:
            return (
                f"it asks {format_yard(price)} YARD per million, above `max_price.{name}` of {format_yard(limit)} YARD"
            )
    limit = wished.max_cost_nano
    if limit is not None and candidate.cost_nano > limit:
        return (
            f"this call can cost up to {format_yard(candidate.cost_nano)} YARD there, above `max_price.request` of "
            f"{format_yard(limit)} YARD"
        )
    return ""


def place(wished: Preferences, candidate: Candidate) -> tuple[int, int, float]:
    """Return where a candidate stands, the lowest first: by `order`, then by region, then by `sort`."""
    order = wished.order
    rank = order.index(candidate.provider) if candidate.provider in order else len(order)
    far = _parts(wished.region) - nearness(wished.region, candidate.region) if wished.region else 0
    worth = 0.0
    if wished.sort == "price":
        worth = candidate.cost_nano
    elif wished.sort == "throughput":
        worth = candidate.unit_s
    elif wished.sort == "latency":
        worth = candidate.first_s
    return rank, far, worth


def behind(wished: Preferences, best: tuple[int, int, float], other: tuple[int, int, float]) -> str:
    """Return why somebody at place `other` stands behind somebody at place `best`."""
    if other[0] != best[0]:
        return "it comes later in `order`, or isn't in it"
    if other[1] != best[1]:
        return f"it is farther from {wished.region}"
    return f"it comes later by {wished.sort}"


def nearness(asked: str, stated: str) -> int:
    """Return how many of the asked region's parts a stated region shares with it, from the widest on."""
    shared = 0
    for wanted, there in zip(asked.split("-"), stated.split("-"), strict=False):
        if wanted != there:
            break
        shared += 1
    return shared


def is_quantised_as(word: str, quantisation: str) -> bool:
    """Say whether a caller's word, in lower case, means a manifest's quantisation."""
    own = quantisation.lower()
    return own == word or (word in _FAMILIES and re.fullmatch(_FAMILIES[word], own) is not None)


def refuse_all(name: str, wished: Preferences, reasons: Mapping[bytes, str], linked: Iterable[bytes]) -> Refusal:
    """Return the refusal of a call that nobody fits; it may be repeated if a pinned provider may yet be linked."""
    told = [f"{format_hex(provider)}: {why}" for provider, why in reasons.items()]
    absent = sorted(wished.pinned - wished.ignore - frozenset(linked))
    told = [f"{format_hex(provider)}: not linked to this gateway" for provider in absent] + told
    message = (
        f"no provider of {name!r} is what this call asks for ({'; '.join(told[:20]) or 'none is linked'}): ask "
        f"for less in `provider`; GET /v1/models/{name} lists who sells it"
    )
    if absent:
        return Unavailable(message, code="no_provider_fits", param="provider", retry_after_s=2.0)
    return NotFound(message, code="no_provider_fits", param="provider")


def _parts(region: str) -> int:
    return region.count("-") + 1
