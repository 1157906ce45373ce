"""Two gateway processes behind one port, on PostgreSQL: keys, rates and budgets are shared, lanes are each its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from tests.databases import empty_database_url
from tests.network_world import echo_plan, redeemed_nano, silent, steelyard, until

from steelyard.cli.local_network import Network, open_network
from steelyard.storage.database import Database, open_database
from steelyard.storage.keys import create_key, list_keys, load_key, revoke_key
from steelyard.storage.lanes import load_lanes

BODY = {"model": "echo", "max_tokens": 64, "messages": [{"role": "user", "content": "Who of you weighs this?"}]}


async def ask(session: aiohttp.ClientSession, url: str, key: str) -> tuple[int, str]:
    """Return the status of a call and its error's code, if it has one."""
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with session.post(url + "/v1/chat/completions", json=BODY, headers=headers) as answer:
            said = await answer.json()
            return answer.status, (said.get("error") or {}).get("code", "")
    except aiohttp.ClientError as error:
        return 0, type(error).__name__


async def make_key(database: Database, name: str, *, limit: int | None = None, per_minute: int | None = None) -> str:
    """Return the secret of a new key."""
    now_ms = time.time_ns() // 1_000_000
    return (await create_key(database, name, limit_nano=limit, requests_per_minute=per_minute, now_ms=now_ms))[1]


async def budgets_and_rates_are_shared(session: aiohttp.ClientSession, database: Database, own: list[str]) -> None:
    """Calls to both processes at once stay within one budget and one rate."""
    cost = 2 * len(BODY["messages"][0]["content"])  # type: ignore[index]  # one nano a byte, in and out
    few = await make_key(database, "few", limit=40 * cost)
    found = await asyncio.gather(*(ask(session, own[number % 2], few) for number in range(80)))
    assert {code for status, code in found if status != 200} == {"budget_exceeded"}
    known = await load_key(database, "few")
    assert known.spent_nano + known.leased_nano <= 40 * cost
    assert 20 <= sum(status == 200 for status, _ in found) <= 40
    slow = await make_key(database, "slow", per_minute=20)
    begun_s = time.monotonic()
    found = [await ask(session, own[number % 2], slow) for number in range(40)]
    most = 20 + int((time.monotonic() - begun_s) / 3) + 1
    assert 20 <= sum(status == 200 for status, _ in found) <= most
    assert {code for status, code in found if status != 200} == {"rate_limit_exceeded"}


async def revoked_key_is_refused_by_both(session: aiohttp.ClientSession, database: Database, own: list[str]) -> None:
    """A second after it was revoked, no process serves a key that both have just served."""
    key = await make_key(database, "revoked")
    assert [await ask(session, url, key) for url in own] == [(200, ""), (200, "")]
    await revoke_key(database, "revoked", now_ms=time.time_ns() // 1_000_000)
    await asyncio.sleep(1.0)
    assert [await ask(session, url, key) for url in own] == [(401, "key_revoked")] * 2


async def one_is_killed_and_the_other_goes_on(
    session: aiohttp.ClientSession, network: Network, own: list[str], victim: int
) -> None:
    """The survivor serves every call, the shared port too; the dead one comes back under its name."""
    os.kill(victim, signal.SIGKILL)
    found = [await ask(session, own[0], network.key) for _ in range(20)]
    assert [status for status, _ in found] == [200] * 20

    async def shared_port_serves() -> bool:
        return (await ask(session, network.base_url.removesuffix("/v1"), network.key))[0] == 200

    await until(shared_port_serves, "the shared port serves", 5)

    async def is_back() -> bool:
        return (await ask(session, own[1], network.key))[0] == 200

    await until(is_back, "the killed process is back, with its providers", 40)


@pytest.mark.timeout(240)
def test_two_processes_share_what_must_be_shared_and_survive_each_other(tmp_path: Path) -> None:
    """One port, two processes, one database: nothing is overspent, served after revocation, or lost with a process."""

    async def story() -> None:
        async with empty_database_url("postgresql") as url:
            plan = echo_plan(tmp_path / "home", gateway={"database": url, "processes": 2}, providers=2)
            async with open_network(plan, silent) as network:
                ready = network.processes.children["gateway"].ready
                own = ready["own_urls"]
                database = await open_database(url)
                try:
                    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:

                        async def are_linked() -> bool:
                            return len(await load_lanes(database)) == 4

                        await until(are_linked, "both nodes found both processes", 40)
                        await budgets_and_rates_are_shared(session, database, own)
                        await revoked_key_is_refused_by_both(session, database, own)
                        await one_is_killed_and_the_other_goes_on(session, network, own, ready["pids"][1])
                    lanes = await load_lanes(database)
                    assert {lane.process for lane in lanes} == {"gateway", "gateway-2"}
                    assert len({lane.state.lane.key for lane in lanes}) == 4

                    async def is_paid() -> bool:
                        charged = sum(key.spent_nano for key in await list_keys(database))
                        return await redeemed_nano(network) == charged > 0

                    await until(is_paid, "every lane of both processes is redeemed", 60)
                finally:
                    await database.aclose()

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_processes_without_postgresql_are_refused_in_one_line(tmp_path: Path) -> None:
    """SQLite has one writer: whoever wants several processes is told what to set."""

    async def story() -> None:
        async with open_network(echo_plan(tmp_path / "home"), silent) as network:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "steelyard", "gateway", "run"),
                *("--processes", "2", "--port", "0", "--link-port", "0"),
                stderr=asyncio.subprocess.PIPE,
                env=os.environ | network.environment,
            )
            _, errors = await process.communicate()
            assert process.returncode == 2
            assert b"PostgreSQL" in errors
            assert (await steelyard(network, "audit"))["money_conserved"] == "yes"

    asyncio.run(story())
