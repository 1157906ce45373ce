"""Which null a validator judges by: its own first, then the package's, and none where nothing fits."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec
import pytest

from steelyard.validator.calibrations import Calibrations
from steelyard.verification.calibration import GIBBERISH, ORDINARY
from steelyard.verification.null import Null, decode_null, encode_null

NULLS = resources.files("steelyard.validator").joinpath("nulls")
SHIPPED = [item for item in NULLS.iterdir() if item.name.endswith(".json")]


def shipped() -> Null:
    """The null that ships for the model of `steelyard up`."""
    return decode_null(NULLS.joinpath("smollm2-135m-instruct.json").read_bytes())


def find(folder: Path, null: Null) -> Null | None:
    """What is found for what a null says of itself."""
    return Calibrations(folder).find(bytes.fromhex(null.manifest), null.provider_engine, null.validator_engine)


def test_shipped_nulls_were_measured_on_both_families_and_bound_every_score() -> None:
    """Each file decodes, is canonical, and says enough to judge by in the cool regime."""
    for item in SHIPPED:
        blob = item.read_bytes()
        null = decode_null(blob)
        assert blob == encode_null(null)
        assert {ORDINARY, GIBBERISH} <= set(null.families)
        assert all(any(bound is not None for bound in score[0]) for score in null.bounds_ppb)


def test_own_calibration_comes_before_the_packages(tmp_path: Path) -> None:
    """The package's is found without a folder; a file there for the same pair is taken instead."""
    assert find(tmp_path / "none", shipped()) == shipped()
    own = msgspec.structs.replace(shipped(), answers=1)
    (tmp_path / "mine.json").write_bytes(encode_null(own))
    assert find(tmp_path, shipped()) == own


@pytest.mark.parametrize("field", ["manifest", "provider_engine", "validator_engine"])
def test_calibration_of_anything_else_is_not_taken(tmp_path: Path, field: str) -> None:
    """Another manifest or engine on either side abstains."""
    assert find(tmp_path, msgspec.structs.replace(shipped(), **{field: "ab" * 32})) is None


def test_unreadable_file_is_passed_over(tmp_path: Path) -> None:
    """It makes no check fail, and hides no other."""
    (tmp_path / "a.json").write_bytes(b"{")
    (tmp_path / "b.txt").write_bytes(b"no null")
    own = msgspec.structs.replace(shipped(), answers=1)
    (tmp_path / "c.json").write_bytes(encode_null(own))
    assert find(tmp_path, shipped()) == own
