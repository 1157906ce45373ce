"""`x-steelyard-choice` for bodies that aren't ours: JSON-RPC goes to the provider that its caller names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.integration.test_relay_http import BALANCE, open_relay, post


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
