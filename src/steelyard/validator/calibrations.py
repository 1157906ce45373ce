"""Which calibrations this machine has: nulls by manifest and pair of engines, from its own folder and the package's.

1. A null is found by what it says of itself; its own folder's comes before the package's.
2. A file that can't be read is passed over with a warning: it only makes calls abstain.

Law: docs/spec/checking.md, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import structlog

from steelyard.errors import BadMessage
from steelyard.verification.null import Null, decode_null

_log = structlog.get_logger("steelyard.validator")


class Calibrations:
    """The nulls in a folder and those that ship with the package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, manifest: bytes, provider_engine: str, validator_engine: str) -> Null | None:
        """Return the null of a manifest (its SHA-256) for a pair of engines, or None."""
        wanted = (manifest.hex(), provider_engine, validator_engine)
        for name, blob in self._blobs():
            try:
                null = decode_null(blob)
            except BadMessage as error:
                _log.warning("calibration_unreadable", file=name, reason=error.message)
                continue
            if (null.manifest, null.provider_engine, null.validator_engine) == wanted:
                return null
        return None

    def _blobs(self) -> Iterator[tuple[str, bytes]]:
        if self._folder.is_dir():
            for path in sorted(self._folder.glob("*.json")):
                yield path.name, path.read_bytes()
        for item in sorted(resources.files("steelyard.validator").joinpath("nulls").iterdir(), key=lambda i: i.name):
            if item.name.endswith(".json"):
                yield item.name, item.read_bytes()
