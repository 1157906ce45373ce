"""docs/cli.md: names every setting with its default, and every command."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import Any

import typer

from steelyard.cli.app import build_app
from steelyard.cli.settings import Settings
from steelyard.cli.settings_file import _keys

TEXT = (Path(__file__).parents[3] / "docs/cli.md").read_text("utf-8")
SETTINGS = TEXT[TEXT.index("## 3. Settings") : TEXT.index("## 4.")]
COMMANDS = TEXT[TEXT.index("## 4. Commands") : TEXT.index("## 5.")]


def test_docs_name_every_setting_and_no_other() -> None:
    """The table of settings has each key once."""
    rows = "\n".join(line.split(" | ")[0] for line in SETTINGS.splitlines() if line.startswith("| `"))
    named = re.findall(r"`([a-z]+(?:\.[a-z0-9_]+)+)`", rows)
    assert sorted(named) == sorted(key for key in _keys(Settings, "") if key != "home")


def test_docs_give_the_defaults_of_settings() -> None:
    """Where the table says a number or a word, it is the default."""
    sections: dict[str, Any] = {name: field.default for name, field in Settings.model_fields.items() if name != "home"}
    for names, said in re.findall(r"^\| (`[a-z]+\.[^|]+) \| ([^|]+) \|", SETTINGS, re.MULTILINE):
        keys, values = re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", said)
        for key, value in zip(keys, values, strict=False):
            section, _, rest = key.partition(".")
            default = reduce(getattr, rest.split("."), sections[section])
            if isinstance(default, bool):
                assert value == str(default).lower(), key
            elif isinstance(default, int | float):
                assert float(value) == default, key
            elif default and isinstance(default, str):
                assert value == default, key


def test_docs_name_every_command_and_no_other() -> None:
    """Each command that can be typed is in the table of commands."""
    typed: set[str] = set()

    def walk(group: Any, path: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, f"{path} {name}")
            else:
                typed.add(f"{path} {name}")

    walk(typer.main.get_command(build_app()), "steelyard")
    assert set(re.findall(r"`(steelyard [a-z ]+)`", COMMANDS)) == typed
