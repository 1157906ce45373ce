"""JSON-RPC envelopes: what is malformed gets its code, batches keep order, bugs get an id."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from steelyard.chain.embedded.jsonrpc import MAX_BATCH, answer
from steelyard.errors import BadRequest, Refusal, Reverted, TooLarge


async def echo(params: list[Any]) -> Any:
    """Return the parameters."""
    return params


async def fail(params: list[Any]) -> Any:
    """Raise what the parameter names."""
    raise {
        "params": BadRequest("invalid argument 0"),
        "refused": Refusal("nonce too low"),
        "reverted": Reverted("execution reverted: no", reason="no", data=b"\x01\x02"),
        "large": TooLarge("too many results"),
        "bug": ZeroDivisionError("secret detail"),
    }[params[0]]


def ask(body: Any) -> Any:
    """Return the decoded answer to a body, sent as it is if it's a string."""
    raw = body if isinstance(body, (str, bytes)) else json.dumps(body)
    result = asyncio.run(answer(raw, {"echo": echo, "fail": fail, "eth_sendRawTransaction": echo}))
    return None if result is None else json.loads(result)


def request(method: str = "echo", params: Any = (), **fields: Any) -> dict[str, Any]:
    """Return a request."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params, **fields}


def test_answer_request_returns_its_result_under_its_id() -> None:
    """A result comes back with the id as sent; parameters may be left out."""
    assert ask(request(params=[1, "a"], id="x")) == {"jsonrpc": "2.0", "id": "x", "result": [1, "a"]}
    assert ask({"jsonrpc": "2.0", "id": None, "method": "echo"}) == {"jsonrpc": "2.0", "id": None, "result": []}


@pytest.mark.parametrize(
    ("body", "code", "request_id"),
    [
        ("{", -32700, None),
        (b"\xff\xfe", -32700, None),
        ("[" * 100_000, -32700, None),
        ('{"a":' * 100_000, -32700, None),
        ('["' + "[" * 1_000 + '", ' + '"\\"[",' * 1_000 + '"' + "{" * 1_000 + '"', -32700, None),  # in strings; no end
        ([], -32600, None),
        (5, -32600, None),
        ({"id": 1, "method": "echo"}, -32600, 1),
        (request(method=5), -32600, 1),
        (request(id={}), -32600, None),
        (request(method="nothing"), -32601, 1),
        (request(params={"a": 1}), -32602, 1),
        (request("fail", ["params"]), -32602, 1),
        (request("fail", ["refused"]), -32000, 1),
        (request("fail", ["large"]), -32005, 1),
        (request("fail", ["bug"]), -32603, 1),
        ([request()] * (MAX_BATCH + 1), -32600, None),
    ],
)
def test_answer_what_is_wrong_gets_its_code(body: Any, code: int, request_id: Any) -> None:
    """Each kind of mistake has the code that the specifications give it."""
    reply = ask(body)
    assert (reply["error"]["code"], reply["id"]) == (code, request_id)


def test_answer_brackets_in_strings_and_wide_batches_are_not_nesting() -> None:
    """Only depth is bounded: brackets in strings, escaped quotes and many requests side by side pass."""
    text = '[{"\\' * 500
    assert ask(request(params=[text]))["result"] == [text]
    replies = ask([request(params=[[[]], {"a": [1]}], id=i) for i in range(300)])
    assert [reply["id"] for reply in replies] == list(range(300))


def test_answer_revert_carries_its_data() -> None:
    """A revert is code 3, with the data in hex."""
    assert ask(request("fail", ["reverted"]))["error"] == {
        "code": 3,
        "message": "execution reverted: no",
        "data": "0x0102",
    }


def test_answer_bug_is_shown_as_an_id_only() -> None:
    """Our own failure tells the client an id, and none of its words."""
    message = ask(request("fail", ["bug"]))["error"]["message"]
    assert "fault " in message
    assert "secret" not in message


def test_answer_batch_keeps_order_and_drops_notifications() -> None:
    """A batch is answered in order, without answers to notifications; nothing but those is answered by nothing."""
    notification = {"jsonrpc": "2.0", "method": "echo", "params": [0]}
    replies = ask([request(params=[1], id=1), notification, 7, request("nothing", id=2)])
    assert [reply.get("result", reply.get("error", {}).get("code")) for reply in replies] == [[1], -32600, -32601]
    assert ask([notification]) is None
    assert ask(notification) is None


def test_answer_batch_takes_in_transactions_that_stand_in_a_row_together() -> None:
    """A run of transactions is in flight at once; what stands behind it waits for it."""
    running: list[str] = []

    async def slow(params: list[Any]) -> int:
        running.append(params[0])
        await asyncio.sleep(0)
        return len(running)

    async def story() -> Any:
        batch = [request("eth_sendRawTransaction", [c]) for c in "ab"] + [request("read", ["c"])]
        reply = await answer(json.dumps(batch), {"eth_sendRawTransaction": slow, "read": slow})
        return json.loads(reply or b"")

    assert [reply["result"] for reply in asyncio.run(story())] == [2, 2, 3]
