"""A person measures a model on this machine, and the file is one that validators read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.llama_world import CACHE

from steelyard.services.manifest import manifest_digest
from steelyard.validator.calibrations import Calibrations
from steelyard.verification.null import decode_null, null_digest

NAME = "smollm2-135m-instruct"


def steelyard(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Type a command in a home of its own."""
    environment = os.environ | {"STEELYARD_HOME": str(home), "STEELYARD_WEIGHTS__CACHE": str(CACHE)}
    command = [sys.executable, "-m", "steelyard", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150, check=False)


@pytest.mark.timeout(180)
def test_calibration_of_a_known_model_is_found_by_a_validator(tmp_path: Path) -> None:
    """Few answers bound nothing, and say so; the file names manifest and engines, and lies where validators look."""
    done = steelyard(
        tmp_path, "calibrate", NAME, "--weights", "smollm2-135m", "--answers", "8", "--tokens", "8", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    blob = Path(told["path"]).read_bytes()
    null = decode_null(blob)
    assert told["sha256"] == "0x" + null_digest(blob).hex()
    assert (null.answers, told["answers"]) == (16, 16)
    assert null.families == ("gibberish", "gibberish other-kernel", "ordinary", "ordinary other-kernel")
    assert all(bound is None for score in null.bounds_ppb for regime in score for bound in regime)
    manifest = bytes.fromhex(null.manifest)
    assert Calibrations(tmp_path / "calibrations").find(manifest, null.provider_engine, null.validator_engine) == null
    shipped = Calibrations(tmp_path / "none").find(manifest, null.provider_engine, null.validator_engine)
    assert shipped is not None, "the shipped calibration is of another manifest or engine: make it anew"
    assert len(manifest) == len(manifest_digest(b""))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((NAME, "--weights", "nonsense"), "nonsense"),
        (("another", "--weights", "smollm2-135m"), "another"),
        ((NAME, "--answers", "2"), "--answers"),
    ],
)
@pytest.mark.timeout(120)
def test_what_cannot_be_calibrated_is_told_in_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """The value that is wrong, and no traceback."""
    done = steelyard(tmp_path, "calibrate", *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
