"""The whole network on anvil: nothing of ours depends on our own chain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from tests.network_world import charged_nano, open_echo_network, redeemed_nano, until

QUESTION = [{"role": "user", "content": "Does it weigh the same on anvil?"}]


@pytest.mark.timeout(180)
def test_network_on_anvil_serves_redeems_and_audits(tmp_path: Path) -> None:
    """Deployment, stakes, calls, redemption and audit run on another EVM node over the same RPC."""

    async def story() -> None:
        async with open_echo_network(tmp_path / "home", "anvil") as network:
            assert "chain" not in network.processes.children
            async with AsyncOpenAI(base_url=network.base_url, api_key=network.key, max_retries=0) as client:
                for _ in range(3):
                    answer = await client.chat.completions.create(model="echo", max_tokens=64, messages=QUESTION)
                    assert answer.choices[0].message.content == QUESTION[0]["content"]

            async def is_paid() -> bool:
                return await redeemed_nano(network) == await charged_nano(network) > 0

            await until(is_paid, "everything charged is redeemed on anvil", 40)

    asyncio.run(story())
