"""What a caller asks of the providers of one call: OpenRouter's `provider` object, and where they should be.

1. Pure: bytes in, preferences out; choice.py judges by them.
2. A bad value is refused and named, an unknown field too: no wish is passed over in silence.
3. Prices are limits, in YARD per 1,000,000 units; `request` is YARD for the whole call at its highest cost. They are
   read from their digits, without a float; what is finer than a nano is cut off.

Law: docs/spec/gateway.md, section 4.  Shape: OpenRouter's provider routing, research/relay.md section 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec

from steelyard.errors import BadRequest
from steelyard.protocol.ids import MAX_REGION, is_region
from steelyard.protocol.pricing import NANO_PER_YARD
from steelyard.services.body_reader import explain, show

CHOICE_HEADER, REGION_HEADER = b"x-steelyard-choice", b"x-steelyard-region"
MAX_NAMED = 64

_ACCOUNT = re.compile(r"0[xX][0-9a-fA-F]{40}")
_NUMBER = re.compile(r"\+?(\d{1,40})?(?:\.(\d{1,60}))?(?:[eE]([+-]?\d{1,2}))?")
_Names = Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=MAX_NAMED)]


class _MaxPrice(msgspec.Struct, forbid_unknown_fields=True):
    prompt: msgspec.Raw = msgspec.Raw()
    completion: msgspec.Raw = msgspec.Raw()
    request: msgspec.Raw = msgspec.Raw()


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    order: _Names | None = None
    only: _Names | None = None
    ignore: _Names | None = None
    quantizations: _Names | None = None
    sort: Literal["price", "throughput", "latency"] | None = None
    max_price: _MaxPrice | None = None
    allow_fallbacks: bool | None = None
    region: str | None = None


_decode = msgspec.json.Decoder(_Wire).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What a caller asks of the providers of one call; it holds for every attempt of it.

    Attributes:
        order, only, ignore: accounts, 20 bytes each. quantizations: as the caller wrote them, lower-case.
        max_in_nano, max_out_nano: per 1,000,000 units. max_cost_nano: of the whole call. None: no limit.
        region: lower-case, its parts joined by hyphens, the widest first; "" if none is asked for.
    """

    order: tuple[bytes, ...] = ()
    only: frozenset[bytes] = frozenset()
    ignore: frozenset[bytes] = frozenset()
    quantizations: tuple[str, ...] = ()
    sort: str = ""
    max_in_nano: int | None = None
    max_out_nano: int | None = None
    max_cost_nano: int | None = None
    allow_fallbacks: bool = True
    region: str = ""

    @property
    def is_single(self) -> bool:
        """Whether whoever is asked first is the only one that may be asked."""
        return not self.allow_fallbacks and not self.order

    @property
    def pinned(self) -> frozenset[bytes]:
        """The accounts of which one has to serve; empty if anybody may."""
        order = frozenset() if self.allow_fallbacks else frozenset(self.order)
        return self.only & order if self.only and order else self.only or order


NO_PREFERENCES = Preferences()


def read_preferences(raw: bytes, headers: Mapping[bytes, bytes]) -> Preferences | None:
    """Return what a request asks of its providers, or None if it asks nothing.

    Args:
        raw: the JSON of the body's `provider`, b"" if it has none; untrusted. headers: lower-case; untrusted.

    Raises:
        BadRequest: a field is unknown, of a wrong type or not a possible value; `param` names it.
    """
    choice, region = headers.get(CHOICE_HEADER), headers.get(REGION_HEADER)
    if not raw and choice is None and region is None:
        return None
    if choice is not None:
        if raw and raw != b"null":
            raise BadRequest("`provider` and the header `x-steelyard-choice` are both set: keep one", param="provider")
        wished = _read_object(choice, CHOICE_HEADER.decode())
    else:
        wished = _read_object(raw, "provider") if raw else NO_PREFERENCES
    if region and not wished.region:
        wished = replace(wished, region=read_region(region.decode("latin-1"), REGION_HEADER.decode()))
    return None if wished == NO_PREFERENCES else wished


def read_region(text: str, field: str) -> str:
    """Return a region in the one way it is written, e.g. ``eu-west-1``; raises BadRequest naming the field."""
    region = text.strip().lower()
    if region and not is_region(region):
        raise BadRequest(
            f"`{field}` is {text[:80]!r}: write letters and digits joined by hyphens, the widest part first, at most "
            f"{MAX_REGION}, e.g. eu-west-1",
            param=field,
        )
    return region


def _read_object(raw: bytes, field: str) -> Preferences:
    try:
        value: Any = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"`{field}` is not valid JSON: {error}", code="invalid_json", param=field) from error
    if value is None:
        return NO_PREFERENCES
    try:
        wire = _decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        what, _, where = str(error).partition(" - at `$")
        raise explain(_Wire, {field: value}, f"{what} - at `$.{field}{where or '`'}") from error
    limits = wire.max_price or _MaxPrice()
    return Preferences(
        order=tuple(dict.fromkeys(_read_accounts(wire.order, f"{field}.order"))),
        only=frozenset(_read_accounts(wire.only, f"{field}.only")),
        ignore=frozenset(_read_accounts(wire.ignore, f"{field}.ignore")),
        quantizations=tuple(word.lower() for word in wire.quantizations or ()),
        sort=wire.sort or "",
        max_in_nano=_read_nano(limits.prompt, f"{field}.max_price.prompt"),
        max_out_nano=_read_nano(limits.completion, f"{field}.max_price.completion"),
        max_cost_nano=_read_nano(limits.request, f"{field}.max_price.request"),
        allow_fallbacks=wire.allow_fallbacks is not False,
        region=read_region(wire.region or "", f"{field}.region"),
    )


def _read_accounts(names: Sequence[str] | None, field: str) -> list[bytes]:
    for index, name in enumerate(names or ()):
        if not _ACCOUNT.fullmatch(name):
            raise BadRequest(
                f"`{field}[{index}]` is {show(name)}: name providers by their accounts, 0x and 40 hex digits, as the "
                "header x-steelyard-provider and GET /v1/models/{id} give them",
                code="invalid_value",
                param=f"{field}[{index}]",
            )
    return [bytes.fromhex(name[2:]) for name in names or ()]


def _read_nano(raw: msgspec.Raw, field: str) -> int | None:
    text = bytes(raw).decode().strip()
    if text in ("", "null"):
        return None
    match = _NUMBER.fullmatch(text.strip('"'))
    if match is None or not (match[1] or match[2]):
        raise BadRequest(
            f'`{field}` is {text[:80]}: write an amount of YARD, not negative, such as 0.5 or "0.5"',
            code="invalid_value",
            param=field,
        )
    decimals = match[2] or ""
    digits, shift = int((match[1] or "") + decimals), int(match[3] or 0) - len(decimals)
    scale: int = 10 ** abs(shift)
    return digits * NANO_PER_YARD * scale if shift >= 0 else digits * NANO_PER_YARD // scale
