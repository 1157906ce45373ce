"""The JSON-RPC client: failover, what may be repeated, and what comes back. Endpoints are scripted; no socket opens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from steelyard.chain.rpc import MAX_BATCH_CALLS, ChainRpc
from steelyard.chain.transport import EndpointFailed, Transport, show_url
from steelyard.errors import ChainError, ChainUnreachable, ConfigError, Reverted
from steelyard.protocol.hashing import keccak

Answer = Callable[[dict[str, Any]], Any]


class Endpoints:
    """Scripted endpoints: per host an answer to each call, or an EndpointFailed to raise; keeps what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Answer | EndpointFailed) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, Answer | EndpointFailed] = dict(answers)
        scripted = self

        async def post_once(_transport: Transport, endpoint: Any, body: bytes) -> bytes:
            return scripted.reply(endpoint.url.removeprefix("http://"), json.loads(body))

        monkeypatch.setattr(Transport, "_post_once", post_once)

    def reply(self, host: str, request: Any) -> bytes:
        calls = request if isinstance(request, list) else [request]
        self.asked += [(host, call["method"]) for call in calls]
        answer = self.answers[host]
        if isinstance(answer, EndpointFailed):
            raise answer
        replies = [{"jsonrpc": "2.0", "id": call["id"], **_envelope(answer(call))} for call in calls]
        return json.dumps(replies if isinstance(request, list) else replies[0]).encode()


def _envelope(answer: Any) -> dict[str, Any]:
    return answer if isinstance(answer, dict) and "error" in answer else {"result": answer}


def refuse(code: int, message: str) -> Answer:
    return lambda _call: {"error": {"code": code, "message": message}}


DOWN = EndpointFailed("can't connect", was_sent=False)
BROKE_OFF = EndpointFailed("broke off", was_sent=True)


def rpc_to(*hosts: str, chain_id: int | None = None, clock: Callable[[], float] = lambda: 0.0) -> ChainRpc:
    return ChainRpc([f"http://{host}" for host in hosts], chain_id=chain_id, rounds=2, backoff_s=0.0, clock=clock)


def test_call_first_endpoint_down_asks_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call goes on to the next endpoint."""
    endpoints = Endpoints(monkeypatch, a=DOWN, b=lambda _call: "0x10")
    assert asyncio.run(rpc_to("a", "b").block_number()) == 16
    assert endpoints.asked == [("a", "eth_blockNumber"), ("b", "eth_blockNumber")]


def test_call_failed_endpoint_rests_and_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that failed is passed over while it rests, and comes first again afterwards."""
    now = [0.0]
    endpoints = Endpoints(monkeypatch, a=DOWN, b=lambda _call: "0x10")
    rpc = ChainRpc(["http://a", "http://b"], rounds=2, backoff_s=1.0, clock=lambda: now[0])

    async def story() -> None:
        await rpc.block_number()
        endpoints.answers["a"] = lambda _call: "0x11"
        endpoints.asked.clear()
        assert await rpc.block_number() == 16
        now[0] = 100.0
        assert await rpc.block_number() == 17

    asyncio.run(story())
    assert endpoints.asked == [("b", "eth_blockNumber"), ("a", "eth_blockNumber")]


def test_call_all_endpoints_down_says_what_each_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody answers after every round, the error names each endpoint and its reason."""
    endpoints = Endpoints(monkeypatch, a=DOWN, b=BROKE_OFF)
    with pytest.raises(ChainUnreachable, match=r"http://a: can't connect; http://b: broke off") as caught:
        asyncio.run(rpc_to("a", "b").block_number())
    assert caught.value.is_retryable
    assert len(endpoints.asked) == 4


def test_call_write_that_may_have_arrived_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with an effect is sent again only if it surely did not arrive."""
    endpoints = Endpoints(monkeypatch, a=BROKE_OFF, b=lambda _call: True)
    with pytest.raises(ChainUnreachable, match="may have had effect"):
        asyncio.run(rpc_to("a", "b").call("evm_mine"))
    assert endpoints.asked == [("a", "evm_mine")]
    endpoints = Endpoints(monkeypatch, a=DOWN, b=lambda _call: True)
    assert asyncio.run(rpc_to("a", "b").call("evm_mine")) is True


def test_send_raw_already_known_is_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed transaction may be repeated at another endpoint, and one that is known there has arrived."""
    endpoints = Endpoints(monkeypatch, a=BROKE_OFF, b=refuse(-32000, "already known"))
    assert asyncio.run(rpc_to("a", "b").send_raw(b"\x02raw")) == keccak(b"\x02raw")
    assert [host for host, _ in endpoints.asked] == ["a", "b"]


def test_send_raw_refused_keeps_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other refusal reaches the caller with its code, from one endpoint alone."""
    endpoints = Endpoints(monkeypatch, a=refuse(-32000, "nonce too low"), b=lambda _call: "0x")
    with pytest.raises(ChainError) as caught:
        asyncio.run(rpc_to("a", "b").send_raw(b"\x02raw"))
    assert caught.value.code == "nonce_too_low"
    assert len(endpoints.asked) == 1


def test_call_rate_limited_endpoint_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that asks to slow down is one that failed."""
    Endpoints(monkeypatch, a=refuse(-32005, "limit exceeded"), b=lambda _call: "0x10")
    assert asyncio.run(rpc_to("a", "b").block_number()) == 16


def test_call_endpoint_of_another_chain_is_never_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint is asked for its chain id first; one of another chain is passed over."""

    def other(call: dict[str, Any]) -> str:
        return "0x1" if call["method"] == "eth_chainId" else "0xbad"

    def ours(call: dict[str, Any]) -> str:
        return hex(31415) if call["method"] == "eth_chainId" else "0x10"

    endpoints = Endpoints(monkeypatch, a=other, b=ours)
    rpc = rpc_to("a", "b", chain_id=31415)
    assert asyncio.run(rpc.block_number()) == 16
    assert endpoints.asked == [("a", "eth_chainId"), ("b", "eth_chainId"), ("b", "eth_blockNumber")]
    assert asyncio.run(rpc.chain_id()) == 31415


def test_call_only_endpoint_of_another_chain_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no endpoint serves the chain, the operator is told which chain it found."""
    Endpoints(monkeypatch, a=lambda _call: "0x1")
    with pytest.raises(ConfigError, match="serves chain 1, not 31415"):
        asyncio.run(rpc_to("a", chain_id=31415).block_number())


def test_batch_one_failed_call_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results stand in the order of the calls; a refused one's place holds its error."""

    def answer(call: dict[str, Any]) -> Any:
        if call["params"] == [1]:
            return {"error": {"code": 3, "message": "execution reverted", "data": "0x"}}
        return call["params"][0]

    Endpoints(monkeypatch, a=answer)
    calls = [("eth_call", [n]) for n in range(3)]
    first, second, third = asyncio.run(rpc_to("a").batch(calls))
    assert (first, third) == (0, 2)
    assert isinstance(second, Reverted)
    with pytest.raises(Reverted):
        asyncio.run(rpc_to("a").batch_all(calls))


def test_batch_many_calls_go_in_bounded_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """More calls than an endpoint takes at once are split, and come back as one list; none is no request."""
    endpoints = Endpoints(monkeypatch, a=lambda call: call["params"][0])
    rpc = rpc_to("a")
    many = [("eth_call", [n]) for n in range(2 * MAX_BATCH_CALLS + 1)]
    assert asyncio.run(rpc.batch(many)) == list(range(2 * MAX_BATCH_CALLS + 1))
    endpoints.asked.clear()
    assert asyncio.run(rpc.batch([])) == []
    assert endpoints.asked == []


def test_wait_receipt_never_mined_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that isn't mined in time is pending, not failed."""
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    Endpoints(monkeypatch, a=lambda _call: None)
    with pytest.raises(ChainError, match="may still be") as caught:
        asyncio.run(rpc_to("a", clock=tick).wait_receipt(b"\x01" * 32, timeout_s=5.0, poll_s=0.0))
    assert caught.value.code == "transaction_pending"


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("block_number", "16"),
        ("block_number", None),
        ("block_number", "0x"),
        ("block_number", ["0x1"]),
        ("block", {"number": "0x1"}),
        ("block", "0x1"),
    ],
)
def test_call_malformed_result_is_a_chain_error(monkeypatch: pytest.MonkeyPatch, method: str, reply: Any) -> None:
    """A result of the wrong shape is a ChainError that names the field, never a KeyError."""
    Endpoints(monkeypatch, a=lambda _call: reply)
    with pytest.raises(ChainError, match="malformed"):
        asyncio.run(getattr(rpc_to("a"), method)())


@pytest.mark.parametrize("url", ["127.0.0.1:8545", "ws://host", "http://", "ftp://host", "http://host:port"])
def test_rpc_bad_url_is_a_config_error(url: str) -> None:
    """A URL that can't work is refused at the start."""
    with pytest.raises(ConfigError):
        ChainRpc([url])


def test_rpc_no_url_is_a_config_error() -> None:
    """No endpoint at all is refused at the start."""
    with pytest.raises(ConfigError, match="no rpc url"):
        ChainRpc([])


def test_rpc_secret_in_url_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL's user, path and query may hold a key: neither errors nor repr show them."""
    secret = "http://canary:canary@rpc.example.org:99/canary?key=canary"
    assert show_url(secret) == "http://rpc.example.org:99"
    rpc = ChainRpc([secret], rounds=1)
    assert "canary" not in repr(rpc)

    async def fail(_transport: Transport, _endpoint: Any, _body: bytes) -> bytes:
        raise DOWN

    monkeypatch.setattr(Transport, "_post_once", fail)
    with pytest.raises(ChainUnreachable) as caught:
        asyncio.run(rpc.block_number())
    assert "canary" not in str(caught.value)
