"""What `steelyard doctor` says of a machine that won't do."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from steelyard.cli import diagnosis

_Usage = namedtuple("_Usage", "total used free")  # as shutil's own


def test_doctor_on_an_old_python_says_which_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.10 is a problem, with the way out."""
    monkeypatch.setattr(diagnosis.sys, "version_info", (3, 10, 14, "final", 0))
    check = diagnosis._check_python()
    assert (check.state, check.found) == ("problem", "3.10.14")
    assert "3.11" in check.advice


def test_doctor_on_a_full_disk_says_how_much_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half a gibibyte is too little; what is asked is the disk of the folder that will hold the home."""
    asked: list[Path] = []

    def usage(place: Path) -> _Usage:
        asked.append(place)
        return _Usage(1 << 40, (1 << 40) - (1 << 29), 1 << 29)

    monkeypatch.setattr(diagnosis.shutil, "disk_usage", usage)
    check = diagnosis._check_disk(tmp_path / "not" / "yet")
    assert check.state != "ok"
    assert "0.5 GiB" in check.found
    assert check.advice
    assert asked == [tmp_path]
