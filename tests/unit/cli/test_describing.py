"""`steelyard services describe`: a manifest that can be registered, or one line that says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard.cli.app import main
from steelyard.services.echo import EchoService
from steelyard.services.manifest import decode_manifest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home of the test's own."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    return tmp_path


def ends(*words: str) -> int:
    """Return the status with which ``services describe`` ends."""
    with pytest.raises(SystemExit) as caught:
        main(["services", "describe", *words])
    return int(caught.value.code or 0)


def test_manifest_goes_to_standard_output_and_the_next_step_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is the kind's own manifest; where to save it, and how to register it, is said."""
    assert ends("my-echo", "echo", "--owned-by", "me") == 0
    said = capsys.readouterr()
    assert decode_manifest(said.out.encode()) == EchoService.describe("my-echo", owned_by="me")
    assert "steelyard services register my-echo echo --manifest my-echo.json" in said.err


def test_manifest_is_written_to_a_file_that_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next command names the same file; a script gets its content id."""
    out = home / "it.json"
    assert ends("my-echo", "echo", "--description", "says it again", "--out", str(out)) == 0
    assert decode_manifest(out.read_bytes()).description == "says it again"
    assert f"steelyard services register my-echo echo --manifest {out}" in capsys.readouterr().err
    assert ends("my-echo", "echo", "--out", str(out), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["path"], said["name"], said["kind"]) == (str(out), "my-echo", "echo")
    assert said["manifest"].startswith("bafkrei")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Bad Name", "echo"), "'Bad Name' is no service name"),
        (("a", "ekho"), "no plug-in for the kind 'ekho' is installed; installed are chat, echo, embeddings"),
        (("a", "chat"), "say what makes the answers of 'a': either --weights or --base-url"),
        (("a", "chat", "--weights", "smollm2-135m", "--base-url", "http://127.0.0.1:9"), "either --weights or"),
        (("a", "echo", "--weights", "smollm2-135m"), "the kind 'echo' needs no engine"),
        (("a", "chat", "--weights", "none.gguf"), "no known model is called 'none.gguf'"),
        (("a", "chat", "--weights", "file:none.gguf"), "none.gguf does not exist"),
        (("a", "chat", "--weights", "file:x", "--parameter", "tools"), "--parameter tells of a server"),
        (("a", "chat", "--base-url", "http://127.0.0.1:9/v1"), "give --context"),
        (("a", "chat", "--base-url", "ftp://a", "--context", "9"), "the option base_url is no URL of a server"),
        (("a", "chat", "--base-url", "http://127.0.0.1:9/v1", "--context", "9"), "does not answer"),
        (("a", "echo", "--out", "/none/a.json"), "can't write the manifest to /none/a.json"),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is fetched, loaded or written for words that can't lead to a manifest."""
    assert ends(*words) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    error = said.err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
