"""The README shows the house as it stands: every room, commands that can be typed, links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from steelyard.cli.app import build_app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("contracts/*.md"), *ROOT.glob("bench/*/*.md")]


def test_tree_of_the_readme_names_every_room_and_no_other() -> None:
    """A room that is built is shown, and none that is not."""
    tree = README[README.index("src/steelyard/\n") : README.index("\ndocs/ ")].removeprefix("src/steelyard/")
    rooms = {path.name for path in (ROOT / "src/steelyard").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"(?:^|  )([a-z]+)/", tree, flags=re.MULTILINE)) == rooms


def test_commands_of_the_readme_can_be_typed() -> None:
    """Each `steelyard …` leads to a command with the options that are shown."""
    for line in re.findall(r"`steelyard ([a-z][^`]*)`", README):
        command: Any = typer.main.get_command(build_app())
        for word in line.split():
            command = getattr(command, "commands", {}).get(word, command)
        assert not hasattr(command, "commands"), line
        shown = set(re.findall(r"(?<= )--[a-z-]+", f" {line}"))
        assert shown <= {name for option in command.params for name in option.opts}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files_that_are_there(page: Path) -> None:
    """No link within the house is dead."""
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]
