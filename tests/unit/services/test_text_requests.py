"""services/text_requests.py: what chat and echo make of a body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.errors import BadRequest
from steelyard.protocol.sampler import SamplerParams
from steelyard.services.chat.service import STEP_PARAMETERS
from steelyard.services.manifest import Manifest
from steelyard.services.text_requests import TextRequests

MANIFEST = Manifest(
    name="m",
    kind="chat",
    context_tokens=100,
    max_tokens_default=20,
    longest_token_bytes=8,
    temperature_default=0.2,
    top_p_default=0.9,
    parameters=STEP_PARAMETERS,
)
USER = {"role": "user", "content": "hi"}


def parse(api: str = "chat.completions", **fields: Any) -> Any:
    """Parse a body with these fields beside a good model and messages (or prompt)."""
    base: dict[str, Any] = {"model": "m"}
    base |= {"messages": [USER]} if api == "chat.completions" else {"prompt": "hi"}
    return TextRequests(MANIFEST).parse(api, json.dumps({**base, **fields}).encode())


def test_request_without_parameters_takes_the_manifests_defaults() -> None:
    """Temperature and top_p come from the manifest; nothing else is invented."""
    request = parse()
    assert request.payload.sampling == SamplerParams(0.2, 0.9, 0)
    assert (request.seed, request.stream, request.payload.max_tokens, request.payload.stops) == (None, False, None, ())


def test_request_keeps_what_the_caller_said() -> None:
    """Seed, stops, usage and sampling arrive as they were meant; a negative seed is taken modulo 2^64."""
    request = parse(
        seed=-1, stop="x", stream=True, stream_options={"include_usage": True}, temperature=0, top_k=3, max_tokens=5
    )
    assert request.seed == 2**64 - 1
    assert request.stream
    assert request.include_usage
    assert request.payload.stops == ("x",)
    assert request.payload.sampling == SamplerParams(0.0, 0.9, 3)
    assert request.payload.max_tokens == 5


def test_request_in_parts_reads_as_their_text_joined() -> None:
    """Content as a list of text parts is the same as one string, in length and in meaning."""
    parts = [{"type": "text", "text": "ß"}, {"type": "text", "text": "🦄"}]
    request = parse(messages=[{"role": "user", "content": parts}])
    assert request.payload.messages[0].text == "ß🦄"
    assert request.input_bytes == parse(messages=[{"role": "user", "content": "ß🦄"}]).input_bytes


def test_input_is_counted_in_bytes_of_utf8() -> None:
    """A character of four bytes may be four tokens, so it counts four."""
    assert (
        parse(messages=[{"role": "user", "content": "🦄"}]).input_bytes
        == parse(messages=[{"role": "user", "content": ""}]).input_bytes + 4
    )
    assert parse("completions", prompt="ß🦄").input_bytes == 6


def test_prefix_stays_the_same_while_a_conversation_grows() -> None:
    """Later turns of one conversation share the prefix that routes them to a warm cache; another one does not."""
    turns = [{"role": "system", "content": "s"}, USER]
    later = [*turns, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
    assert parse(messages=turns).prefix == parse(messages=later).prefix != b""
    assert parse(messages=[USER]).prefix != parse(messages=turns).prefix


def test_an_earlier_answer_can_be_sent_back_as_the_client_got_it() -> None:
    """The stock client dumps its answers with nulls and empty lists; they are read without complaint."""
    answer = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None}
    answer |= {"function_call": None, "tool_calls": None}
    assert len(parse(messages=[USER, answer, USER]).payload.messages) == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0]"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x" * 900}]}, "messages"),
    ],
)
def test_conversation_that_can_not_be_served_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """What is wrong beyond types and ranges is named too."""
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", ["", [], ["a", "b"], [1, 2], [[1]]])
def test_prompt_that_is_not_one_text_is_refused(prompt: Any) -> None:
    """One prompt of text a request: no lists of several, no token ids of another tokenizer, nothing empty."""
    with pytest.raises(BadRequest) as caught:
        parse("completions", prompt=prompt)
    assert str(caught.value.param).startswith("prompt")


def test_prompt_in_a_list_of_one_is_that_prompt() -> None:
    """The stock client's users write both."""
    assert parse("completions", prompt=["a"]).payload.prompt == "a"


def test_another_api_is_refused() -> None:
    """A chat model has no embeddings to give."""
    with pytest.raises(BadRequest, match=r"answers chat\.completions"):
        TextRequests(MANIFEST).parse("embeddings", b"{}")
