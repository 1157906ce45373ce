"""cli/logs.py: what every process logs of a bug holds nobody's text."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog

from steelyard.cli.logs import configure_logs
from steelyard.errors import Unavailable


def logged(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the one line that was logged."""
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("is_given", [True, False], ids=["given", "in flight"])
def test_bug_is_logged_by_its_type_and_frames_without_its_message(
    capsys: pytest.CaptureFixture[str], is_given: bool
) -> None:
    """A plug-in that raises with a prompt in its message leaves no word of it, nor of what it was raised from."""
    configure_logs()
    log = structlog.get_logger("steelyard.test")
    try:
        try:
            raise KeyError("canary in the prompt")
        except KeyError as cause:
            raise ValueError("canary in the answer") from cause
    except ValueError as error:
        if is_given:
            log.error("service_failed", call_id="ab", exc_info=error)
        else:
            log.exception("service_failed", call_id="ab")
    line = logged(capsys)
    assert (line["event"], line["level"], line["call_id"]) == ("service_failed", "error", "ab")
    assert (line["error"], line["cause"]["error"]) == ("ValueError", "KeyError")
    assert any("test_logs.py" in frame for frame in line["frames"])
    assert "canary" not in json.dumps(line)


def test_error_of_ours_is_logged_with_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    """It was written for people and holds no one's text."""
    configure_logs()
    structlog.get_logger("steelyard.test").error("engine_lost", exc_info=Unavailable("the engine is gone"))
    assert (line := logged(capsys))["error"] == "Unavailable"
    assert line["reason"] == "the engine is gone"


def test_line_without_an_error_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """Level and time beside what was said."""
    configure_logs(is_quiet=True)
    log = structlog.get_logger("steelyard.test")
    log.info("nothing_happened")
    log.warning("link_lost", url="ws://a")
    assert {key: value for key, value in logged(capsys).items() if key != "timestamp"} == {
        "event": "link_lost",
        "level": "warning",
        "url": "ws://a",
    }
