"""The catalogue of chains: what is known of each, as data in `chains.json` and `families.json`.

1. Adding a chain is adding a row. A family holds what its chains share; a row may say its own `units` per method and
   `final_blocks`, a family may extend another.
2. A method that no table names costs the family's default. What changes a node is refused (`refused`, or whatever
   `allowed` doesn't name); what a node would have to remember between calls (`stateful`) is refused, and the way around
   is told.
3. A chain that has no row can be sold under a name of its own; its manifest then names its family.

Law: docs/spec/kinds/rpc.md, sections 2 to 4.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from fnmatch import translate
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from steelyard.services.rpc.pinning import Pin, find_pin

LIGHT_UNITS = 20
"""What a read of one thing costs; what costs more may keep a node busy."""

Transport = Literal["rpc", "rest"]

_Id = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
_Units = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class Chain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row.

    Attributes:
        id: the name that a service of it has. names: what else people call it, lower-case.
        chain_id: what the family's identity probe must answer; numbers in decimal.
        block_s: seconds from block to block, as is usual there.
        final_blocks: so many blocks below the height a block doesn't change any more; None: the family's.
        units: compute units of methods that cost something else here.
    """

    id: _Id
    names: tuple[_Id | Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]+$")], ...] = ()
    family: str
    chain_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    block_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    final_blocks: Annotated[int, msgspec.Meta(ge=0)] | None = None
    units: dict[str, _Units] = {}

    def is_identity(self, found: str | None) -> bool:
        """Say whether an identity probe's value is this chain's; some write numbers in hexadecimal text."""
        wanted = self.chain_id
        if found is None or found == wanted:
            return found == wanted
        return wanted.startswith("0x") and len(wanted) <= 17 and found == str(int(wanted, 16))


class Probe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question that tells of a chain: a method, or (`get`) a path; `path` leads to the value in its result."""

    method: str = ""
    params: Any = ()
    get: str = ""
    path: tuple[str, ...] = ()

    def pick(self, result: Any) -> str | None:
        """Return the value in a decoded answer, numbers (hexadecimal ones too) in decimal; None if it isn't there."""
        for step in self.path:
            if not isinstance(result, dict) or step not in result:
                return None
            result = result[step]
        if isinstance(result, bool) or not isinstance(result, str | int):
            return None
        if isinstance(result, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,15}", result):
            return str(int(result, 16))
        return str(result)

    def pick_number(self, result: Any) -> int | None:
        """Return the value as a number, or None."""
        found = self.pick(result)
        return int(found) if found is not None and found.isdecimal() and len(found) < 20 else None


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method's compute units, and how its parameters pin its answer (`pinning`)."""

    units: _Units
    pin: Annotated[str, msgspec.Meta(pattern=r"^(always|(block|hash|mined|range):[0-9]*(\|[a-z_]+)?)?$")] = ""
    when: tuple[int, Any] | None = None


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What chains of one family share; see `families.json`, and the law for each field."""

    name: str
    transports: tuple[Transport, ...] = ("rpc",)
    identity: Probe
    height: Probe
    archive: Probe | None = None
    writes: re.Pattern[str]
    default_units: _Units
    message_units: _Units
    final_blocks: Annotated[int, msgspec.Meta(ge=0)]
    is_zero_newest: bool = False
    versions: tuple[str, ...] = ("2.0",)
    methods: Mapping[str, Method]
    stateful: Mapping[str, str]
    subscriptions: Mapping[str, str]
    refused: re.Pattern[str]
    allowed: re.Pattern[str] | None

    def units(self, method: str) -> int:
        """Return the compute units of one call of a method."""
        known = self.methods.get(method)
        return self.default_units if known is None else known.units

    def is_light(self, method: str) -> bool:
        """Say whether any node answers a method at once: it is known, and costs no more than `LIGHT_UNITS`."""
        known = self.methods.get(method)
        return known is not None and known.units <= LIGHT_UNITS

    def is_safe(self, method: str) -> bool:
        """Say whether a method can be asked twice without harm: it is known, and changes nothing on the chain."""
        return method in self.methods and not self.writes.fullmatch(method)

    def pin(self, method: str, params_raw: bytes) -> Pin | None:
        """Return how a request is pinned, or None: its answer moves with the chain."""
        known = self.methods.get(method)
        if known is None or not known.pin:
            return None
        return find_pin(known.pin, known.when, params_raw, is_zero_newest=self.is_zero_newest)

    def is_deterministic(self, method: str, params_raw: bytes) -> bool:
        """Say whether every honest node that has the data gives the same answer, now and later."""
        return self.pin(method, params_raw) is not None

    def is_cacheable(self, method: str, params_raw: bytes, height: int | None) -> bool:
        """Say whether an answer that is not null can be kept, the chain being at a height (None: unknown)."""
        pin = self.pin(method, params_raw)
        return pin is not None and self.is_final(pin, height)

    def is_final(self, pin: Pin, height: int | None) -> bool:
        """Say whether an answer that is not null stays as it is, the chain being at a height (None: unknown)."""
        if pin.kind == "mined":
            return False
        if pin.number is None:
            return True
        return height is not None and pin.number + self.final_blocks <= height

    def is_refused(self, method: str) -> bool:
        """Say whether a method would change a node or use its keys."""
        if self.refused.fullmatch(method.lower()):
            return True
        return self.allowed is not None and not self.allowed.fullmatch(method) and method not in self.subscriptions

    def is_subscription(self, method: str) -> bool:
        """Say whether a method begins a subscription."""
        return method in self.subscriptions


class _FamilyRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    extends: str = ""
    transports: tuple[Transport, ...] | None = None
    identity: Probe | None = None
    height: Probe | None = None
    archive: Probe | None = None
    writes: tuple[str, ...] | None = None
    units: _Units | None = None
    message_units: _Units | None = None
    final_blocks: int | None = None
    is_zero_newest: bool | None = None
    versions: tuple[str, ...] | None = None
    methods: dict[str, Method] = {}
    refused: tuple[str, ...] | None = None
    allowed: tuple[str, ...] | None = None
    stateful: dict[str, str] | None = None
    subscriptions: dict[str, str] | None = None


@cache
def load_chains() -> Mapping[str, Chain]:
    """Return every chain of the catalogue by its id."""
    rows = msgspec.json.decode(_read("chains.json"), type=list[Chain])
    return MappingProxyType({row.id: row for row in rows})


@cache
def load_families() -> Mapping[str, Family]:
    """Return every family by its name."""
    rows = msgspec.json.decode(_read("families.json"), type=dict[str, _FamilyRow])
    return MappingProxyType({name: _build_family(name, rows) for name in rows})


def find_chain(name: str) -> Chain | None:
    """Return a chain by its id or any of its names, whatever their case; None if it has no row."""
    return _by_name().get(name.lower())


def nearest_chains(name: str) -> list[str]:
    """Return the ids of up to five chains whose names look like a name, the nearest first."""
    near = difflib.get_close_matches(name.lower(), list(_by_name()), n=10, cutoff=0.5)
    return list(dict.fromkeys(_by_name()[found].id for found in near))[:5]


@lru_cache(512)
def find_family(chain: str, family: str = "") -> Family | None:
    """Return the methods of a chain by its id, with what its row overrides; of a named family if it has no row."""
    row = load_chains().get(chain)
    found = load_families().get(row.family if row is not None else family)
    if row is None or found is None or (row.final_blocks is None and not row.units):
        return found
    methods = dict(found.methods)
    for name, units in row.units.items():
        methods[name] = msgspec.structs.replace(methods.get(name, Method(units=units)), units=units)
    final_blocks = found.final_blocks if row.final_blocks is None else row.final_blocks
    return msgspec.structs.replace(found, methods=MappingProxyType(methods), final_blocks=final_blocks)


@cache
def _by_name() -> Mapping[str, Chain]:
    named = {name: chain for chain in load_chains().values() for name in chain.names}
    return MappingProxyType(named | dict(load_chains()))


def _read(name: str) -> bytes:
    return files(__package__).joinpath(name).read_bytes()


def _build_family(name: str, rows: Mapping[str, _FamilyRow]) -> Family:
    row = rows[name]
    fields: dict[str, Any] = {}
    methods: dict[str, Method] = {}
    for ancestor in ([rows[row.extends]] if row.extends else []) + [row]:
        fields |= {key: value for key, value in msgspec.structs.asdict(ancestor).items() if value is not None}
        methods |= ancestor.methods
    del fields["extends"]
    fields["default_units"] = fields.pop("units")
    fields["refused"] = _patterns([pattern.lower() for pattern in fields.get("refused", ())])
    fields["writes"] = _patterns(fields.get("writes", ()))
    allowed = fields.get("allowed")
    fields["allowed"] = None if allowed is None else _patterns(allowed)
    for key in ("stateful", "subscriptions"):
        fields[key] = MappingProxyType(fields.get(key, {}))
    fields["methods"] = MappingProxyType(methods)
    return Family(name=name, **fields)


def _patterns(globs: Any) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")
