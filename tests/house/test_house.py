"""What linters can't see: the error tree's drawing, file sizes, forbidden names, machine paths."""

from __future__ import annotations

import inspect
import re
import subprocess
from pathlib import Path

import steelyard.errors as errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
VAGUE = {"utils", "helpers", "common", "core", "misc", "manager"}


def tracked_files() -> list[Path]:
    """Return every file that git tracks."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.split("\0") if name]


def test_error_tree_drawing_names_every_class_and_no_other() -> None:
    """The docstring's tree and the classes are the same set, each with a code, a status and somebody to blame."""
    classes = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)}
    drawn = set(re.findall(r"^(?:[│├└─ ]*)([A-Z][A-Za-z]+)", errors.__doc__ or "", flags=re.MULTILINE)) & (
        set(classes) | set(re.findall(r"(?:├── |└── )([A-Za-z]+)", errors.__doc__ or ""))
    )
    assert drawn == set(classes)
    for cls in classes.values():
        assert cls.code
        assert 400 <= cls.status < 600
        assert cls.blame in ("peer", "caller", "operator", "chain", "us")


def test_source_files_stay_within_400_lines() -> None:
    """A file past 400 lines has two subjects."""
    long = {str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_no_file_has_a_vague_name() -> None:
    """Nothing is called utils, helpers, common, core, misc, manager or base_something."""
    vague = [p for p in SOURCES if p.stem in VAGUE or p.stem.startswith("base_") or p.parent.name in VAGUE]
    assert not vague


def test_every_module_says_its_purpose() -> None:
    """Each module begins with a docstring."""
    silent = [str(p.relative_to(ROOT)) for p in SOURCES if p.read_text().strip() and '"""' not in p.read_text()[:5]]
    assert not silent


def test_tracked_files_hold_no_machine_path_and_no_unfinished_mark() -> None:
    """No home directory, no registry host and no unfinished mark stands in what is committed."""
    parts = (
        r"/root" + "/",
        "/home" + "/[a-z]+/",
        r"\bTO" + r"DO\b",
        r"\bFIX" + r"ME\b",
        "registry.npm" + "js",
        "python" + "hosted",
    )
    marks = re.compile("|".join(parts))
    found = []
    for path in tracked_files():
        if path.suffix in {".py", ".md", ".sol", ".mjs", ".json", ".toml", ".lock", ".yml", ""} and path.is_file():
            text = path.read_text(errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in marks.finditer(text)]
    assert not found


def test_tracked_files_are_no_links() -> None:
    """A link leads to something of the machine on which it was made, and dangles on every other."""
    listing = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [line for line in listing.splitlines() if not line.startswith("100")]
