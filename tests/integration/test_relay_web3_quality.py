"""web3.py's own calls go on right, over HTTP and WebSocket, while of four providers one lies, one lags, one dies."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, open_chain
from tests.gateway_world import World, open_world, until
from tests.relay_mirror import lying, open_mirror, stale

from steelyard.services.rpc import RpcService

web3 = pytest.importorskip("web3")
from web3 import AsyncHTTPProvider, AsyncWeb3, WebSocketProvider  # noqa: E402  # only where it is installed

NAMES = {"embedded": "steelyard-dev", "anvil": "anvil"}
BEHIND = 60


async def add_providers(world: World, chain: RunningChain, stack: AsyncExitStack) -> None:
    """Link a liar, a stale one, one that will be killed, and an honest one."""
    name, socket = NAMES[chain.kind], chain.url.replace("http", "ws")
    height = int(chain.call("eth_blockNumber"), 16)
    upstreams = [
        await stack.enter_async_context(open_mirror(chain.url, lying(2**59))),
        await stack.enter_async_context(open_mirror(chain.url, stale(height - BEHIND))),
        chain.url,
        chain.url,
    ]
    for index, upstream in enumerate(upstreams):
        options = {"upstream": upstream, "upstream_ws": socket}
        service = RpcService(RpcService.describe(name), options=options)
        stack.push_async_callback(service.aclose)
        await service.prepare(lambda what, done, total: None)
        await world.add_node(index, service=service, model=name)


def doubts(world: World, name: str) -> dict[bytes, str]:
    """Return what the gateway thinks of each provider, after another look."""
    world.gateway.fronts.watch.look()
    return {seller.link.provider: seller.record.doubt for seller in world.gateway.catalogue.listings[name].sellers}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_web3_sees_one_right_chain_whoever_lies_lags_or_dies(tmp_path: Path, kind: str) -> None:
    """Every height and balance is the chain's, every head comes once, and nothing fails when a provider is killed."""

    async def story(chain: RunningChain) -> None:
        name = NAMES[kind]
        for _ in range(2 * BEHIND):
            chain.call("evm_mine")
        options: dict[str, Any] = {"relay_probe_s": 0.5, "relay_cross_check_share": 0.5, "relay_hedge_share": 0.05}
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(open_world(tmp_path, nodes=0, **options))
            await add_providers(world, chain, stack)
            liar, old, *_ = (node.key.account for node in world.nodes)
            await until(lambda: {one for one, doubt in doubts(world, name).items() if doubt} == {liar, old})
            url = f"{world.base_url.removesuffix('/v1')}/rpc/{name}/{world.secret}"
            w3 = AsyncWeb3(AsyncHTTPProvider(url))
            heads: list[int] = []
            async with AsyncWeb3(WebSocketProvider(url.replace("http", "ws"))) as ws:
                first = await ws.eth.block_number
                await ws.eth.subscribe("newHeads")
                reader = asyncio.create_task(read_heads(ws, heads))
                for step in range(30):
                    if step == 15:
                        await world.nodes[2].kill()
                    await asyncio.to_thread(chain.call, "evm_mine")
                    real = int(await asyncio.to_thread(chain.call, "eth_blockNumber"), 16)
                    assert await w3.eth.block_number == real
                    assert (await w3.eth.get_block("latest"))["number"] == real
                    assert await w3.eth.get_balance(w3.to_checksum_address(chain.keys[0].account), real - 70) > 0
                    assert await ws.eth.block_number == real
                await until(lambda: bool(heads) and heads[-1] >= first + 30)
                reader.cancel()
            await w3.provider.disconnect()
            assert heads == list(range(heads[0], first + 31))
            assert heads[0] == first + 1
            relay = world.gateway.metrics.relay
            assert relay["cross_check", "disagreed"] == relay["cross_check", "undecided"] == 0
            assert relay["doubt", "stale"] >= 1
            assert relay["doubt", "height_outlier"] >= 1
            assert {one for one, doubt in doubts(world, name).items() if doubt} >= {liar, old}

    with open_chain(kind) as chain:
        asyncio.run(story(chain))


async def read_heads(ws: Any, heads: list[int]) -> None:
    """Note each head's number as the stock client gives it."""
    async for message in ws.socket.process_subscriptions():
        number = int(message["result"]["number"])
        heads.append(number)
