"""services/rpc/messages.py: JSON-RPC bodies to items, refusals with the id kept."""

from __future__ import annotations

import json

import pytest

from steelyard.services.rpc.messages import (
    INVALID_REQUEST,
    MAX_ITEMS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    BadRpc,
    RpcItem,
    RpcPayload,
    build_request,
    build_response,
    error_response,
    join_responses,
    parse_body,
)


def parse(body: bytes) -> RpcPayload:
    """As a chain that refuses `no_*`."""
    return parse_body(body, ("2.0",), lambda method: f"{method} is refused" if method.startswith("no_") else "")


def test_single_request_keeps_id_and_params_as_written() -> None:
    """The id's and the parameters' bytes are the client's own."""
    payload = parse(b' {"jsonrpc":"2.0","id": 1.50e1 ,"method":"m","params":[1, {"a" : 2}]}')
    assert payload == RpcPayload((RpcItem(b"1.50e1", "m", b'[1, {"a" : 2}]'),), is_batch=False)


def test_notification_has_no_id_and_null_is_one() -> None:
    """A left-out id is a notification, which is never answered; null is an id like any other."""
    assert parse(b'{"jsonrpc":"2.0","method":"m"}').items == (RpcItem(b"", "m"),)
    assert parse(b'{"jsonrpc":"2.0","method":"m","id":null,"params":null}').items == (RpcItem(b"null", "m"),)


@pytest.mark.parametrize(
    ("body", "code", "id_raw"),
    [
        (b"", PARSE_ERROR, b"null"),
        (b"{", PARSE_ERROR, b"null"),
        (b"[1,", PARSE_ERROR, b"null"),
        (b"\xff\xfe", PARSE_ERROR, b"null"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a\xff"}', PARSE_ERROR, b"null"),
        (b"[" * 20_000, PARSE_ERROR, b"null"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":[' + b"[" * 20_000, PARSE_ERROR, b"null"),
        (b"[]", INVALID_REQUEST, b"null"),
        (b"5", INVALID_REQUEST, b"null"),
        (b'"x"', INVALID_REQUEST, b"null"),
        (b"null", INVALID_REQUEST, b"null"),
        (b"{}", INVALID_REQUEST, b"null"),
        (b'{"jsonrpc":"1.0","id":7,"method":"m"}', INVALID_REQUEST, b"7"),
        (b'{"id":"a b","method":"m"}', INVALID_REQUEST, b'"a b"'),
        (b'{"jsonrpc":2,"id":7,"method":"m"}', INVALID_REQUEST, b"7"),
        (b'{"jsonrpc":"2.0","id":7}', INVALID_REQUEST, b"7"),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', INVALID_REQUEST, b"7"),
        (b'{"jsonrpc":"2.0","id":7,"method":""}', INVALID_REQUEST, b"7"),
        (b'{"jsonrpc":"2.0","id":7,"method":"a b"}', INVALID_REQUEST, b"7"),
        (b'{"jsonrpc":"2.0","id":7,"method":"' + b"m" * 200 + b'"}', INVALID_REQUEST, b"7"),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":5}', INVALID_REQUEST, b"7"),
        (b'{"jsonrpc":"2.0","id":[7],"method":"m"}', INVALID_REQUEST, b"null"),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', INVALID_REQUEST, b"null"),
        (b'{"jsonrpc":"2.0","id":"' + b"i" * 300 + b'","method":"m"}', INVALID_REQUEST, b"null"),
        (b'{"jsonrpc":"2.0","id":7,"method":"no_way"}', METHOD_NOT_FOUND, b"7"),
    ],
)
def test_bad_request_is_refused_with_the_specs_code_and_its_id(body: bytes, code: int, id_raw: bytes) -> None:
    """-32700 for what is no JSON, -32600 for what is no request, -32601 for what isn't served; the id is kept."""
    with pytest.raises(BadRpc) as caught:
        parse(body)
    assert (caught.value.rpc_code, caught.value.id_raw) == (code, id_raw)
    answer = json.loads(error_response(caught.value.id_raw, caught.value.rpc_code, caught.value.message))
    assert answer["error"]["code"] == code


def test_batch_keeps_order_duplicates_and_errors_in_place() -> None:
    """Every item stands where the client put it, the bad ones with their error; none spoils the others."""
    items = parse(
        b'[{"jsonrpc":"2.0","id":1,"method":"a"},5,{"jsonrpc":"2.0","id":1,"method":"b"},'
        b'{"jsonrpc":"2.0","id":"x","method":"no_way"},{"jsonrpc":"2.0","method":"n"},{"jsonrpc":"2.0","method":"no_n"}]'
    ).items
    assert [item.id_raw for item in items] == [b"1", b"null", b"1", b'"x"', b"", b""]
    assert [item.method for item in items if not item.error] == ["a", "b", "n"]
    codes = [json.loads(item.error)["code"] for item in items if item.error]
    assert codes == [INVALID_REQUEST, METHOD_NOT_FOUND, METHOD_NOT_FOUND]


def test_batch_over_the_bound_is_refused_whole() -> None:
    """One request more than the bound is refused with the bound."""
    item = b'{"jsonrpc":"2.0","id":1,"method":"a"}'
    assert len(parse(b"[" + b",".join([item] * MAX_ITEMS) + b"]").items) == MAX_ITEMS
    with pytest.raises(BadRpc, match=str(MAX_ITEMS)) as caught:
        parse(b"[" + b",".join([item] * (MAX_ITEMS + 1)) + b"]")
    assert caught.value.code == "batch_too_large"


def test_older_versions_pass_only_where_the_family_speaks_them() -> None:
    """Bitcoin's clients say 1.0 or nothing; that is taken where the chain's nodes take it."""
    for body in (b'{"id":1,"method":"m"}', b'{"jsonrpc":"1.0","id":1,"method":"m"}'):
        assert parse_body(body, ("2.0", "1.0", ""), lambda _: "").items[0].method == "m"
        with pytest.raises(BadRpc):
            parse(body)


def test_request_sent_upstream_is_written_anew() -> None:
    """A client's duplicate keys and odd members never reach a node: only what was read is sent, under our id."""
    body = b'{"jsonrpc":"2.0","method":"no_way","id":"mine","method":"fine","params":{"a":1},"auth":"x"}'
    (item,) = parse(body).items
    assert json.loads(build_request(item, 3)) == {"jsonrpc": "2.0", "id": 3, "method": "fine", "params": {"a": 1}}
    assert json.loads(build_request(RpcItem(b"", "n"), 3)) == {"jsonrpc": "2.0", "method": "n"}


def test_responses_are_joined_as_they_were_asked() -> None:
    """One object for one request, a list for a batch, nothing for notifications alone."""
    one = build_response(b'"a"', result=b'{"x": 1}')
    assert one == b'{"jsonrpc":"2.0","id":"a","result":{"x": 1}}'
    assert join_responses([one], is_batch=False) == one
    assert join_responses([one], is_batch=True) == b"[" + one + b"]"
    assert join_responses([], is_batch=True) == b""
