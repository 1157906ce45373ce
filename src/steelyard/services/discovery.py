"""Finding the kinds that are installed: ours and a stranger's by the same entry points.

1. A plug-in that can't be loaded, or that lacks a part of the port, is named with its reason and left out; the rest
   work.
2. Of two plug-ins for one kind neither is chosen in silence: this package's own stays, any other pair is left out.

Law: docs/spec/services.md, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast, get_args

import msgspec

from steelyard.errors import ConfigError, NotFound
from steelyard.services.port import Check, ServiceClass

GROUP = "steelyard.services"
_OWN_PACKAGE = "steelyard"
_METHODS = ("describe", "parse", "quote", "run", "evidence", "replay", "compare", "prepare", "aclose")
_ATTRIBUTES = ("manifest", "grade")


class InstalledServices(msgspec.Struct, frozen=True):
    """The kinds that work, by name, and one line for each that doesn't."""

    kinds: dict[str, ServiceClass]
    broken: dict[str, str]

    def find(self, kind: str) -> ServiceClass:
        """Return a kind.

        Raises:
            ConfigError: its plug-in is installed and broken; says why.
            NotFound: no such kind is installed; lists those that are.
        """
        if kind in self.kinds:
            return self.kinds[kind]
        if kind in self.broken:
            raise ConfigError(self.broken[kind])
        raise NotFound(f"no plug-in for the kind {kind!r} is installed; installed are {', '.join(sorted(self.kinds))}")


def installed_services(points: Iterable[EntryPoint] | None = None) -> InstalledServices:
    """Return every installed kind; `points` are the entry points to look at, all of the group by default."""
    named: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP) if points is None else points:
        named.setdefault(point.name, []).append(point)
    kinds: dict[str, ServiceClass] = {}
    broken: dict[str, str] = {}
    for name, candidates in sorted(named.items()):
        distinct = list({point.value: point for point in candidates}.values())
        chosen = [point for point in distinct if _package(point) == _OWN_PACKAGE] if len(distinct) > 1 else distinct
        if len(chosen) != 1:
            owners = " and ".join(sorted(_package(point) for point in distinct))
            broken[name] = f"the kind {name!r} is claimed by {owners}: uninstall all but one"
            continue
        loaded = _load(chosen[0])
        if isinstance(loaded, str):
            broken[name] = loaded
        else:
            kinds[name] = loaded
        if len(distinct) > 1:
            others = ", ".join(sorted(_package(point) for point in distinct if point is not chosen[0]))
            broken[f"{name} ({others})"] = f"{others} also claims the kind {name!r}, which is ours: it is left out"
    return InstalledServices(kinds, broken)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(":")[0]


def _load(point: EntryPoint) -> ServiceClass | str:
    where = f"the plug-in {point.value} of {_package(point)} for the kind {point.name!r}"
    try:
        found: Any = point.load()
    except Exception as error:  # a stranger's module may raise anything; it must not take the others down
        return f"{where} can't be loaded: {type(error).__name__}: {error}"
    lacks = [part for part in (*_METHODS, *_ATTRIBUTES) if not hasattr(found, part)]
    if lacks or not callable(found):
        return f"{where} is no kind of work: it lacks {', '.join(lacks) or 'a constructor'}"
    for part, is_right in (
        ("kind", getattr(found, "kind", None) == point.name),
        ("unit", isinstance(getattr(found, "unit", None), str)),
        ("check", getattr(found, "check", None) in get_args(Check)),
        ("apis", isinstance(getattr(found, "apis", None), frozenset) and bool(found.apis)),
        ("needs_engine", isinstance(getattr(found, "needs_engine", None), bool)),
    ):
        if not is_right:
            return f"{where} declares {part} as {getattr(found, part, None)!r}, which the port does not allow"
    return cast(ServiceClass, found)
