"""The chain dies under a running network and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from tests.network_world import charged_nano, echo_plan, redeemed_nano, silent, until

from steelyard.cli.local_network import open_network

QUESTION = [{"role": "user", "content": "Does the road hold without a chain?"}]


@pytest.mark.timeout(180)
def test_chain_killed_and_restarted_delays_payment_and_loses_nothing(tmp_path: Path) -> None:
    """Calls are served while the chain is down, and everything is redeemed once it is back."""

    async def story() -> None:
        async with open_network(echo_plan(tmp_path / "home"), silent) as network:
            async with AsyncOpenAI(base_url=network.base_url, api_key=network.key, max_retries=0) as client:
                for number in range(6):
                    if number == 2:
                        await network.processes.kill("chain")
                    answer = await client.chat.completions.create(model="echo", max_tokens=64, messages=QUESTION)
                    assert answer.choices[0].finish_reason == "stop"
            await asyncio.sleep(2.0)
            await network.start_chain()
            charged = await charged_nano(network)

            async def is_paid() -> bool:
                return await redeemed_nano(network) == charged

            await until(is_paid, f"{charged} nano redeemed after the chain came back", 60)

    asyncio.run(story())
