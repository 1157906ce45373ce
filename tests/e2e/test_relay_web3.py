"""web3.py's own calls through the gateway and three providers, against anvil and the embedded chain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, open_chain
from tests.network_world import charged_nano, echo_plan, redeemed_nano, silent, until

from steelyard.cli.genesis import ServicePlan
from steelyard.cli.local_network import Network, await_providers, open_network
from steelyard.protocol.messages import Grade
from steelyard.services.manifest import encode_manifest
from steelyard.services.rpc import RpcService

web3 = pytest.importorskip("web3")
from web3 import AsyncHTTPProvider, AsyncWeb3, WebSocketProvider  # noqa: E402  # only where it is installed

NAMES = {"embedded": "steelyard-dev", "anvil": "anvil"}
PRICE_NANO = 1_000_000


def relay_plan(home: Path, chain: RunningChain) -> Any:
    """Return the plan of a network whose three providers sell one chain that isn't the network's own."""
    name = NAMES[chain.kind]
    options = {"upstream": chain.url, "upstream_ws": chain.url.replace("http", "ws")}
    service = ServicePlan(
        name=name,
        kind="rpc",
        manifest=encode_manifest(RpcService.describe(name)),
        grade=int(Grade.CONSENSUS),
        price_in=PRICE_NANO,
        price_out=PRICE_NANO,
        options=options,
    )
    quiet = {"relay_probe_s": 0, "relay_cross_check_share": 0, "relay_hedge_share": 0}  # what no key pays
    return echo_plan(home, services=[service], providers=3, gateway=quiet)


@asynccontextmanager
async def open_relay(home: Path, chain: RunningChain) -> AsyncIterator[tuple[Network, str]]:
    """Give such a network, and the URL at which a wallet reaches the chain with its key."""
    async with open_network(relay_plan(home, chain), silent) as network:
        root = network.base_url.removesuffix("/v1")
        yield network, f"{root}/rpc/{NAMES[chain.kind]}/{network.key}"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_web3_over_http_reads_sends_and_batches(tmp_path: Path, kind: str) -> None:
    """A wallet's day: identity, balances, a signed transfer, its receipt, a batch, an error; all of it is paid."""

    async def story(chain: RunningChain) -> None:
        async with open_relay(tmp_path / "home", chain) as (network, url):
            w3 = AsyncWeb3(AsyncHTTPProvider(url))
            sender, other = (w3.to_checksum_address(key.account) for key in chain.keys[:2])
            assert await w3.eth.chain_id == chain.chain_id
            before = await w3.eth.get_balance(other)
            signed = w3.eth.account.sign_transaction(
                {
                    "to": other,
                    "value": 12345,
                    "gas": 21_000,
                    "maxFeePerGas": 10**10,
                    "maxPriorityFeePerGas": 10**9,
                    "nonce": await w3.eth.get_transaction_count(sender),
                    "chainId": chain.chain_id,
                },
                chain.keys[0].secret,
            )
            sent = await w3.eth.send_raw_transaction(signed.raw_transaction)
            receipt = await w3.eth.wait_for_transaction_receipt(sent)
            assert receipt["status"] == 1
            assert await w3.eth.get_balance(other) == before + 12345
            async with w3.batch_requests() as batch:
                batch.add(w3.eth.get_block(0))
                batch.add(w3.eth.get_balance(sender))
                batch.add(w3.eth.get_block_number())
                first, _, height = await batch.async_execute()
            assert first["number"] == 0
            assert height >= receipt["blockNumber"]
            with pytest.raises(Exception, match="not served"):
                await w3.manager.coro_request("admin_peers", [])  # type: ignore[arg-type]
            await w3.provider.disconnect()

            async def is_paid() -> bool:
                return await redeemed_nano(network) == await charged_nano(network) > 0

            await until(is_paid, "everything charged is redeemed", 60)

    with open_chain(kind) as chain:
        asyncio.run(story(chain))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_web3_subscription_outlives_each_provider(tmp_path: Path, kind: str) -> None:
    """Every provider is killed once while blocks are made: each head comes once, none is missing."""

    async def story(chain: RunningChain) -> None:
        async with open_relay(tmp_path / "home", chain) as (network, url):
            heads: list[tuple[int, str]] = []
            async with AsyncWeb3(WebSocketProvider(url.replace("http", "ws"))) as w3:
                assert await w3.eth.chain_id == chain.chain_id
                begin = await w3.eth.block_number
                ident = await w3.eth.subscribe("newHeads")
                reader = asyncio.create_task(read_heads(w3, ident, heads))
                for name in ("node-1", "node-2", "node-3"):
                    await mine_until(chain, heads, 2)
                    await network.processes.kill(name)
                    await mine_until(chain, heads, 3)
                    await network.start_node(name)
                    await await_providers(network)
                await mine_until(chain, heads, 2)
                assert await w3.eth.unsubscribe(ident)
                reader.cancel()
            numbers = [number for number, _ in heads]
            assert numbers == list(range(begin + 1, begin + 1 + len(numbers)))
            assert len(numbers) >= 17
            real = [chain.call("eth_getBlockByNumber", hex(number), False)["hash"] for number in numbers]
            assert [told for _, told in heads] == real

    with open_chain(kind) as chain:
        asyncio.run(story(chain))


async def read_heads(w3: Any, ident: Any, heads: list[tuple[int, str]]) -> None:
    """Note each head as the stock client gives it."""
    async for message in w3.socket.process_subscriptions():
        assert message["subscription"] == ident
        head = message["result"]
        heads.append((int(head["number"]), "0x" + bytes(head["hash"]).hex()))


async def mine_until(chain: RunningChain, heads: list[tuple[int, str]], count: int) -> None:
    """Make blocks, and wait until the client has heard of the last one."""
    for _ in range(count):
        await asyncio.to_thread(chain.call, "evm_mine")
        await asyncio.sleep(0.05)
    newest = int(await asyncio.to_thread(chain.call, "eth_blockNumber"), 16)

    async def has_heard() -> bool:
        return bool(heads) and heads[-1][0] >= newest

    await until(has_heard, f"block {newest} is told, of {json.dumps([n for n, _ in heads])}", 30)
