"""`config show` and `models list`: what is there, and where it comes from, with nothing running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.app import main
from steelyard.weights.catalogue import KNOWN_MODELS


def read(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Return the one JSON value that a command prints."""
    with pytest.raises(SystemExit) as caught:
        main([*words, "--json"])
    assert not caught.value.code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home of the test's own."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    return tmp_path


def test_config_show_names_each_setting_with_its_source(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A default, the file, a variable; a password in a URL and an upstream's key are hidden."""
    monkeypatch.setenv("STEELYARD_GATEWAY__MAX_CALLS", "77")
    (home / "config.toml").write_text(
        '[gateway]\nport = 8181\n[node]\ndatabase = "postgresql://me:canary-1@host/name"\n'
        '[[node.services]]\nname = "a"\nbase_url = "http://127.0.0.1:9/v1"\napi_key = "canary-2"\n'
    )
    shown = read(capsys, "config", "show")
    assert shown["gateway.max_body_bytes"]["source"] == "default"
    assert shown["gateway.port"]["value"] == 8181
    assert "config.toml" in shown["gateway.port"]["source"]
    assert shown["gateway.max_calls"]["value"] == 77
    assert "STEELYARD_GATEWAY__MAX_CALLS" in shown["gateway.max_calls"]["source"]
    assert "canary" not in json.dumps(shown)
    assert "me:" in shown["node.database"]["value"]


def test_models_list_says_which_are_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every known model with its URL, hash, size and licence; none is here in an empty cache."""
    monkeypatch.setenv("STEELYARD_WEIGHTS__CACHE", str(tmp_path / "weights"))
    models = read(capsys, "models", "list")
    assert {model["name"] for model in models} == set(KNOWN_MODELS)
    for model in models:
        assert model["is_here"] is False
        assert len(model["sha256"]) == 64
        assert all(model[fact] for fact in ("title", "url", "size_bytes", "licence"))
