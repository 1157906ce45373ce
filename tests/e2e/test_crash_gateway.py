"""The gateway dies at the worst moments; money still adds up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from tests.network_world import charged_nano, fetch, open_echo_network, redeemed_nano, steelyard, until

from steelyard.cli.local_network import Network, await_providers, open_key

CRASHING = str(Path(__file__).with_name("crashing_gateway.py"))
QUESTION = [{"role": "user", "content": "How much does this sentence weigh?"}]


async def ask(network: Network, times: int) -> None:
    """Make some calls, one after the other."""
    async with AsyncOpenAI(base_url=network.base_url, api_key=network.key, max_retries=0) as client:
        for _ in range(times):
            answer = await client.chat.completions.create(model="echo", max_tokens=64, messages=QUESTION)
            assert answer.choices[0].message.content == QUESTION[0]["content"]


async def crash_before_sending_a_voucher(network: Network) -> None:
    """Replace the gateway by one that dies with its first voucher, and let it."""
    await network.processes.stop("gateway")
    port, link_port = map(str, network.ports["gateway"])
    child = await network.processes.start(
        "gateway",
        ["gateway", "run", "--port", port, "--link-port", link_port],
        environment=network.environment,
        program=[CRASHING],
    )
    await await_providers(network)
    await ask(network, 3)
    assert await asyncio.wait_for(child.process.wait(), 20) == -9
    network.processes.children.pop("gateway")


async def lanes_are_paid(network: Network, charged: int) -> None:
    """Wait until exactly what was charged is redeemed, and stays so: nothing is paid twice."""

    async def is_paid() -> bool:
        return await redeemed_nano(network) >= charged

    await until(is_paid, f"{charged} nano redeemed", 40)
    await asyncio.sleep(2.5)
    assert await redeemed_nano(network) == charged


@pytest.mark.timeout(180)
@pytest.mark.parametrize("chain", ["embedded", "anvil"])
def test_gateway_killed_between_signing_and_sending_pays_once(tmp_path: Path, chain: str) -> None:
    """A voucher that was signed and never sent is sent by the next process; no total falls, nothing is paid twice."""

    async def story() -> None:
        async with open_echo_network(tmp_path / "home", chain) as network:
            await crash_before_sending_a_voucher(network)
            await network.start_gateway()
            await await_providers(network)
            await ask(network, 2)
            charged = await charged_nano(network)
            await lanes_are_paid(network, charged)
            calls = await fetch(network, "/calls?limit=50")
            assert len(calls["data"]) == 5
            shown = [await fetch(network, f"/calls/{call['id']}") for call in calls["data"]]
            vouchers = sorted((s["voucher"]["count"], s["voucher"]["cumulative"]) for s in shown)
            assert vouchers == sorted(vouchers, key=lambda pair: pair[1])

    asyncio.run(story())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("chain", ["embedded", "anvil"])
def test_gateway_with_an_empty_database_honours_receipts_by_their_tags(tmp_path: Path, chain: str) -> None:
    """A gateway that lost everything makes new lanes, and still pays the old one's signed receipts."""

    async def story() -> None:
        async with open_echo_network(tmp_path / "home", chain) as network:
            await crash_before_sending_a_voucher(network)
            for file in network.plan.home.glob("gateway.db*"):
                file.unlink()
            await network.start_gateway()
            network.keys["gateway"] = await open_key(network)
            await await_providers(network)
            await ask(network, 2)
            new = await charged_nano(network)

            async def is_paid() -> bool:
                report = await steelyard(network, "audit")
                assert report["money_conserved"] == "yes", report["findings"]
                lanes = sorted((lane["calls"], lane["redeemed_nano"]) for lane in report["lanes"])
                return lanes == [(2, new), (3, new * 3 // 2)]

            await until(is_paid, "both lanes paid, the lost one of 3 calls and the new one of 2", 40)

    asyncio.run(story())
