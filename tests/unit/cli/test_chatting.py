"""`steelyard chat`: where it asks, and what it says of an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard.cli.chatting import Answer, _take, describe, find_endpoint
from steelyard.cli.running import claim_home
from steelyard.errors import ConfigError


def test_endpoint_is_what_was_given_else_the_running_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option beats the network of the home; neither, or one that was killed, is a clear refusal."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="steelyard up"):
        find_endpoint(tmp_path, None, None)
    (tmp_path / "network.json").write_text(json.dumps({"base_url": "http://127.0.0.1:1/v1/", "api_key": "sk-up"}))
    with claim_home(tmp_path):
        found = find_endpoint(tmp_path, None, None)
    assert (found.base_url, found.headers) == ("http://127.0.0.1:1/v1", {"Authorization": "Bearer sk-up"})
    with pytest.raises(ConfigError, match=r"no network runs in .+: start one with steelyard up"):
        find_endpoint(tmp_path, None, None)  # its supervisor is gone, whatever the file says
    other = find_endpoint(tmp_path, "https://else.example/v1", None)
    assert (other.base_url, other.headers) == ("https://else.example/v1", {})


@pytest.mark.parametrize("url", ["ftp://a/v1", "127.0.0.1:8080", ""])
def test_endpoint_that_is_no_url_is_refused(tmp_path: Path, url: str) -> None:
    """A base URL begins with http:// or https://."""
    with pytest.raises(ConfigError, match="no base URL"):
        find_endpoint(tmp_path, url, None)


def test_answer_is_gathered_from_its_chunks() -> None:
    """Text, finish reason, usage and the last chunk's stamp come together."""
    answer = Answer()
    for event in (
        {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": "Hel"}}]},
        {"choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}], "steelyard": {"cost_nano": 1500}},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ):
        _take(answer, event, True)
    assert (answer.text, answer.finish_reason, answer.stamp) == ("Hello", "stop", {"cost_nano": 1500})
    assert describe(answer) == "[3+2 tokens, 0.0000015 YARD]"


def test_answer_of_a_gateway_without_receipts_is_told_so() -> None:
    """Any OpenAI-compatible server can be asked; one that proves nothing is not made to look as if it did."""
    assert describe(Answer(text="hello")) == "[this gateway gives no receipts]"
