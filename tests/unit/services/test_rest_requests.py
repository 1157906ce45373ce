"""services/rest/requests.py: what a caller may ask of an operator's server, and nothing beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.errors import BadRequest
from steelyard.services.rest.requests import (
    MAX_BODY_BYTES,
    MAX_PATH_CHARS,
    RestPayload,
    encode_call,
    pack_answer,
    read_answer,
    read_call,
)


def test_call_is_read_as_it_was_written() -> None:
    """Method, path, query, content type and body come through; the path loses its first slash."""
    data = encode_call("post", "/a/b%20c", "x=1&y=%2F", "application/json", b'{"a":1}')
    assert read_call(data) == RestPayload("POST", "a/b%20c", "x=1&y=%2F", "application/json", b'{"a":1}')
    assert read_call(encode_call("GET", "")) == RestPayload("GET", "", "", "", b"")


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../admin",
        "/../admin",
        "a/../../admin",
        "a/./b",
        ".",
        "%2e%2e/admin",
        "%2E./admin",
        "a/%2e%2e%2fadmin",
        "%252e%252e/admin",
        "..%5cadmin",
        "a\\..\\admin",
        "//evil.example/x",
        "/%2F/evil.example",
        "a//b",
        "..;/admin",
        "http://evil.example/",
        "a b",
        "a\nb",
        "a%0d%0aHost:evil",
        "a%00",
        "a?x=1",
        "a#b",
        "a%zz",
        "ä",
        "x" * (MAX_PATH_CHARS + 1),
    ],
)
def test_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    """Out of the prefix, to another host, or into the headers: refused with the field, however it is written."""
    with pytest.raises(BadRequest) as caught:
        read_call(encode_call("GET", path))
    assert caught.value.param == "path"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"method": "CONNECT"}, "method"),
        ({"method": "TRACE"}, "method"),
        ({"method": "GET\r\nX: y"}, "method"),
        ({"query": "a b"}, "query"),
        ({"query": "a\r\nb"}, "query"),
        ({"query": "a#b"}, "query"),
        ({"content_type": "text"}, None),
        ({"content_type": "text/plain\r\nX: y"}, None),
        ({"body_b64": "?"}, "body_b64"),
        ({"body_b64": "eA=="}, "body"),
        ({"method": "POST", "body_b64": "A" * (4 * (MAX_BODY_BYTES // 3 + 2))}, "body"),
        ({"host": "evil.example"}, None),
        ({"url": "http://evil.example"}, None),
        ({"headers": {}}, None),
        ({"path": 5}, None),
    ],
)
def test_call_that_breaks_a_rule_is_refused(change: dict[str, Any], param: str | None) -> None:
    """No other methods, no header in disguise, no host, no body where none belongs, none too large."""
    with pytest.raises(BadRequest) as caught:
        read_call(json.dumps({"method": "GET", "path": "a", **change}).encode())
    assert caught.value.param == param


def test_body_of_the_greatest_size_passes_and_one_byte_more_does_not() -> None:
    """The bound is on the bytes, not on their base64."""
    assert len(read_call(encode_call("PUT", "a", body=b"x" * MAX_BODY_BYTES)).body) == MAX_BODY_BYTES
    with pytest.raises(BadRequest):
        read_call(encode_call("PUT", "a", body=b"x" * (MAX_BODY_BYTES + 1)))


def test_answer_through_its_content_is_the_same() -> None:
    """Status, content type and bytes, newlines among them."""
    content = pack_answer(404, "application/json; charset=utf-8", b'{"a":\n1}')
    assert content == b'404 application/json; charset=utf-8\n{"a":\n1}'
    assert read_answer(content) == (404, "application/json; charset=utf-8", b'{"a":\n1}')
    assert read_answer(pack_answer(204, "", b"")) == (204, "", b"")


@pytest.mark.parametrize(
    "content", [b"", b"200", b"200\n", b"99 a/b\n", b"1000 a/b\n", b"xyz a/b\n", b"200 a\rb\n", b"200 a/b\r\nSet: x"]
)
def test_content_that_is_no_answer_is_refused(content: bytes) -> None:
    """A provider's content is untrusted: what isn't a status and a content type is never shown as one."""
    with pytest.raises(ValueError, match="answer"):
        read_answer(content)
