"""A provider dies in the middle of an answer, and another one goes on with it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.network_world import QUICK_NODE, fetch, redeemed_nano, silent, until

from steelyard.cli.local_network import NetworkPlan, open_network
from steelyard.cli.offerings import CHAT, plan_smollm2
from steelyard.cli.settings_file import load_settings

ASK: dict[str, Any] = {
    "model": CHAT,
    "max_tokens": 160,
    "temperature": 0.8,
    "seed": 2026,
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Tell a long story about a fox and a lighthouse."}],
}


def say_nothing(what: str, done: int, total: int) -> None:
    """Show no progress."""


@pytest.mark.timeout(240)
def test_node_killed_mid_stream_is_replaced_and_the_text_is_the_undisturbed_one(tmp_path: Path) -> None:
    """kill -9 of the serving node at seed and temperature 0.8: one answer, the same text, one bill, money adds up."""

    async def story() -> None:
        home = tmp_path / "home"
        services = await plan_smollm2(load_settings(home), say_nothing)
        plan = NetworkPlan(home=home, services=services, providers=2, node=QUICK_NODE)
        async with open_network(plan, silent) as network:
            client = openai.AsyncOpenAI(base_url=network.base_url, api_key=network.key, max_retries=0)
            names = {network.accounts[name].account.hex(): name for name in network.accounts.providers}

            async def read(kill_at: int | None) -> tuple[str, Any, float]:
                stream = await client.chat.completions.create(**ASK)
                provider = stream.response.headers["x-steelyard-provider"]
                text, last, gap_s, count, seen_s = "", None, 0.0, 0, time.monotonic()
                async for chunk in stream:
                    now_s = time.monotonic()
                    gap_s, seen_s = max(gap_s, now_s - seen_s) if count else 0.0, now_s
                    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                    last, count = chunk, count + 1
                    if count == kill_at:
                        await network.processes.kill(names[provider[2:]])
                return text, last, gap_s

            whole, undisturbed, _ = await read(None)
            text, last, gap_s = await read(40)
            assert text == whole
            assert last.usage == undisturbed.usage
            stamp = last.steelyard
            (rescue,) = stamp["rescues"]
            assert rescue["reason"] in ("link_lost", "stalled")
            assert rescue["provider"] != stamp["provider"]
            print(f"longest silence {gap_s:.2f} s")
            call = await fetch(network, f"/calls/{stamp['call_id']}")
            legs = [call, *call["attempts"]]
            assert len({leg["provider"] for leg in legs}) == 2
            assert sum(leg["charged_nano"] for leg in legs) == stamp["cost_nano"]
            assert stamp["cost_nano"] == undisturbed.steelyard["cost_nano"]
            assert call["order"]["prefix_hash"] != "0x" + "00" * 32
            await client.close()

            async def is_paid() -> bool:
                return await redeemed_nano(network) >= call["cost_nano"]

            await until(is_paid, "the second leg is paid whole, its prefix too", 40)

    asyncio.run(story())
