"""services/rpc: an operator's node behind the kind, well and unwell, over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from tests.relay_world import BLOCK, ScriptedNode, open_node
from tests.service_world import collect, ignore

from steelyard.errors import BadRequest, ConfigError, SteelyardError, Unavailable
from steelyard.services.port import Context, FinishReason, Result
from steelyard.services.rpc import RpcService


def call(method: str, params: Any = None, number: Any = 1) -> dict[str, Any]:
    """One JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params or []}


def play(story: Callable[[RpcService, ScriptedNode], Awaitable[Any]], node: ScriptedNode | None = None) -> Any:
    """Run a story on a service of `anvil` before a scripted node."""

    async def run() -> Any:
        async with open_node(node) as here:
            service = RpcService(RpcService.describe("anvil"), options=here.options)
            try:
                return await story(service, here)
            finally:
                await service.aclose()

    return asyncio.run(run())


async def ask(service: RpcService, body: Any) -> Any:
    """The decoded answer to a body; None for none."""
    result, _ = await collect(service, service.parse("rpc", json.dumps(body).encode()))
    return json.loads(result.content) if result.content else None


def test_batch_is_one_batch_upstream_and_keeps_ids_and_order() -> None:
    """Duplicate ids, an unknown method, a refused one, a notification and junk: answered in place, one round trip."""
    batch = [
        call("eth_blockNumber"),
        call("eth_chainId"),
        call("nope", number="x"),
        5,
        call("admin_peers", number="y"),
        {"jsonrpc": "2.0", "method": "eth_blockNumber"},
    ]

    async def story(service: RpcService, node: ScriptedNode) -> None:
        answers = await ask(service, batch)
        assert [answer["id"] for answer in answers] == [1, 1, "x", None, "y"]
        assert [answers[0]["result"], answers[1]["result"]] == ["0x10", "0x7a69"]
        assert [answer["error"]["code"] for answer in answers[2:]] == [-32601, -32600, -32601]
        (sent,) = node.asked
        assert [item.get("id") for item in sent] == [1, 2, 3, None]

    play(story)


def test_units_are_the_methods_and_what_is_refused_costs_nothing() -> None:
    """A batch costs the sum of its items; an item that is not forwarded costs nothing."""

    async def story(service: RpcService, node: ScriptedNode) -> None:
        batch = [call("eth_getLogs", [{}]), call("eth_blockNumber"), call("admin_x"), 5]
        request = service.parse("rpc", json.dumps(batch).encode())
        result, _ = await collect(service, request)
        assert (result.units_in, result.units_out) == (60 + 10, 0)
        assert service.quote(request).max_units_in == 70

    play(story)


def test_answers_of_notifications_and_of_refused_items_need_no_node() -> None:
    """A batch with nothing to ask is answered without the upstream; notifications alone are answered by nothing."""

    async def story(service: RpcService, node: ScriptedNode) -> None:
        assert [one["id"] for one in await ask(service, [call("admin_x", number=3), 5])] == [3, None]
        assert node.asked == []
        assert await ask(service, {"jsonrpc": "2.0", "method": "eth_blockNumber"}) is None
        assert len(node.asked) == 1

    play(story)


@pytest.mark.parametrize(
    "refusal",
    [
        lambda: web.Response(status=400, text="no batches"),
        lambda: web.Response(status=405),
        lambda: web.json_response({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no"}}),
    ],
)
def test_node_without_batches_is_asked_one_by_one_from_then_on(refusal: Callable[[], web.Response]) -> None:
    """The first batch falls back to single requests, the second doesn't try again; answers are the same."""
    node = ScriptedNode()
    node.reply = lambda body: refusal() if isinstance(body, list) else web.json_response(node.answer(body))

    async def story(service: RpcService, here: ScriptedNode) -> None:
        for _ in range(2):
            answers = await ask(service, [call("eth_blockNumber"), call("nope"), call("eth_chainId", number=2)])
            assert [answer["id"] for answer in answers] == [1, 1, 2]
            assert "error" in answers[1]
        assert [isinstance(asked, list) for asked in here.asked] == [True] + [False] * 6

    play(story, node)


def said(code: int, number: Any = 1) -> dict[str, Any]:
    """A JSON-RPC error."""
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": "said"}}


@pytest.mark.parametrize(
    "reply",
    [
        lambda _: web.Response(status=429),
        lambda _: web.Response(status=401, text="key"),
        lambda _: web.json_response(said(-32005), status=429),
        lambda _: web.json_response(said(-32005)),
        lambda _: web.json_response(said(-32700)),
        lambda _: web.json_response(said(-32600)),
        lambda _: web.json_response(said(-32601, None)),
        lambda _: web.json_response(said(-32601, "other")),
        lambda _: web.json_response({"jsonrpc": "2.0", "id": 1}),
        lambda _: web.json_response({"jsonrpc": "2.0", "id": 1, "error": "words"}),
        lambda _: web.json_response({"jsonrpc": "2.0", "id": True, "result": 1}),
        lambda _: web.json_response([said(-32601)]),
        lambda _: web.Response(text="<html>"),
        lambda _: web.Response(text=""),
        lambda _: web.Response(status=502, text="bad gateway"),
        lambda _: web.json_response(said(-32601), status=503),
        lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
)
def test_failing_node_is_unavailable_and_never_an_answer(reply: Callable[[Any], web.Response]) -> None:
    """Limits, refused keys, fabricated errors, wrong ids, pages and empty bodies: another provider is to be asked."""
    node = ScriptedNode(reply=reply)

    async def story(service: RpcService, here: ScriptedNode) -> None:
        with pytest.raises(Unavailable) as caught:
            await ask(service, call("eth_blockNumber"))
        assert caught.value.is_retryable
        assert here.url not in caught.value.message

    play(story, node)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answers: answers[:-1],
        lambda answers: [*answers, answers[0]],
        lambda answers: [answers[0]] * len(answers),
        lambda answers: [{**answers[0], "id": 9}, *answers[1:]],
        lambda answers: [said(-32005, answers[0]["id"]), *answers[1:]],
        lambda answers: [5, *answers[1:]],
    ],
)
def test_batch_that_is_not_answered_whole_is_unavailable(spoil: Callable[[list[Any]], list[Any]]) -> None:
    """A missing, doubled, foreign or rate-limited item fails the batch: nothing is made up in its place."""
    node = ScriptedNode()
    node.reply = lambda body: web.json_response(spoil([node.answer(item) for item in body]))

    async def story(service: RpcService, _: ScriptedNode) -> None:
        with pytest.raises(Unavailable):
            await ask(service, [call("eth_blockNumber"), call("eth_chainId"), call("nope")])

    play(story, node)


def test_error_of_the_request_is_the_answer_whatever_the_status() -> None:
    """A revert, and bitcoind's status 500 or its `"error": null`, are answers and not failures."""
    node = ScriptedNode()
    replies = iter(
        [
            web.json_response({"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": "reverted", "data": "0x08"}}),
            web.json_response({"result": None, "error": {"code": -5, "message": "none"}, "id": 1}, status=500),
            web.json_response({"result": "0x1", "error": None, "id": 1}),
            web.json_response({"result": None, "id": 1}),
        ]
    )
    node.reply = lambda _: next(replies)

    async def story(service: RpcService, _: ScriptedNode) -> None:
        found = [await ask(service, call("eth_call")) for _ in range(4)]
        assert found[0]["error"] == {"code": 3, "message": "reverted", "data": "0x08"}
        assert found[1]["error"]["code"] == -5
        assert (found[2]["result"], found[3]["result"]) == ("0x1", None)
        assert "error" not in found[2]

    play(story, node)


def test_preparing_refuses_another_chain_and_a_dead_node() -> None:
    """A node of another chain, or none, stops the start with a line that says so; the right one passes twice."""

    async def story(service: RpcService, node: ScriptedNode) -> None:
        await service.prepare(ignore)
        await service.prepare(ignore)
        wrong = RpcService(RpcService.describe("polygon"), options=node.options)
        with pytest.raises(ConfigError, match="serves the chain 31337, polygon is 137"):
            await wrong.prepare(ignore)
        await wrong.aclose()
        dead = RpcService(RpcService.describe("anvil"), options={"upstream": "http://127.0.0.1:1"})
        with pytest.raises(ConfigError, match="does not answer"):
            await dead.prepare(ignore)
        await dead.aclose()

    play(story)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "has no upstream"),
        ({"upstream": "file:///etc/passwd"}, "http:// or https://"),
        ({"upstream": "http://h", "upstream_ws": "http://h"}, "ws:// or wss://"),
        ({"upstreams": "http://h"}, "no option 'upstreams'"),
    ],
)
def test_wrong_options_are_told_before_anything_is_asked(options: dict[str, str], told: str) -> None:
    """A missing, wrong or misspelt option is one line that says what to write."""

    async def run() -> None:
        await RpcService(RpcService.describe("anvil"), options=options).prepare(ignore)

    with pytest.raises(ConfigError, match=told):
        asyncio.run(run())


def test_authorization_goes_upstream_and_into_no_message() -> None:
    """The operator's header reaches the node; a failure does not repeat it."""

    async def story(_: RpcService, node: ScriptedNode) -> None:
        service = RpcService(
            RpcService.describe("anvil"), options={**node.options, "upstream_authorization": "Bearer s3cret"}
        )
        await ask(service, call("eth_blockNumber"))
        assert node.headers[0]["Authorization"] == "Bearer s3cret"
        node.reply = lambda _: web.Response(status=401, text="s3cret is wrong")
        with pytest.raises(Unavailable) as caught:
            await ask(service, call("eth_blockNumber"))
        assert "s3cret" not in caught.value.message
        await service.aclose()

    play(story)


def subscribe(**more: Any) -> bytes:
    """A subscription to new heads."""
    return json.dumps({**call("eth_subscribe", ["newHeads"]), **more}).encode()


def test_subscription_is_billed_by_message_and_ends_at_its_bound() -> None:
    """First the node's consent with the call's units, then one message a chunk, each with its weight, then LENGTH."""

    async def story(service: RpcService, node: ScriptedNode) -> None:
        request = service.parse("rpc.subscribe", subscribe(max_messages=2))
        assert (service.quote(request).max_units_in, service.quote(request).max_units_out) == (20, 80)
        result, chunks = await collect(service, request)
        assert result.content == b'{"number": "0x0"}\n{"number": "0x1"}\n'
        assert [(chunk.units_in, chunk.units_out) for chunk in chunks] == [(20, 0), (0, 40), (0, 40), (0, 0)]
        assert chunks[0].detail == b'{"subscribed":true}'
        assert result.finish is FinishReason.LENGTH
        assert "max_messages" not in node.asked[0]
        await asyncio.sleep(0.1)
        assert node.sockets == 0

    play(story)


def test_subscription_ends_after_its_seconds() -> None:
    """A quiet chain does not hold an order for ever."""

    async def story(service: RpcService, _: ScriptedNode) -> None:
        async with asyncio.timeout(5):
            result, _chunks = await collect(service, service.parse("rpc.subscribe", subscribe(max_s=1)))
        assert result.units_out == 3 * 40

    play(story)


def test_subscription_cut_by_the_node_is_unavailable() -> None:
    """A socket that closes is the node's failure, after what it sent; never a clean end."""

    async def story(service: RpcService, _: ScriptedNode) -> None:
        chunks = service.run(service.parse("rpc.subscribe", subscribe()), Context())
        assert [(await anext(chunks)).units_out for _ in range(4)] == [0, 40, 40, 40]
        with pytest.raises(Unavailable):
            await anext(chunks)

    play(story, ScriptedNode(closes_socket=True))


def test_subscription_that_the_node_refuses_is_the_callers() -> None:
    """An unknown subscription is a bad request, with the node's words."""
    body = json.dumps(call("eth_subscribe", ["nothing"])).encode()

    async def story(service: RpcService, _: ScriptedNode) -> None:
        with pytest.raises(BadRequest, match="no such subscription"):
            await collect(service, service.parse("rpc.subscribe", body))

    play(story)


def test_node_without_websocket_has_no_subscriptions() -> None:
    """A provider that has no WebSocket upstream says so, and another one is asked."""

    async def story(_: RpcService, node: ScriptedNode) -> None:
        service = RpcService(RpcService.describe("anvil"), options={"upstream": node.url})
        with pytest.raises(Unavailable, match="no WebSocket"):
            await collect(service, service.parse("rpc.subscribe", subscribe()))
        await service.aclose()

    play(story)


PINNED = json.dumps(call("eth_getBlockByNumber", ["0x5", False])).encode()


def test_honest_answer_matches_a_replay_and_a_lie_does_not() -> None:
    """The same block from another node matches, however it is written; another hash does not; a bill is a breach."""

    async def story(service: RpcService, node: ScriptedNode) -> None:
        request = service.parse("rpc", PINNED)
        result, _ = await collect(service, request)
        node.answers["eth_getBlockByNumber"] = {"hash": BLOCK["hash"].upper().replace("X", "x"), "number": "0x5"}
        replayed = await service.replay(request, result, b"", Context())
        honest = service.compare(result, b"", replayed)
        assert honest.is_wellformed
        assert (honest.distance, [score.is_match for score in honest.scores]) == (0.0, [True])
        lied = Result(
            content=result.content.replace(b"abab", b"abac"),
            units_in=result.units_in,
            units_out=0,
            finish=result.finish,
        )
        assert [score.is_match for score in service.compare(lied, b"", replayed).scores] == [False]
        dear = Result(content=result.content, units_in=21, units_out=0, finish=result.finish)
        assert service.compare(dear, b"", replayed).code == "evidence_bill"

    play(story)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'{"jsonrpc":"2.0","id":2,"result":{}}', b"[" * 9_000])
def test_claim_that_is_no_answer_to_the_request_is_a_breach(content: bytes) -> None:
    """Bytes that are not the answer to what was asked are malformed, and never raise."""

    async def story(service: RpcService, _: ScriptedNode) -> None:
        request = service.parse("rpc", PINNED)
        result, _ = await collect(service, request)
        replayed = await service.replay(request, result, b"", Context())
        claim = Result(content=content, units_in=20, units_out=0, finish=FinishReason.STOP)
        assert not service.compare(claim, b"", replayed).is_wellformed

    play(story)


def test_null_or_error_on_either_side_is_not_scored() -> None:
    """A node that lags or prunes is not called a liar by it."""

    async def story(service: RpcService, node: ScriptedNode) -> None:
        request = service.parse("rpc", PINNED)
        result, _ = await collect(service, request)
        node.answers["eth_getBlockByNumber"] = None
        compared = service.compare(result, b"", await service.replay(request, result, b"", Context()))
        assert (compared.is_wellformed, compared.scores) == (True, ())

    play(story)


@pytest.mark.parametrize(
    "body",
    [
        call("eth_blockNumber"),
        call("eth_getBalance", ["0x1", "latest"]),
        [call("eth_chainId"), call("eth_blockNumber")],
        [5],
    ],
)
def test_request_that_moves_with_the_chain_is_not_replayable(body: Any) -> None:
    """A batch with one moving item, too: nobody is judged by it."""

    async def story(service: RpcService, _: ScriptedNode) -> None:
        request = service.parse("rpc", json.dumps(body).encode())
        result, _ = await collect(service, request)
        with pytest.raises(SteelyardError) as caught:
            await service.replay(request, result, b"", Context())
        assert caught.value.code == "not_replayable"

    play(story)


def test_manifest_can_allow_what_is_refused_as_a_rule() -> None:
    """A service that sells traces names the method, on gateway and node alike; others stay refused."""
    service = RpcService(RpcService.describe("eth", methods=("debug_traceTransaction",)))
    request = service.parse("rpc", json.dumps(call("debug_traceTransaction", ["0x1"])).encode())
    assert service.quote(request).max_units_in == 200
    with pytest.raises(BadRequest, match="debug_traceCall is not served"):
        service.parse("rpc", json.dumps(call("debug_traceCall", [])).encode())


def test_chain_without_a_row_is_sold_by_its_family() -> None:
    """A name of one's own with a family serves that family's methods; without one the nearest chains are told."""
    service = RpcService(RpcService.describe("my-rollup", family="evm"))
    assert (service.manifest.chain, service.manifest.family) == ("my-rollup", "evm")
    assert service.family.units("eth_getLogs") == 60
    with pytest.raises(ConfigError, match=r"near it: eth[, )]"):
        RpcService.describe("etherum")


@pytest.mark.parametrize("method", ["eth_subscribe", "eth_unsubscribe", "eth_newFilter", "eth_getFilterChanges"])
def test_methods_that_need_one_remembering_node_say_what_to_use(method: str) -> None:
    """Over plain HTTP subscriptions and filters are refused with the way around."""
    with pytest.raises(BadRequest, match=r"WebSocket|use eth_"):
        RpcService(RpcService.describe("eth")).parse("rpc", json.dumps(call(method, [])).encode())
