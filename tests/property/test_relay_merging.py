"""Whatever a batch holds, its answers are those of its requests: in order, each with its own id, each exactly once."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.listing import Listing
from steelyard.gateway.relay_cache import CachedAnswer, RelayCache, cache_key
from steelyard.gateway.relay_plan import make_plan
from steelyard.services.rpc import RpcService
from steelyard.services.rpc.messages import RpcPayload, build_response, join_responses

SERVICE = RpcService(RpcService.describe("eth"))
LISTING = Listing("eth", b"\x01" * 32, SERVICE.manifest, SERVICE)

_IDS = st.one_of(st.integers(-(2**63), 2**80), st.text(max_size=8), st.none(), st.sampled_from([1, 1, "a"]))
_ITEMS = st.one_of(
    st.builds(lambda i, n: {"jsonrpc": "2.0", "id": i, "method": "eth_getBlockByHash", "params": [n, False]},
              _IDS, st.integers(0, 5).map(lambda n: "0x" + f"{n:064x}")),
    st.builds(lambda i: {"jsonrpc": "2.0", "id": i, "method": "eth_gasPrice"}, _IDS),
    st.builds(lambda i: {"jsonrpc": "2.0", "id": i, "method": "admin_peers"}, _IDS),
    st.builds(lambda i: {"jsonrpc": "2.0", "id": i}, _IDS),
    st.just({"jsonrpc": "2.0", "method": "eth_gasPrice"}),
    st.sampled_from([7, "x", None, [], True]),
)  # fmt: skip


def _serve(body: bytes) -> bytes:
    """Answer as an honest provider does: a result that spells its request."""
    payload: RpcPayload = SERVICE.parse("rpc", body).payload
    answers = [
        build_response(
            item.id_raw, result=b"" if item.error else _result(item.method, item.params_raw), error=item.error
        )
        for item in payload.items
        if item.id_raw
    ]
    return join_responses(answers, is_batch=payload.is_batch)


def _result(method: str, params: bytes) -> bytes:
    return json.dumps([method, json.loads(params or b"[]")]).encode()


def _expected(item: Any) -> list[tuple[Any, Any]]:
    """Return (id, result or error code) of what an item must be answered with, or nothing."""
    if not isinstance(item, dict):
        return [(None, -32600)]
    if "method" not in item:
        return [(item["id"], -32600)]
    if "id" not in item:
        return []
    if item["method"] == "admin_peers":
        return [(item["id"], -32601)]
    return [(item["id"], [item["method"], item.get("params", [])])]


@given(batch=st.lists(_ITEMS, min_size=1, max_size=12), known=st.sets(st.integers(0, 5)))
def test_merged_batch_answers_each_request_in_its_place(batch: list[Any], known: set[int]) -> None:
    """With any mixture of cached, refused, malformed, doubled and silent items, and bought ones between them."""
    cache = RelayCache(1 << 20, 60.0)
    for number in known:
        params = json.dumps(["0x" + f"{number:064x}", False]).encode()
        result = _result("eth_getBlockByHash", params)
        cache.keep(cache_key("eth", "eth_getBlockByHash", params), CachedAnswer(result, b"p", (), b"", 0.0))
    plan = make_plan(LISTING, json.dumps(batch).encode(), cache, height=lambda: None, max_items=100, now_s=1.0)
    bought = _serve(plan.body) if plan.request is not None else b""
    told = plan.join(bought)
    answers = [
        (one["id"], one["result"] if "result" in one else one["error"]["code"])
        for one in (json.loads(told) if told else [])
    ]
    assert answers == [pair for item in batch for pair in _expected(item)]
    for key, result in plan.keepable(bought) if bought else []:
        assert key.split(b"\x00", 2)[1:] == [
            b"eth_getBlockByHash",
            json.dumps(json.loads(result)[1], separators=(",", ":")).encode(),
        ]
