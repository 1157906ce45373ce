"""A JSON-RPC batch is answered item by item in its order, with the client's own ids, whatever stands in it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import BadRequest
from steelyard.services.rpc import RpcService
from steelyard.services.rpc.messages import BadRpc, RpcPayload
from steelyard.services.rpc.upstream import Upstream

SERVICE = RpcService(RpcService.describe("eth"))
IDS = st.one_of(st.integers(-5, 5), st.text(max_size=5), st.none(), st.floats(-9, 9))
METHODS = st.sampled_from(
    ["eth_blockNumber", "eth_getBalance", "eth_nope", "admin_peers", "eth_subscribe", "eth_newFilter"]
)
CALLS = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": METHODS}, optional={"id": IDS, "params": st.just(["0x1", "0x2"])}
)
JUNK = st.one_of(
    st.integers(), st.text(max_size=3), st.just([]), st.just({}), st.just({"jsonrpc": "2.0", "id": 1, "method": 5})
)
SERVED = {"eth_blockNumber", "eth_getBalance", "eth_nope"}


class Node(Upstream):
    """A node without a wire: it answers a batch backwards, each item with its method and parameters."""

    def __init__(self, takes_batches: bool) -> None:
        super().__init__("http://node")
        self.is_willing = takes_batches
        self.posts = 0

    async def _post(self, data: bytes) -> tuple[int, bytes]:
        self.posts += 1
        body = json.loads(data)
        if isinstance(body, list):
            if not self.is_willing:
                return 400, b"no batches"
            return 200, json.dumps([self.say(call) for call in reversed(body) if "id" in call]).encode()
        return 200, json.dumps(self.say(body)).encode() if "id" in body else b""

    @staticmethod
    def say(call: dict[str, Any]) -> dict[str, Any]:
        """An error for a method that isn't there, else what was asked."""
        head = {"jsonrpc": "2.0", "id": call["id"]}
        if call["method"] == "eth_nope":
            return {**head, "error": {"code": -32601, "message": "no"}}
        return {**head, "result": [call["method"], call.get("params")]}


def is_call(item: Any) -> bool:
    """Whether an item of a batch is a request at all."""
    return isinstance(item, dict) and isinstance(item.get("method"), str)


def expected(item: Any) -> list[tuple[Any, str]]:
    """The id and the kind of the answer to an item; none for a notification."""
    if not is_call(item):
        return [(item.get("id") if isinstance(item, dict) else None, "error")]
    if "id" not in item:
        return []
    return [(item["id"], "result" if item["method"] in SERVED - {"eth_nope"} else "error")]


@given(st.lists(st.one_of(CALLS, JUNK), min_size=1, max_size=12), st.booleans())
def test_batch_is_answered_in_order_with_its_own_ids(batch: list[Any], takes_batches: bool) -> None:
    """Whether the node takes batches or not: as many answers as requests with an id, in order, ids as they were."""
    request = SERVICE.parse("rpc", json.dumps(batch).encode())
    payload: RpcPayload = request.payload
    node = Node(takes_batches)
    content = asyncio.run(node.call(payload))
    wanted = [pair for item in batch for pair in expected(item)]
    answers = json.loads(content) if content else []
    assert [(answer["id"], "error" if "error" in answer else "result") for answer in answers] == wanted
    served = [item for item in batch if is_call(item) and item["method"] in SERVED]
    assert SERVICE.quote(request).max_units_in == sum(SERVICE.family.units(item["method"]) for item in served)
    assert node.posts <= (1 if takes_batches else 1 + len(served))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_json_rpc_error(body: bytes) -> None:
    """Nothing that arrives raises anything but the spec's error, whose id is JSON."""
    caught: BadRpc | None = None
    try:
        SERVICE.parse("rpc", body)
    except BadRpc as error:
        caught = error
    if caught is not None:
        json.loads(caught.id_raw or b"null")
        assert caught.rpc_code in (-32700, -32600, -32601)


@given(st.one_of(CALLS, JUNK), st.sampled_from(["rpc", "rpc.subscribe"]))
def test_any_json_is_parsed_alike_twice_or_refused(body: Any, api: str) -> None:
    """Gateway and node read the same bytes: both come to the same request, or both refuse."""
    data = json.dumps(body).encode()
    try:
        first = SERVICE.parse(api, data)
    except BadRequest:
        return
    assert SERVICE.parse(api, data) == first
