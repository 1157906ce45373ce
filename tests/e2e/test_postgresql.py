"""The whole network on PostgreSQL: gateway and node keep everything in one server, and money adds up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from tests.databases import empty_database_url
from tests.network_world import charged_nano, echo_plan, redeemed_nano, silent, until

from steelyard.cli.local_network import await_providers, open_network

QUESTION = [{"role": "user", "content": "Does it weigh the same on PostgreSQL?"}]


@pytest.mark.timeout(180)
def test_network_on_postgresql_survives_a_killed_gateway_and_is_paid(tmp_path: Path) -> None:
    """Calls, a gateway killed and started again, redemption and audit: as on SQLite."""

    async def story() -> None:
        async with empty_database_url("postgresql") as gateway_url, empty_database_url("postgresql") as node_url:
            plan = echo_plan(tmp_path / "home", gateway={"database": gateway_url}, node_database=lambda name: node_url)
            async with open_network(plan, silent) as network:
                async with AsyncOpenAI(base_url=network.base_url, api_key=network.key, max_retries=0) as client:
                    for number in range(6):
                        if number == 3:
                            await network.processes.kill("gateway")
                            await network.start_gateway()
                            await await_providers(network)
                        answer = await client.chat.completions.create(model="echo", max_tokens=64, messages=QUESTION)
                        assert answer.choices[0].message.content == QUESTION[0]["content"]
                assert not list(network.plan.home.glob("gateway.db*"))

                async def is_paid() -> bool:
                    return await redeemed_nano(network) == await charged_nano(network) > 0

                await until(is_paid, "everything charged is redeemed", 40)

    asyncio.run(story())
