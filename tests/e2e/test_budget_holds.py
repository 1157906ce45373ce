"""Budgets hold under 100 parallel requests, and one pool promised twice leaves a debt, not a lie."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import openai
import pytest
from tests.network_world import charged_nano, echo_plan, echo_service, fetch, silent, steelyard, until

from steelyard.chain.parameters import DeploymentParameters
from steelyard.cli.genesis import Funds
from steelyard.cli.local_network import Network, open_network
from steelyard.storage.database import open_database
from steelyard.storage.keys import create_key, load_key

QUESTION = [{"role": "user", "content": "What does a hundred of these weigh? " * 4}]


async def make_key(network: Network, name: str, limit_nano: int) -> str:
    """Return the secret of a new key with a budget."""
    database = await open_database(network.settings.gateway_database)
    try:
        return (await create_key(database, name, limit_nano=limit_nano, now_ms=time.time_ns() // 1_000_000))[1]
    finally:
        await database.aclose()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
def test_hundred_parallel_requests_never_exceed_a_budget_of_fifty(tmp_path: Path, is_stream: bool) -> None:
    """Reserved and settled stay within the budget; at least 50 are served, the rest get 402 with a stable code."""

    async def story() -> None:
        plan = echo_plan(tmp_path / "home", services=[echo_service(delay_ms=30 if is_stream else 0)])
        async with open_network(plan, silent) as network:
            async with openai.AsyncOpenAI(base_url=network.base_url, api_key=network.key, max_retries=0) as client:
                first = await client.chat.completions.create(model="echo", max_tokens=256, messages=QUESTION)
            shown = await fetch(network, f"/calls/{first.steelyard['call_id']}")  # type: ignore[attr-defined]
            limit = 50 * int(shown["order"]["max_cost"])
            key = await make_key(network, "fifty", limit)
            highest = 0

            async def one(client: openai.AsyncOpenAI) -> str:
                try:
                    answer = await client.chat.completions.create(
                        model="echo", max_tokens=256, messages=QUESTION, stream=is_stream
                    )
                    if is_stream:
                        async for _ in answer:
                            pass
                except openai.APIStatusError as error:
                    return f"{error.code}" if error.status_code == 402 else f"{error.status_code} {error.code}"
                return "served"

            async def watch(database_url: str) -> None:
                nonlocal highest
                database = await open_database(database_url)
                try:
                    while True:
                        known = await load_key(database, "fifty")
                        highest = max(highest, known.spent_nano + known.leased_nano)
                        await asyncio.sleep(0.005)
                finally:
                    await database.aclose()

            watching = asyncio.create_task(watch(network.settings.gateway_database))
            async with openai.AsyncOpenAI(base_url=network.base_url, api_key=key, max_retries=0, timeout=60) as client:
                outcomes = await asyncio.gather(*(one(client) for _ in range(100)))
            await asyncio.sleep(0.5)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert outcomes.count("served") >= 50
            assert set(outcomes) <= {"served", "budget_exceeded"}
            assert 0 < highest <= limit
            assert await charged_nano(network, key) <= limit
            cost = int(shown["cost_nano"])
            assert await charged_nano(network, key) == outcomes.count("served") * cost

    asyncio.run(story())


@pytest.mark.timeout(180)
def test_one_pool_promised_to_many_providers_leaves_the_rest_owed(tmp_path: Path) -> None:
    """Two gateways of one account spend one pool twice: providers stop at their windows, what can't be paid is owed."""
    funds = Funds(wallet=50_000_000, gateway_stake=200, provider_stake=20_000_000, deposit=1_500)
    parameters = DeploymentParameters(min_stakes_nano=(100, 100, 100))
    node = {"redeem_after_s": 600.0, "credit_base_nano": 1_200, "credit_max_nano": 1_200, "redeem_value_nano": 10**12}

    async def story() -> None:
        plan = echo_plan(tmp_path / "home", providers=2, funds=funds, parameters=parameters, node=node)
        async with open_network(plan, silent) as network:
            twin_url = f"sqlite:///{tmp_path / 'twin.db'}"
            twin = await network.processes.start(
                "twin",
                ["gateway", "run", "--port", "0", "--link-port", "0", "--database", twin_url],
                environment=network.environment,
            )
            for name in plan_providers(network):
                await network.processes.stop(name)
                urls = [network.base_url.removesuffix("/v1"), twin.ready["base_url"].removesuffix("/v1")]
                gateways = [part for url in urls for part in ("--gateway", url)]
                await network.processes.start(
                    name, ["node", "run", "--wallet", name, *gateways], environment=network.environment
                )
            database = await open_database(twin_url)
            _, twin_key = await create_key(database, "twin", now_ms=time.time_ns() // 1_000_000)
            await database.aclose()
            refusals: set[str] = set()
            for base_url, key in ((network.base_url, network.key), (twin.ready["base_url"], twin_key)):
                refusals |= await spend_all(base_url, key)
            assert refusals <= {"insufficient_funds", "no_provider"}
            await asyncio.sleep(2)
            for name in plan_providers(network):
                await steelyard(network, "redeem", "--wallet", name)
            report = await steelyard(network, "audit")
            assert report["money_conserved"] == "yes", report["findings"]
            (gateway,) = report["gateways"]
            assert gateway["remaining_nano"] == 0
            assert gateway["owed_nano"] > 0
            assert gateway["redeemed_nano"] == funds.deposit + gateway["drawn_nano"]
            assert gateway["drawn_nano"] == funds.gateway_stake
            for lane_provider in {lane["provider"] for lane in report["lanes"]}:
                lanes = [lane for lane in report["lanes"] if lane["provider"] == lane_provider]
                assert sum(lane["redeemed_nano"] for lane in lanes) <= 1_200

    async def spend_all(base_url: str, key: str) -> set[str]:
        codes: set[str] = set()
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:

            async def is_served() -> bool:
                try:
                    await client.chat.completions.create(
                        model="echo", max_tokens=64, messages=[{"role": "user", "content": "Spend." * 8}]
                    )
                except openai.APIStatusError as error:
                    codes.add(str(error.code))
                    return "insufficient_funds" in codes or "credit" in str(error)
                return False

            await until(is_served, "the pool or the windows are spent", 60)
        return codes

    asyncio.run(story())


def plan_providers(network: Network) -> list[str]:
    """Return the names of the network's providers."""
    return network.accounts.providers
