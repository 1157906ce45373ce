"""`x-steelyard-choice` for bodies that aren't ours: JSON-RPC goes to the provider that its caller names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.integration.test_relay_http import BALANCE, call, open_relay, post


def test_json_rpc_goes_to_the_pinned_provider_alone(tmp_path: Path) -> None:
    """Pinned by the header, whole and in a batch; a pin that nobody is, and a bad one, are refused with the id kept."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=3) as (world, _):
            for node in world.nodes:
                name = "0x" + node.key.account.hex()
                choice = json.dumps({"only": [name]})
                for body in (BALANCE, [BALANCE, {**BALANCE, "id": 2}]):
                    status, _, headers = await post(world, "/rpc/eth", body, x_steelyard_choice=choice)
                    assert (status, headers["x-steelyard-provider"]) == (200, name)
            nobody = json.dumps({"only": ["0x" + "77" * 20]})
            status, body, _ = await post(world, "/rpc/eth", BALANCE, x_steelyard_choice=nobody)
            assert (status, body["id"]) == (503, 1)
            assert "not linked" in body["error"]["message"]
            status, body, _ = await post(world, "/rpc/eth", BALANCE, x_steelyard_choice='{"only": 1}')
            assert (status, body["id"]) == (400, 1)
            assert "x-steelyard-choice.only" in body["error"]["message"]

    asyncio.run(story())


def test_pinned_read_is_its_providers_own_and_nobody_elses(tmp_path: Path) -> None:
    """A pinned call is never answered from memory, and its answer isn't kept: who names a liar lies to itself alone."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, (_, liar)):
            liar.chain_id = b"0x666"
            names = ["0x" + node.key.account.hex() for node in world.nodes]
            read = call("eth_chainId")
            for body in (read, [read, read]):
                _, answer, _ = await post(world, "/rpc/eth", body, x_steelyard_choice=json.dumps({"only": [names[1]]}))
                assert "0x666" in json.dumps(answer)
            await world.nodes[1].kill()
            answers = [await post(world, "/rpc/eth", read) for _ in range(2)]
            assert [answer["result"] for _, answer, _ in answers] == ["0x1", "0x1"]
            assert [headers.get("x-steelyard-cache") for _, _, headers in answers] == [None, "hit"]
            for body in (read, [read, read]):
                _, _, headers = await post(world, "/rpc/eth", body, x_steelyard_choice=json.dumps({"only": [names[0]]}))
                assert "x-steelyard-cache" not in headers
                assert int(headers["x-steelyard-cost-nano"]) > 0
            status, _, _ = await post(world, "/rpc/eth", read, x_steelyard_choice=json.dumps({"only": [names[1]]}))
            assert status == 503

    asyncio.run(story())
