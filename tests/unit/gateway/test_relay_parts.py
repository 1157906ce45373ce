"""The relay's small parts: addresses, errors, shapes, and the cache of answers."""

from __future__ import annotations

import json

import pytest

from steelyard.errors import BadMessage, Fault, PaymentRequired, RateLimited, Unavailable
from steelyard.gateway.answers import open_shape
from steelyard.gateway.relay_cache import ENTRY_BYTES, CachedAnswer, RelayCache, cache_key
from steelyard.gateway.relay_errors import read_ids, refusal_object, refusal_reply, rpc_error
from steelyard.gateway.relay_routes import REST, RPC, read_route, shown_path
from steelyard.link.port import Piece
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Receipt
from steelyard.services.port import Request

RECEIPT = Receipt(ZERO32, 0, ZERO32, ZERO32, 3, 2, 7, 1, 2, 0)
BEARER = {b"authorization": b"Bearer sk-steelyard-a"}


def answer(result: bytes, provider: bytes = b"p", since_s: float = 0.0) -> CachedAnswer:
    """Return a kept answer."""
    return CachedAnswer(result, provider, (), b"ab", since_s)


def test_route_of_each_form_names_chain_and_key() -> None:
    """Path, wallet's path, header form and REST all say the same things."""
    assert read_route("/rpc/eth", BEARER) == (RPC, "eth", b"Bearer sk-steelyard-a", "")
    assert read_route("/rpc/eth/", BEARER) == (RPC, "eth", b"Bearer sk-steelyard-a", "")
    assert read_route("/rpc/eth/sk-steelyard-b", {}) == (RPC, "eth", b"Bearer sk-steelyard-b", "")
    for path in ("/", "/v1", "/v1/"):
        assert read_route(path, {b"target-service-id": b" eth "}) == (RPC, "eth", None, "")
    assert read_route("/rest/weather/v2/now", BEARER) == (REST, "weather", b"Bearer sk-steelyard-a", "/v2/now")
    assert read_route("/rest/weather", {}) == (REST, "weather", None, "")
    assert read_route("/v1", {}) is None
    assert read_route("/v1/models", BEARER | {b"target-service-id": b"eth"}) is None


def test_shown_path_has_no_key() -> None:
    """What is logged of a path ends where a key begins."""
    assert shown_path("/rpc/eth/sk-steelyard-secret") == "/rpc/eth/…"
    assert shown_path("/rpc/eth") == "/rpc/eth"


def test_rpc_error_keeps_the_id_byte_for_byte() -> None:
    """Large numbers and escapes come back as they were sent."""
    for id_raw in (b"123456789012345678901234567890", b'"a\\u0031"', b"1.50", b"null"):
        raw = rpc_error(id_raw, -32600, "no")
        assert raw.startswith(b'{"jsonrpc":"2.0","id":' + id_raw + b',"error":{')
        assert json.loads(raw)["error"] == {"code": -32600, "message": "no"}


def test_refusals_have_rpc_codes_and_keep_their_own() -> None:
    """Limits, unavailability, faults and all others each have their number; `data` has the gateway's own code."""
    for error, code in (
        (RateLimited("slow", retry_after_s=1.5), -32005),
        (Unavailable("nobody"), -32002),
        (PaymentRequired("empty", code="budget_exceeded"), -32000),
        (Fault("bug"), -32603),
    ):
        shown = json.loads(refusal_object(error, b"7"))
        assert (shown["id"], shown["error"]["code"], shown["error"]["data"]["code"]) == (7, code, error.code)
    assert json.loads(refusal_object(RateLimited("slow", retry_after_s=1.5), b"1"))["error"]["data"] == {
        "code": "rate_limit_exceeded",
        "status": 429,
        "retry_after_s": 1.5,
    }


def test_refusal_of_a_batch_answers_each_id_in_order() -> None:
    """Duplicate ids too; without any id it is one null."""
    reply = refusal_reply(PaymentRequired("empty"), [b"1", b"1", b'"x"'], is_batch=True)
    assert reply.status == 402
    assert [one["id"] for one in json.loads(reply.body)] == [1, 1, "x"]
    assert (b"x-should-retry", b"false") in reply.headers
    assert json.loads(refusal_reply(PaymentRequired("empty"), [], is_batch=False).body)["id"] is None


def test_refusal_of_an_endless_batch_is_one_error() -> None:
    """Items without number, of two bytes each, make no answer a hundred times as long, and no gateway busy for it."""
    body = b"[" + b"0," * 1_000 + b"0]"
    ids, is_batch = read_ids(body)
    reply = refusal_reply(RateLimited("too many"), ids, is_batch=is_batch)
    assert len(reply.body) < len(body)
    assert json.loads(reply.body)["error"]["data"]["code"] == "rate_limit_exceeded"
    assert read_ids(b'[{"id":1},{"id":"x"}]') == ([b"1", b'"x"'], True)


def test_cache_key_ignores_spaces_between_tokens_and_no_others() -> None:
    """Clients that format differently share an entry; a space inside a string is a difference."""
    assert cache_key("eth", "m", b'["0x1", {"a" :\n1}]') == cache_key("eth", "m", b'["0x1",{"a":1}]')
    assert cache_key("eth", "m", b'["a b"]') != cache_key("eth", "m", b'["ab"]')
    assert cache_key("eth", "m", b'["a\\" b", 1]') == cache_key("eth", "m", b'["a\\" b",1]')
    assert len({cache_key("eth", "m", b"[]"), cache_key("op", "m", b"[]"), cache_key("eth", "n", b"[]")}) == 3


def test_cache_drops_the_longest_unused_when_full() -> None:
    """Its size stays within the bound, and what is used stays."""
    cache = RelayCache(20 * (ENTRY_BYTES + 11), 60.0)
    for number in range(20):
        cache.keep(b"%03d" % number, answer(b"12345678"))
    assert len(cache) == 20
    assert cache.find(b"000", 1.0) is not None
    cache.keep(b"new", answer(b"12345678"))
    assert cache.find(b"000", 1.0) is not None
    assert cache.find(b"001", 1.0) is None
    assert cache.size_bytes <= 20 * (ENTRY_BYTES + 11)


def test_cache_keeps_no_null_nothing_too_large_and_nothing_too_old() -> None:
    """A pruned node's null must not be believed for ever; one answer can't push out all others."""
    cache = RelayCache(160_000, 60.0)
    cache.keep(b"null", answer(b"null"))
    cache.keep(b"large", answer(b'"' + b"x" * 10_000 + b'"'))
    assert len(cache) == cache.size_bytes == 0
    cache.keep(b"old", answer(b"1", since_s=5.0))
    assert cache.find(b"old", 64.0) is not None
    assert cache.find(b"old", 65.0) is None
    assert cache.size_bytes == 0
    off = RelayCache(0, 60.0)
    off.keep(b"a", answer(b"1"))
    assert len(off) == 0


def test_cache_forgets_all_of_a_provider() -> None:
    """Whoever was found to lie has no answer left here."""
    cache = RelayCache(160_000, 60.0)
    cache.keep(b"a", answer(b"1", b"liar"))
    cache.keep(b"b", answer(b"2", b"honest"))
    cache.keep(b"a", answer(b"1", b"liar"))
    assert cache.forget_provider(b"liar") == 1
    assert cache.find(b"a", 1.0) is None
    assert cache.find(b"b", 1.0) is not None


def test_rest_answer_with_a_bad_head_is_refused() -> None:
    """Neither a line break nor an odd status gets from a provider into our headers."""
    shape = open_shape(Request(api="rest", model="weather"), b"ab", b'"weather"', 5)
    good = b"200 application/json\n{}"
    assert shape.whole(Piece(good, 0, 0), RECEIPT, b"{}") == good
    for content in (b"", b"200", b"100 a/b\n", b"999 a/b\n", b"200 a\rb\n", b"200 a/b\x00\n"):
        with pytest.raises(BadMessage):
            shape.whole(Piece(content, 0, 0), RECEIPT, b"{}")


def test_subscription_piece_ends_in_a_line_break_or_is_empty() -> None:
    """A notification that breaks its frame is the provider's breach."""
    shape = open_shape(Request(api="rpc.subscribe", model="eth", stream=True), b"ab", b'"eth"', 5)
    assert shape.chunk(Piece(b'{"number":"0x1"}\n', 0, 1)) == b'{"number":"0x1"}'
    assert shape.chunk(Piece(b"", 0, 0)) == b""
    assert shape.end(RECEIPT, b"{}") == b""
    with pytest.raises(BadMessage):
        shape.chunk(Piece(b"1", 0, 1))
