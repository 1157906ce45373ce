"""services/rpc/blame.py: what is an answer, and what is only a node's own failure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from steelyard.services.rpc.blame import NODE_CODES, blame_node

ITS_OWN = [
    *({"code": code, "message": "x"} for code in sorted(NODE_CODES)),
    {"code": -32603, "message": "<html><head><title>502 Bad Gateway</title></head></html>"},
    {"code": -32603, "message": "Internal error", "data": "<!DOCTYPE html><p>busy"},
    {"code": -32603, "message": 'upstream said {"jsonrpc":"2.0","error":{"code":429,"message":"slow down"}}'},
    {"code": -32603, "message": "Internal error", "data": {"error": {"code": -32000}}},
    {"code": -32603, "message": '{"code": 429, "message": "rate limited"}'},
    {"code": "x"},
    {"message": "no code"},
]

AN_ANSWER = [
    {"code": 3, "message": "execution reverted: <html>", "data": "0x08c379a0"},
    {"code": -32000, "message": "<html>"},
    {"code": -32601, "message": "no such method"},
    {"code": -32602, "message": "invalid params"},
    {"code": -32603, "message": "Internal error"},
    {"code": -32603, "message": "VM Exception: reverted with '<html>{\"error\":1}'"},
    {"code": -32603, "message": "<html>", "data": "0x"},
    {"code": -32603, "message": "wanted {} but got {x}"},
    {"code": -32603, "message": "overflow", "data": {"hash": "0x1"}},
]


@pytest.mark.parametrize("error", ITS_OWN, ids=json.dumps)
def test_error_of_the_node_itself_is_blamed_on_it(error: dict[str, Any]) -> None:
    """Valid requests called invalid, limits, and another server's words wrapped up are nobody's answer."""
    assert blame_node(json.dumps(error).encode())


@pytest.mark.parametrize("error", AN_ANSWER, ids=json.dumps)
def test_error_about_the_request_is_the_answer(error: dict[str, Any]) -> None:
    """Reverts above all, whatever a contract writes into them: nobody can make honest nodes look broken."""
    assert blame_node(json.dumps(error).encode()) == ""


@pytest.mark.parametrize("raw", [b"", b"null", b'"text"', b"[1]", b"{", b"\xff"])
def test_error_that_is_none_is_the_nodes_fault(raw: bytes) -> None:
    """What is no error object tells nothing of the request."""
    assert blame_node(raw)
