"""Answers in OpenAI's shape: every chunk is JSON of its own, and nothing a provider sends breaks out of it."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from steelyard.errors import BadMessage, Unavailable
from steelyard.gateway.answers import open_shape
from steelyard.link.port import Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Receipt
from steelyard.services.port import Request

RECEIPT = Receipt(ZERO32, 0, ZERO32, ZERO32, 3, 2, 7, 1, 2, 0)
STAMP = b'{"provider":"0x01"}'


def _shape(api: str = "chat.completions", **fields: object):  # type: ignore[no-untyped-def]
    return open_shape(Request(api=api, model="m", **fields), b"ab", b'"100% m"', 5)  # type: ignore[arg-type]


def _events(raw: bytes) -> list[object]:
    lines = raw.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line if line.endswith("[DONE]") else json.loads(line[6:]) for line in lines]


def test_chat_answer_whole_has_openai_fields() -> None:
    """Id, object, choice, usage and our stamp are where the stock client looks."""
    body = json.loads(_shape().whole(Piece('he"y ✓'.encode(), 3, 2), RECEIPT, STAMP))
    assert body["object"] == "chat.completion"
    assert body["id"] == "chatcmpl-ab"
    assert body["model"] == "100% m"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": 'he"y ✓', "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert body["steelyard"] == {"provider": "0x01"}


def test_chat_stream_begins_with_role_and_ends_with_stamp_and_done() -> None:
    """Role first, contents, finish reason, stamp in the last chunk, then [DONE]."""
    shape = _shape()
    events = _events(shape.chunk(Piece(b"a", 3, 1)) + shape.chunk(Piece(b"b", 0, 1)) + shape.end(RECEIPT, STAMP))
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [event["choices"][0]["delta"].get("content") for event in events[1:3]] == ["a", "b"]
    assert events[3]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert events[3]["steelyard"] == {"provider": "0x01"}
    assert events[4] == "data: [DONE]"


def test_chat_stream_with_usage_has_it_in_a_last_chunk_without_choices() -> None:
    """`stream_options.include_usage` gives null usage on the way and the real one at the end, with the stamp."""
    shape = _shape(include_usage=True)
    events = _events(shape.chunk(Piece(b"a", 3, 1)) + shape.end(RECEIPT, STAMP))
    assert all(event["usage"] is None for event in events[:-2])
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["total_tokens"] == 5
    assert events[-2]["steelyard"]


def test_empty_stream_still_has_its_role() -> None:
    """An answer without any content is a whole stream nevertheless."""
    assert _events(_shape().end(RECEIPT, STAMP))[0]["choices"][0]["delta"]["role"] == "assistant"


def test_cut_stream_says_so_and_never_done() -> None:
    """An `error` object with finish_reason error, no [DONE]."""
    for api in ("chat.completions", "completions"):
        raw = _shape(api).cut(Unavailable("gone", code="provider_lost"))
        (event,) = _events(raw)
        assert event["error"]["code"] == "provider_lost"
        assert event["choices"][0]["finish_reason"] == "error"
        assert b"[DONE]" not in raw


def test_detail_with_line_breaks_stays_inside_its_event() -> None:
    """A provider cannot smuggle an event of its own through the whitespace of JSON."""
    detail = b'{"logprobs":{"content":[]\n\n\r\n}}'
    events = _events(_shape().chunk(Piece(b"a", 1, 1, detail)))
    assert events[1]["choices"][0]["logprobs"] == {"content": []}


def test_content_with_line_breaks_stays_inside_its_event() -> None:
    """Text is escaped."""
    events = _events(_shape().chunk(Piece(b"\n\ndata: [DONE]\n\n", 1, 1)))
    assert events[1]["choices"][0]["delta"]["content"] == "\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("detail", [b"{", b"[]", b'{"logprobs":}', b"\xff"])
def test_malformed_detail_is_the_providers_fault(detail: bytes) -> None:
    """What can't be passed on as JSON is refused."""
    with pytest.raises(BadMessage):
        _shape().chunk(Piece(b"a", 1, 1, detail))


def test_broken_utf8_is_the_providers_fault() -> None:
    """Content is decoded strictly."""
    with pytest.raises(BadMessage, match="UTF-8"):
        _shape().whole(Piece(b"\xff", 1, 1), RECEIPT, STAMP)


def _call(name: str, arguments: str) -> dict[str, object]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_tool_calls_come_from_the_content_that_the_receipt_binds() -> None:
    """What the detail says of them is not believed; text before them stays text."""
    lie = b'{"tool_calls":[{"id":"other"}]}'
    content = b"\x1ex\x1fadd\x1f{}\x1ex\x1fsub\x1f[1]"
    message = json.loads(_shape().whole(Piece(content, 1, 1, lie), RECEIPT, STAMP))["choices"][0]["message"]
    assert message["tool_calls"] == [_call("add", "{}"), _call("sub", "[1]")]
    assert message["content"] is None
    message = json.loads(_shape().whole(Piece(b"so: " + content, 1, 1, lie), RECEIPT, STAMP))["choices"][0]["message"]
    assert message["content"] == "so: "


def test_tool_calls_stream_as_deltas() -> None:
    """A call begins with its id and name, and its arguments follow."""
    shape, mark = _shape(), b'{"tool_calls":[]}'
    parts = (b"\x1ex\x1fadd\x1f", b'{"a"', b":1}", b"\x1ex\x1fsub\x1f{}")
    deltas = [_events(shape.chunk(Piece(part, 0, 1, mark)))[-1]["choices"][0]["delta"] for part in parts]
    assert deltas == [
        {"tool_calls": [{"index": 0, **_call("add", "")}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {"tool_calls": [{"index": 1, **_call("sub", "{}")}]},
    ]


def test_unreadable_tool_calls_are_the_providers_fault() -> None:
    """A call without its name can't be passed on."""
    with pytest.raises(BadMessage):
        _shape().whole(Piece(b"\x1ex", 1, 1, b'{"tool_calls":[]}'), RECEIPT, STAMP)


def test_completion_answers_in_its_own_object() -> None:
    """`text_completion`, whole and streamed."""
    body = json.loads(_shape("completions").whole(Piece(b"x", 1, 1), RECEIPT, STAMP))
    assert (body["object"], body["id"], body["choices"][0]["text"]) == ("text_completion", "cmpl-ab", "x")
    shape = _shape("completions")
    events = _events(shape.chunk(Piece(b"x", 1, 1)) + shape.end(RECEIPT, STAMP))
    assert events[0]["choices"][0]["text"] == "x"
    assert events[1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_divide_into_equal_vectors(encoding: str) -> None:
    """As many vectors as inputs, in either encoding."""
    content = struct.pack("<6f", 0.5, 1, 2, 3, 4, 5)
    shape = _shape("embeddings", count=2, encoding=encoding)
    body = json.loads(shape.whole(Piece(content, 3, 0), RECEIPT, STAMP))
    vectors = [item["embedding"] for item in body["data"]]
    if encoding == "base64":
        vectors = [list(struct.unpack("<3f", base64.b64decode(vector))) for vector in vectors]
    assert vectors == [[0.5, 1, 2], [3, 4, 5]]
    assert body["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("content", [b"", b"\x00" * 10, b"\x00" * 6])
def test_embeddings_of_a_wrong_size_are_the_providers_fault(content: bytes) -> None:
    """Vectors that don't divide evenly, or aren't float32, are refused."""
    with pytest.raises(BadMessage):
        _shape("embeddings", count=2).whole(Piece(content, 1, 0), RECEIPT, STAMP)
