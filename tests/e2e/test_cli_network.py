"""A person runs a network of `echo` providers and uses every command on it, as the help texts show them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from steelyard.cli.local_network import NetworkPlan, open_network
from steelyard.cli.offerings import plan_echo

YARD = 10**9


class Person:
    """Types commands on a network and reads what they print."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = os.environ | environment

    async def type(self, *words: str, status: int = 0) -> tuple[str, str]:
        """Type a command, expect its status, and return what it printed on both outputs."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "steelyard",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        out, err = (part.decode() for part in await process.communicate())
        assert process.returncode == status, f"steelyard {' '.join(words)}: {process.returncode}\n{out}\n{err}"
        return out, err

    async def read(self, *words: str, status: int = 0) -> Any:
        """Type a command with --json and return its one JSON value."""
        return json.loads((await self.type(*words, "--json", status=status))[0])


def on_network(home: Path, story: Callable[[Person, Any], Awaitable[None]]) -> None:
    """Run a story on a fresh network of two echo providers."""

    async def run() -> None:
        plan = NetworkPlan(home=home, services=[plan_echo()], providers=2)
        async with open_network(plan, lambda _: None) as network:
            section = {"STEELYARD_BASE_URL": network.base_url, "STEELYARD_API_KEY": network.key}
            ports = map(str, network.ports["gateway"])
            section["STEELYARD_GATEWAY__PORT"], section["STEELYARD_GATEWAY__LINK_PORT"] = ports
            await story(Person(network.environment | section), network)

    asyncio.run(run())


def stream(network: Any, text: str) -> str:
    """Return what the stock client, without asyncio, puts together from a streamed answer."""
    with OpenAI(base_url=network.base_url, api_key=network.key, max_retries=0) as client:
        chunks = client.chat.completions.create(
            model="echo", max_tokens=64, stream=True, messages=[{"role": "user", "content": text}]
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def check_proofs(person: Person, folder: Path, call_id: str, content: str) -> None:
    """Verify a call as a person does, until a voucher covers it; then with its answer, and with another one."""
    for _ in range(50):
        said = await person.read("calls", "verify", call_id)
        if said["steps"][-1]["state"] == "holds":
            break
        await asyncio.sleep(0.1)
    states = {step["name"]: step["state"] for step in said["steps"]}
    assert (said["is_verified"], said["is_complete"]) == (True, False)
    assert {name for name, state in states.items() if state != "holds"} == {"request", "answer"}
    answer, other = folder / "answer.txt", folder / "other.txt"
    answer.write_text(content + "\n")  # as a shell or an editor saves it
    other.write_text(content.upper())
    out, err = await person.type("calls", "verify", call_id, "--content", str(answer))
    assert "✓ the receipt is for the answer that was received\n" in out
    assert "- the order is for the request that was sent: no request body was given\n" in out
    assert out.count("✓") == 8
    assert f"Next: steelyard calls verify {call_id} --body FILE" in err
    out, _ = await person.type("calls", "verify", call_id, "--content", str(other), status=1)
    assert "✗ the receipt is for the answer that was received: the receipt is for another answer\n" in out
    _, err = await person.type("calls", "verify", "call_" + "0" * 32, status=1)
    assert "this key has no call" in err
    out, err = await person.type("calls", "show", call_id)
    for shown in ("batch.proof", "batch.signature", "voucher.signature", "YARD per 1,000,000 units", "asked"):
        assert shown in out
    assert f"Next: steelyard calls verify {call_id}" in err


@pytest.mark.timeout(300)
def test_buyers_commands_show_calls_receipts_and_a_conserved_total(tmp_path: Path) -> None:
    """Chat, its call and receipt, keys with budgets, redemption, and an audit that says yes, then what is missing."""

    async def story(person: Person, network: Any) -> None:
        out, err = await person.type("chat", "hello there")
        assert out.startswith("hello there\n[")
        assert "YARD, provider 0x" in out
        assert "Next: steelyard calls show call_" in err
        answer = await person.read("chat", "again")
        stamp = answer["steelyard"]
        assert (answer["content"], answer["finish_reason"], answer["model"]) == ("again", "stop", "echo")
        calls = await person.read("calls", "list")
        assert len(calls) == 2
        assert await asyncio.to_thread(stream, network, "one word at a time") == "one word at a time"
        (call,) = await person.read("calls", "show", stamp["call_id"])
        assert (call["receipt_id"], call["cost_nano"]) == (stamp["receipt_id"], stamp["cost_nano"])
        assert call["receipt"]["cost"] == stamp["cost_nano"]
        assert call["order"]["provider"] == stamp["provider"] == call["provider"]
        (passed,) = call["why"]["passed_over"]
        assert (call["why"]["how"], passed["provider"] == call["provider"]) == ("warm", False)
        assert "prefix" in passed["reason"]
        await check_proofs(person, tmp_path, stamp["call_id"], "again")

        made = await person.read("keys", "create", "app", "--budget", "2.5", "--rate", "60", "--expires", "7d")
        assert (made["limit_nano"], made["requests_per_minute"]) == (5 * YARD // 2, 60)
        assert (await person.type("chat", "hi", "--api-key", made["secret"]))[0].startswith("hi\n")
        assert (await person.read("keys", "limit", "app", "--no-budget"))["limit_nano"] is None
        assert (await person.read("keys", "revoke", "app"))["state"] == "revoked"
        _, err = await person.type("chat", "hi", "--api-key", made["secret"], status=1)
        assert "revoked" in err
        assert {key["name"]: key["state"] for key in await person.read("keys", "list")} == {
            "development": "live",
            "app": "revoked",
        }

        redeemed = [await person.read("redeem", "--wallet", name) for name in ("node-1", "node-2")]
        paid = sum(redemption["paid_nano"] for done in redeemed for redemption in done)
        assert paid == sum(row["cost_nano"] for row in await person.read("calls", "list"))
        report = await person.read("audit")
        assert report["money_conserved"] == "yes"
        assert sum(lane["proven_nano"] for lane in report["lanes"]) == paid
        assert "money conserved: yes" in (await person.type("audit"))[0]
        for blob in network.settings.blobs_folder.glob("*/bafkrei*"):
            blob.unlink()
        report = await person.read("audit", status=3)
        assert report["money_conserved"] == "not provable"
        assert all(finding["cids"] for finding in report["findings"])
        out, err = await person.type("audit", status=3)
        assert "money conserved: not provable" in out
        assert report["findings"][0]["cids"][0] in out

        saved = await person.read("backup", str(tmp_path / "gateway.backup"))
        assert saved["rows"] > 0
        url = f"sqlite:///{tmp_path}/restored.db"
        restored = await person.read("restore", str(tmp_path / "gateway.backup"), "--database", url)
        assert restored == saved
        _, err = await person.type("restore", str(tmp_path / "gateway.backup"), "--database", url, status=2)
        assert "the database is not empty" in err

        state = await person.read("status")
        assert (state["chain"]["state"], state["gateway"]["state"]) == ("up", "ready")
        assert state["chain"]["services"] == ["echo"]
        checks = await person.read("doctor")
        assert checks["problems"] == 0

    on_network(tmp_path / "home", story)


@pytest.mark.timeout(300)
def test_sellers_and_owners_commands_move_money_as_they_say(tmp_path: Path) -> None:
    """Wallets, stakes, deposits, withdrawals, services and offers: what is printed is what the chain then has."""

    async def story(person: Person, network: Any) -> None:
        made = await person.read("wallet", "new", "node-9", "--dev")
        _, err = await person.type("wallet", "new", "node-9", "--dev", status=2)
        assert "never overwritten" in err
        funded = await person.read("wallet", "fund", "node-9", "1500.5")
        assert funded["wallet_nano"] == 1_500_500_000_000
        staked = await person.read("stake", "provider", "1000", "--wallet", "node-9")
        assert staked["stake_nano"] == 1000 * YARD
        leaving = await person.read("unstake", "provider", "100", "--wallet", "node-9")
        assert (leaving["stake_nano"], leaving["unbonding_nano"]) == (900 * YARD, 100 * YARD)
        _, err = await person.type("unstake", "provider", "--finish", "--wallet", "node-9", status=1)
        assert "can be taken from" in err
        _, err = await person.type("unstake", "provider", "--wallet", "node-9", status=1)
        assert "--finish" in err
        shown = await person.read("wallet", "show", "node-9")
        (wallet,) = shown["wallets"]
        assert wallet["account"] == made["account"]
        assert wallet["stakes_nano"]["provider"] == 900 * YARD
        assert wallet["gas_wei"] > 0

        deposited = await person.read("deposit", "5", "--wallet", "node-9")
        assert deposited["deposit_nano"] == 1005 * YARD
        announced = await person.read("withdraw", "announce", "7")
        assert announced["withdrawal_nano"] == 7 * YARD
        _, err = await person.type("withdraw", "finish", status=1)
        assert err.startswith("error: the withdrawal can be taken from 20")
        assert (await person.read("withdraw", "cancel"))["withdrawal_nano"] == 0

        manifest = tmp_path / "manifest.json"
        manifest.write_bytes(plan_echo("my-echo").manifest)
        registered = await person.read(
            "services", "register", "my-echo", "echo", "--manifest", str(manifest), "--split", "9000,500,0,500"
        )
        assert registered["manifest"].startswith("bafkrei")
        _, err = await person.type("offer", "set", "my-ekho", "--price-in", "1", "--price-out", "2", status=1)
        assert "my-echo" in err
        offer = ("offer", "set", "my-echo", "--wallet", "node-9")
        said = await person.read(*offer, "--price-in", "1", "--price-out", "2", "--grade", "exact")
        assert (said["price_in_nano"], said["seq"], said["grade"]) == (YARD, 1, "exact")
        said = await person.read(*offer, "--price-out", "3")
        assert (said["price_in_nano"], said["price_out_nano"], said["seq"]) == (YARD, 3 * YARD, 2)
        listed = {service["name"]: service for service in await person.read("services", "list")}
        assert [o["provider"] for o in listed["my-echo"]["offers"]] == [made["account"]]
        assert listed["my-echo"]["split_bps"] == [9000, 500, 0, 500]
        _, err = await person.type(*offer[:-1], "me", "--price-in", "1", "--price-out", "2", status=1)
        assert err == (
            "error: me has 0 YARD staked as provider, the least is 100: "
            "run steelyard stake provider 100 --wallet me first\n"
        )

        node = await network.processes.start(
            "node-9",
            ["node", "run", "--wallet", "node-9", "--service", "my-echo", "--gateway", network.base_url[:-3]],
            environment=network.environment,
        )
        assert (node.ready["provider"], node.ready["services"]) == (made["account"], ["my-echo"])
        for _ in range(50):
            out, _ = await person.type("chat", "sold", "--model", "my-echo", "--json")
            if json.loads(out)["content"] == "sold":
                break
            await asyncio.sleep(0.2)
        await network.processes.stop("node-9")
        assert (await person.read(*offer, "--stop"))["is_withdrawn"] is True
        assert {s["name"]: len(s["offers"]) for s in await person.read("services", "list")}["my-echo"] == 0
        report = await person.read("audit")
        assert report["money_conserved"] == "yes"

    on_network(tmp_path / "home", story)
