"""The C API's door: a library that is not the one that was read is refused before anything is passed to it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard.engines.llama_library import ContextParams, LlamaLibrary, check_version
from steelyard.errors import ConfigError

PROJECT = Path(__file__).parents[3] / "pyproject.toml"
LOCK = PROJECT.with_name("requirements.lock")


class FakeHandle:
    """A loaded library that lacks one function, and whose context has these defaults."""

    def __init__(self, missing: str = "", **defaults: int) -> None:
        self._missing = missing
        self._defaults = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1} | defaults

    def __getattr__(self, name: str) -> Callable[[], ContextParams]:
        if name == self._missing:
            raise AttributeError(name)
        return lambda: ContextParams(**self._defaults)


def test_library_of_the_lock_is_one_whose_layouts_were_read() -> None:
    """Whoever raises the locked version has to read its headers and run the engine's tests first; what users install is
    pinned to the same.
    """
    (locked,) = re.findall(r"^xllamacpp==(\S+)", LOCK.read_text(), re.MULTILINE)
    check_version(locked)
    assert tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["node"] == [f"xllamacpp=={locked}"]


def test_library_of_another_version_is_refused() -> None:
    """The refusal names the version that is there and the one to install."""
    with pytest.raises(ConfigError, match=r"xllamacpp 2027\.1\.1 was never tested.*pip install xllamacpp=="):
        check_version("2027.1.1")


def test_library_without_a_symbol_is_refused() -> None:
    """The refusal names the missing function."""
    with pytest.raises(ConfigError, match="has no ggml_vec_soft_max_f32: install xllamacpp=="):
        LlamaLibrary(FakeHandle(missing="ggml_vec_soft_max_f32"))


def test_library_with_other_defaults_is_refused() -> None:
    """Defaults that don't lie where they should mean another layout."""
    LlamaLibrary(FakeHandle())
    with pytest.raises(ConfigError, match="lays out its context as"):
        LlamaLibrary(FakeHandle(n_batch=1))
