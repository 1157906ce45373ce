"""Subscriptions of chains that aren't Ethereum's, as their own clients write and expect them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_world import open_world, until
from tests.integration.test_relay_socket import PRICE, open_socket
from tests.relay_chain import ToyChain, ToyNode, relay_service


@pytest.mark.parametrize(
    ("chain", "begin", "notification", "name", "end", "is_ended_by_name"),
    [
        ("solana", "accountSubscribe", "accountNotification", "subscription", "accountUnsubscribe", False),
        ("solana", "logsSubscribe", "logsNotification", "subscription", "logsUnsubscribe", False),
        ("starknet", "starknet_subscribeEvents", "starknet_subscriptionEvents", "subscription_id",
         "starknet_unsubscribe", True),
        ("polkadot", "chain_subscribeNewHeads", "chain_newHead", "subscription", "chain_unsubscribeNewHeads", False),
        ("polkadot", "state_subscribeStorage", "state_storage", "subscription", "state_unsubscribeStorage", False),
    ],
)  # fmt: skip
def test_subscription_of_any_family_has_its_own_words(
    tmp_path: Path, chain: str, begin: str, notification: str, name: str, end: str, is_ended_by_name: bool
) -> None:
    """Its notifications' method and the id's name and type are the family's; it outlives its provider, and ends."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            toys = [ToyNode(ToyChain(forks=index)) for index in range(2)]
            for index, toy in enumerate(toys):
                await world.add_node(index, service=relay_service(toy, chain), price=PRICE, model=chain)
            async with open_socket(world, f"/rpc/{chain}") as client:
                client.reader.cancel()

                async def hear() -> Any:
                    return json.loads((await client.socket.receive(timeout=10)).data)

                async def ask(method: str, params: Any) -> Any:
                    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
                    await client.socket.send_str(json.dumps(body))
                    return await hear()

                ident = (await ask(begin, ["what"]))["result"]
                assert isinstance(ident, int if chain == "solana" else str)
                first = next(index for index, toy in enumerate(toys) if toy.subscribers)
                for index in (first, 1 - first):
                    await until(lambda toy=toys[index]: toy.subscribers == 1)
                    toys[index].chain.mine()
                    said = await hear()
                    block = toys[index].chain.blocks[-1]
                    assert said == {
                        "jsonrpc": "2.0",
                        "method": notification,
                        "params": {name: ident, "result": block["hash"]},
                    }
                    if index == first:
                        await world.nodes[first].kill()
                assert (await ask(end, {name: ident} if is_ended_by_name else [ident]))["result"] is True
                assert "one id" in (await ask(end, []))["error"]["message"]

    asyncio.run(story())
