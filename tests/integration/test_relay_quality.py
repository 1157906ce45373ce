"""What a gateway does about bad providers of a chain: fabricated answers, wrong heights, other chains, slow ones."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_relay_http import BALANCE, call, open_relay, post
from tests.relay_chain import ToyNode

from steelyard.services.rpc.messages import RpcPayload, build_response, join_responses

FABRICATED = [
    {"code": -32700, "message": "parse error"},
    {"code": -32603, "message": "<html><title>502 Bad Gateway</title></html>"},
    {"code": -32603, "message": 'upstream: {"jsonrpc":"2.0","error":{"code":429,"message":"slow down"}}'},
]


def fail_with(node: ToyNode, error: Any) -> None:
    """Let a node answer everything with an error."""

    async def answer(payload: RpcPayload) -> bytes:
        responses = [build_response(item.id_raw, error=json.dumps(error).encode()) for item in payload.items]
        return join_responses(responses, is_batch=payload.is_batch)

    node.call = answer  # type: ignore[method-assign]


@pytest.mark.parametrize("error", FABRICATED, ids=lambda error: error["message"][:12])
def test_fabricated_answer_never_reaches_a_client_and_is_not_charged(tmp_path: Path, error: Any) -> None:
    """It is the provider's failure, another one is asked, the key pays once, and the link stays up."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, (liar, _)):
            fail_with(liar, error)
            honest = "0x" + world.nodes[1].key.account.hex()
            for body in (BALANCE, [BALANCE, BALANCE]):
                for _ in range(4):
                    status, answer, headers = await post(world, "/rpc/eth", body)
                    assert status == 200
                    assert "error" not in json.dumps(answer)
                    assert headers["x-steelyard-provider"] == honest
            (record,) = [
                seller.record
                for seller in world.gateway.catalogue.listings["eth"].sellers
                if seller.provider_hex != honest
            ]
            assert record.last_reason == "no_answer"
            assert record.failures >= 3
            assert all(seller.link.is_up for seller in world.gateway.catalogue.listings["eth"].sellers)
            usage = world.gateway.meters.meter(world.key.key_id)  # type: ignore[union-attr]
            await world.gateway.settlement.flush()
            assert usage.reserved_nano == 0
            calls = (await world.get("/calls"))[1]["data"]
            assert sum(int(one["cost_nano"]) for one in calls) == 4 * 20 + 4 * 40

    asyncio.run(story())


def test_revert_is_the_answer_whatever_words_are_in_it(tmp_path: Path) -> None:
    """A contract can't make honest providers look broken."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, nodes):
            for node in nodes:
                fail_with(node, {"code": -32603, "message": "execution reverted: <html>", "data": "0x08"})
            status, answer, _ = await post(world, "/rpc/eth", call("eth_call", [{}, "latest"]))
            assert (status, answer["error"]["message"]) == (200, "execution reverted: <html>")

    asyncio.run(story())


def test_answers_fabricated_by_everyone_end_in_an_error_of_ours(tmp_path: Path) -> None:
    """Where nobody has an answer, the client is told so, by its id."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, nodes):
            for node in nodes:
                fail_with(node, FABRICATED[1])
            status, answer, _ = await post(world, "/rpc/eth", BALANCE)
            assert (status, answer["id"], answer["error"]["code"]) == (503, 1, -32002)
            assert "no_answer" in answer["error"]["message"]
            assert "<html>" not in answer["error"]["message"]

    asyncio.run(story())
