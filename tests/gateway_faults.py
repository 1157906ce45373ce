"""What tests of a failing gateway share: nodes that refuse, a stream read raw, and what the books say after it."""

from __future__ import annotations

import asyncio

import aiohttp
from tests.gateway_node import ScriptedNode
from tests.gateway_world import MODEL, World

from steelyard.link.port import Failure
from steelyard.storage.budgets import load_budget
from steelyard.storage.calls import CallRow, list_calls

WORDS = "one two three four five six seven eight nine ten"


async def list_rows(world: World) -> list[CallRow]:
    """Return all calls, latest first, once they are written."""
    await world.gateway.writer.flush()
    return await list_calls(world.database)


async def sum_costs(world: World) -> int:
    """Return what all calls cost together, once they are written."""
    await world.gateway.writer.flush()
    return sum(row.cost_nano for row in await list_calls(world.database, limit=1000))


async def settle_spent(world: World) -> int:
    """Return what the key's budget counts as spent, with everything idle given back."""
    assert world.key is not None
    for _ in range(50):  # a sweep of the gateway's own may be under way, and give back only what it found
        await world.gateway.meters.sweep(idle_s=0.0)
        budget = await load_budget(world.database, world.key.budget_id)
        if not budget.leased_nano:
            break
        await asyncio.sleep(0.1)
    assert budget.leased_nano == 0
    return budget.spent_nano


def break_node(node: ScriptedNode, code: str, times: int = -1, retryable: bool = True) -> None:
    """Let a node fail its next calls with a code; all of them unless `times` says how many."""
    node.failure, node.failures_left = Failure(code, "the test says so", retryable), times


async def read_raw_stream(world: World) -> bytes:
    """Return the bytes of one streamed answer to `WORDS`."""
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": WORDS}]}
    headers = {"authorization": f"Bearer {world.secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(world.base_url + "/chat/completions", json=body, headers=headers) as reply,
    ):
        return await reply.read()
