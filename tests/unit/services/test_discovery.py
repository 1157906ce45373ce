"""services/discovery.py: every kind by entry point, and one broken plug-in takes nothing else down."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from steelyard.errors import ConfigError, NotFound
from steelyard.services.discovery import GROUP, installed_services
from steelyard.services.echo import EchoService

ECHO = EntryPoint("echo", "steelyard.services.echo:EchoService", GROUP)


class Stranger(EchoService):
    """A stranger's kind."""

    kind = "stranger"


class Lazy(EchoService):
    """A stranger's kind that declares a check that does not exist."""

    kind = "lazy"
    check = "trust me"  # type: ignore[assignment]


class Hollow:
    """A stranger's kind with nothing in it."""

    kind = "hollow"


def point(name: str, value: str) -> EntryPoint:
    """An entry point into this very file, or anywhere else."""
    return EntryPoint(name, value if ":" in value else f"{__name__}:{value}", GROUP)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def test_built_in_kinds_are_found_like_any_other() -> None:
    """echo, chat and embeddings come from this package's own entry points, and all of them load."""
    found = installed_services()
    assert {"chat", "echo", "embeddings"} <= set(found.kinds)
    assert not found.broken


def test_strangers_kind_is_found_beside_ours() -> None:
    """A class that keeps to the port is a kind, whoever wrote it."""
    found = installed_services([ECHO, point("stranger", "Stranger")])
    assert sorted(found.kinds) == ["echo", "stranger"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (("ghost", "no_such_module_anywhere:Kind"), "ModuleNotFoundError"),
        (("ghost", "steelyard.services.echo:NoSuchClass"), "AttributeError"),
        (("hollow", "Hollow"), "it lacks describe, parse"),
        (("lazy", "Lazy"), "declares check as 'trust me'"),
        (("other-name", "Stranger"), "declares kind as 'stranger'"),
    ],
)
def test_broken_plugin_is_named_and_the_rest_work(broken: tuple[str, str], reason: str) -> None:
    """One line with the name and the reason; the other kinds are there; asking for it is a configuration error."""
    found = installed_services([ECHO, point(*broken)])
    assert list(found.kinds) == ["echo"]
    assert reason in found.broken[broken[0]]
    with pytest.raises(ConfigError, match=broken[0]):
        found.find(broken[0])


def test_two_strangers_for_one_kind_are_both_left_out() -> None:
    """Nobody decides in silence whose code runs."""
    found = installed_services([ECHO, point("x", "a.b:C"), point("x", "d.e:F")])
    assert list(found.kinds) == ["echo"]
    assert "claimed by a.b and d.e" in found.broken["x"]


def test_kind_that_is_not_installed_is_not_found_and_the_message_lists_the_others() -> None:
    """What to do next is in the message."""
    with pytest.raises(NotFound, match="installed are echo"):
        installed_services([ECHO]).find("video")


def test_loading_every_kind_imports_nothing_heavy() -> None:
    """A gateway has no engine: finding and describing the kinds loads no model library and no HTTP client."""
    code = (
        "import sys\n"
        "from steelyard.services.discovery import installed_services\n"
        "assert set(installed_services().kinds) >= {'chat', 'echo', 'embeddings'}\n"
        "heavy = {'xllamacpp', 'aiohttp', 'numpy', 'sqlalchemy', 'eth'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
