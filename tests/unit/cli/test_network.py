"""What `up` prints can be pasted: the curl line is one request that any shell sends."""

from __future__ import annotations

import json
import shlex

import pytest

from steelyard.cli.network import _print_state

STATE = {
    "pid": 1,
    "base_url": "http://127.0.0.1:8080/v1",
    "api_key": "sk-steelyard-canary",
    "rpc_url": "http://127.0.0.1:8545",
    "chain_id": 31415,
    "models": ["echo-1", "vectors-1"],
    "processes": {},
    "logs": "logs",
}


def test_curl_line_of_up_is_one_whole_request(capsys: pytest.CaptureFixture[str]) -> None:
    """The shell's own splitting gives URL, key, content type and a JSON body for the first model."""
    _print_state(STATE, is_json=False)
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.strip().startswith("curl "))
    program, url, *options = shlex.split(line)
    assert (program, url) == ("curl", "http://127.0.0.1:8080/v1/chat/completions")
    pairs = list(zip(options[::2], options[1::2], strict=True))
    assert ("-H", "Authorization: Bearer sk-steelyard-canary") in pairs
    assert ("-H", "Content-Type: application/json") in pairs
    (body,) = (json.loads(value) for flag, value in pairs if flag == "-d")
    assert body["model"] == "echo-1"
    assert body["messages"][0]["role"] == "user"


def test_state_of_up_for_scripts_is_one_json_value(capsys: pytest.CaptureFixture[str]) -> None:
    """`up --json` prints what the two lines are made of, and nothing else."""
    _print_state(STATE, is_json=True)
    assert json.loads(capsys.readouterr().out) == STATE
