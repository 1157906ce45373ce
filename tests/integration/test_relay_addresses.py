"""The relay's addresses beyond `POST /rpc/{chain}`: the header form in full, and a key in the path."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
import structlog
from tests.integration.test_relay_http import BALANCE, call, open_relay, post
from tests.integration.test_relay_socket import open_socket

from steelyard.link.port import Failure

HEADER = "Target-Service-Id"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/"])
def test_header_form_does_all_that_the_path_does(tmp_path: Path, path: str) -> None:
    """One URL for all chains: batches, refused methods, unknown chains with the nearest, and GET is told of POST."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _):
            batch = [call("eth_chainId", ident=7), call("admin_peers", ident=7), call("eth_blockNumber", ident="x")]
            status, body, headers = await post(world, path, batch, target_service_id="Mainnet")
            assert (status, [one["id"] for one in body]) == (200, [7, 7, "x"])
            assert [one.get("error", {}).get("code") for one in body] == [None, -32601, None]
            assert headers["x-steelyard-model"] == "eth"
            status, body, _ = await post(world, path, call("eth_chainId", ident=3), target_service_id="ethreum")
            assert (status, body["id"], body["error"]["data"]["code"]) == (404, 3, "chain_not_found")
            assert "the nearest: eth" in body["error"]["message"]
            status, body, _ = await post(world, path, BALANCE)
            assert (status, body["error"]["code"]) == (404, "unknown_url")

    asyncio.run(story())


def test_header_form_opens_a_socket(tmp_path: Path) -> None:
    """A client that has one URL subscribes there as well."""

    async def story() -> None:
        async with open_relay(tmp_path) as (world, (toy,)), open_socket(world, "/v1", **{HEADER: "eth"}) as client:
            assert (await client.ask("eth_chainId"))["result"] == "0x1"
            ident = (await client.ask("eth_subscribe", "newHeads"))["result"]
            toy.chain.mine()
            assert (await client.ask("eth_unsubscribe", ident))["result"] is True

    asyncio.run(story())


def test_key_in_a_path_is_checked_and_in_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over HTTP and sockets, served, refused and failed: neither logs nor answers show it."""
    shown: list[str] = []

    async def story() -> None:
        async with open_relay(tmp_path) as (world, _):
            paths = [f"/rpc/eth/{key}" for key in (world.secret, "sk-steelyard-canary-in-the-path")]
            status, body, _ = await post(world, paths[1], BALANCE)
            assert (status, body["error"]["data"]["code"]) == (401, "invalid_api_key")
            shown.append(str(body))
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with open_socket(world, paths[1], authorization=""):
                    pass
            async with open_socket(world, paths[0], authorization="") as client:
                assert (await client.ask("eth_chainId"))["result"] == "0x1"
            world.nodes[0].failure, world.nodes[0].failures_left = Failure("busy", "full", retry_after_s=1.0), -1
            status, body, _ = await post(world, paths[0], BALANCE, authorization="")
            assert status == 503
            shown.append(str(body))

    structlog.reset_defaults()
    asyncio.run(story())
    logged = "".join(capsys.readouterr())
    assert "request_failed" in logged
    assert "/rpc/eth" in logged
    assert "sk-steelyard" not in logged
    assert not [text for text in shown if "in-the-path" in text]
