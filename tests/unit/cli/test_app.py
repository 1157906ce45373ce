"""The frame of the command line: fast, lazy, an example everywhere, one line for every error."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from steelyard.cli.app import build_app, main
from steelyard.errors import ConfigError, NotFound

HEAVY = (
    "eth_account",
    "eth",
    "xllamacpp",
    "sqlalchemy",
    "aiohttp",
    "pydantic",
    "uvicorn",
    "picows",
    "asyncpg",
    "structlog",
)


def run_python(code: str) -> tuple[str, float]:
    """Return what a fresh interpreter prints, and the seconds it took; the best of three runs."""
    best = 1e9
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
        best = min(best, time.monotonic() - started)
    return done.stdout, best


def test_import_of_the_package_is_fast_and_loads_nothing() -> None:
    """`import steelyard` takes less than 0.3 s."""
    _, seconds = run_python("import steelyard")
    assert seconds < 0.3


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    """`steelyard --help` takes less than a second, and loads neither chain, engines, database nor server."""
    code = (
        "import sys\nfrom steelyard.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    output, seconds = run_python(code)
    assert output.splitlines()[-1] == "LOADED []"
    assert seconds < 1.0


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every command of a group with its path, groups too."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def all_commands() -> list[tuple[tuple[str, ...], Any]]:
    """Return every command and group below the root."""
    return [(path, command) for path, command in commands(typer.main.get_command(build_app())) if path]


def test_every_command_has_a_help_text_with_an_example_of_itself() -> None:
    """Each command and group says what it does and shows a line to type, which names it."""
    for path, command in all_commands():
        words = "steelyard " + " ".join(path)
        assert command.help, words
        assert words in (command.epilog or ""), words


def test_every_command_of_the_issue_is_there() -> None:
    """What the first issue promises can be typed."""
    there = {" ".join(path) for path, _ in all_commands()}
    promised = """up; down; demo; doctor; chat; models pull; models list; node run; gateway run; chain run; keys create;
        keys list; keys revoke; keys limit; wallet new; wallet show; wallet fund; stake; unstake; deposit;
        withdraw announce; withdraw cancel; withdraw finish; offer set; services list; services register; calls list;
        calls show; redeem; audit; status; config show; backup; restore"""
    assert {" ".join(words.split()) for words in promised.split(";")} <= there


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home, and nothing of the environment's own."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    monkeypatch.delenv("STEELYARD_DEBUG", raising=False)
    return tmp_path


def ends(words: list[str]) -> int:
    """Return the status with which a command line ends."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


def test_config_error_ends_with_two_and_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong key in the settings is one line on standard error, status 2, nothing on standard output."""
    (home / "config.toml").write_text("[gateway]\nprot = 1\n")
    assert ends(["config", "show"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: config.toml: gateway.prot is no setting; did you mean gateway.port?\n"


def test_refusal_ends_with_one_and_json_for_scripts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json an error is a JSON value with its stable code."""
    assert ends(["calls", "show", "nonsense", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    error = json.loads(said.err)["error"]
    assert error["code"] == "invalid_request"
    assert "'nonsense' is no call id" in error["message"]


def test_usage_error_ends_with_two(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An amount that isn't one is told with the value."""
    assert ends(["deposit", "1.5x"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: invalid value for 'YARD': '1.5x' is no amount of YARD")
    assert said.err.endswith("; see steelyard deposit --help\n")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "--bogus"], "no such option: --bogus; see steelyard status --help"),
        (["nonsense"], "no such command 'nonsense'; see steelyard --help"),
        (["stake", "providr", "1"], "'providr' is not one of 'provider', 'gateway', 'validator'"),
        (["calls", "show"], "missing argument"),
    ],
)
def test_usage_error_is_json_for_scripts(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """What was typed wrong has a code and the way on, like every other error."""
    assert ends([*words, "--json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "bad_usage"
    assert message in error["message"]
    assert "Value error" not in error["message"]


def test_group_without_a_command_shows_its_help(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`steelyard wallet` says what there is."""
    assert ends(["wallet"]) == 2
    said = capsys.readouterr()
    assert "steelyard wallet new me" in said.out + said.err
    assert "error:" not in said.err


def test_defect_is_logged_whole_and_shown_as_an_id(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception shows an id and its log, which has the traceback; --debug shows it here too."""

    def fail(self: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("steelyard.cli.invocation.Invocation.settings", property(fail))
    assert ends(["config", "show"]) == 1
    said = capsys.readouterr().err
    assert "secret detail" not in said
    assert "fault_" in said
    story = (home / "logs" / "faults.log").read_text()
    assert "ZeroDivisionError: secret detail" in story
    assert said.split("(")[1].split(")")[0] in story
    assert ends(["--debug", "config", "show"]) == 1
    assert "ZeroDivisionError: secret detail" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(ConfigError("a"), 2), (NotFound("b"), 1)])
def test_errors_of_the_tree_have_their_status(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    """This machine's own set-up is 2, everything else 1."""

    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr("steelyard.cli.invocation.Invocation.settings", property(fail))
    assert ends(["config", "show"]) == status


def test_home_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A home must be a folder."""
    (tmp_path / "file").write_text("")
    assert ends(["--home", str(tmp_path / "file"), "status"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints one line."""
    assert ends(["--version"]) == 0
    assert capsys.readouterr().out.startswith("steelyard 0.")
