"""A provider dies in the middle of an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from tests.network_world import QUICK_NODE, charged_nano, fetch, redeemed_nano, silent, until

from steelyard.cli.local_network import NetworkPlan, await_providers, open_network
from steelyard.cli.offerings import CHAT, plan_smollm2
from steelyard.cli.settings_file import load_settings


def say_nothing(what: str, done: int, total: int) -> None:
    """Show no progress."""


@pytest.mark.timeout(180)
def test_node_killed_mid_stream_gives_an_error_in_the_stream(tmp_path: Path) -> None:
    """The client gets what was made and then an error, never an answer that looks whole; money still adds up."""

    async def story() -> None:
        home = tmp_path / "home"
        services = await plan_smollm2(load_settings(home), say_nothing)
        plan = NetworkPlan(home=home, services=services, providers=1, node=QUICK_NODE)
        async with open_network(plan, silent) as network:
            client = openai.AsyncOpenAI(base_url=network.base_url, api_key=network.key, max_retries=0)
            stream = await client.chat.completions.create(
                model=CHAT, max_tokens=400, stream=True, messages=[{"role": "user", "content": "Tell a long story."}]
            )
            pieces: list[str | None] = []
            reasons: list[str | None] = []

            async def read_on() -> None:
                async for chunk in stream:
                    pieces.append(chunk.choices[0].delta.content)
                    reasons.append(chunk.choices[0].finish_reason)
                    if len(pieces) == 4:
                        await network.processes.kill("node-1")

            with pytest.raises(openai.APIError) as caught:
                await read_on()
            assert len(pieces) >= 4
            assert not any(reasons)
            assert "provider" in str(caught.value).lower() or "link" in str(caught.value).lower()
            with pytest.raises(openai.APIStatusError) as refused:
                await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "Hello?"}])
            assert refused.value.status_code == 503
            assert refused.value.response.headers["retry-after"]
            await network.start_node("node-1")
            await await_providers(network)
            answer = await client.chat.completions.create(
                model=CHAT, max_tokens=8, messages=[{"role": "user", "content": "Hello?"}]
            )
            assert answer.choices[0].message.content
            await client.close()
            whole = (await fetch(network, f"/calls/{answer.steelyard['call_id']}"))["cost_nano"]  # type: ignore[attr-defined]

            async def is_paid() -> bool:
                return await redeemed_nano(network) >= whole

            await until(is_paid, "the whole answer is paid", 40)
            assert await redeemed_nano(network) <= await charged_nano(network)

    asyncio.run(story())
