"""Validators on whole networks: a cheat that is caught and put out of work, and a kill -9 that loses nothing."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from rich.console import Console
from tests.llama_world import CACHE
from tests.network_world import QUICK_NODE, echo_service, silent, until

from steelyard.chain.court import CourtClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.rpc import ChainRpc
from steelyard.cli.cheats import BACKFILL
from steelyard.cli.demo_trust import EPOCH_S, TERMS, tell_trust
from steelyard.cli.invocation import Invocation
from steelyard.cli.local_network import Network, NetworkPlan, open_network
from steelyard.protocol.messages import Outcome
from steelyard.storage.database import open_database
from steelyard.storage.verdicts import SecretRow, VerdictRow, load_secrets, load_verdicts

LONG = "a word " * 40
VALIDATORS = 3


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_cheat_with_honest_looking_evidence_is_convicted_and_loses_its_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's own story, with one cheat and one honest provider: a fingerprint alone would never have seen it."""
    monkeypatch.setenv("STEELYARD_WEIGHTS__CACHE", str(CACHE))
    told = io.StringIO()
    story = tell_trust(
        Invocation(tmp_path / "caller"), tmp_path / "network", Console(file=told), honest=1, cheats=(BACKFILL,), after=8
    )
    honest, cheat = asyncio.run(story)
    assert honest.is_right, honest
    assert cheat.is_right, cheat
    assert not cheat.is_caught_by_fingerprint
    assert cheat.challenger_audited <= 12, cheat
    assert cheat.stake_after <= cheat.stake_before // 2
    assert honest.verdicts.get(Outcome.PASS, 0) > 0
    assert "no calibration ships" not in told.getvalue()


class Books:
    """What the validators of a network wrote down."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def rows(self, name: str) -> list[VerdictRow]:
        """One validator's verdicts."""
        async with self._open(name) as database:
            return await load_verdicts(database)

    async def secrets(self, name: str) -> dict[int, SecretRow]:
        """One validator's secrets."""
        async with self._open(name) as database:
            return await load_secrets(database)

    async def all_rows(self) -> list[VerdictRow]:
        """Everybody's verdicts."""
        return [row for name in self._network.accounts.validators for row in await self.rows(name)]

    @asynccontextmanager
    async def _open(self, name: str) -> AsyncIterator[Any]:
        database = await open_database(f"sqlite:///{self._network.plan.home / (name + '.db')}")
        try:
            yield database
        finally:
            await database.aclose()


@pytest.mark.timeout(300)
def test_calls_are_judged_once_each_though_validators_are_killed(tmp_path: Path) -> None:
    """A newcomer's long calls over two gateways: each gets one verdict of one validator, private ones none, kill -9 or
    not; nobody's secret changes, and nobody is fined for its death.
    """

    async def story() -> None:
        plan = NetworkPlan(
            home=tmp_path,
            services=[echo_service()],
            providers=2,
            gateways=2,
            validators=VALIDATORS,
            node=QUICK_NODE,
            validator={"poll_s": 0.5, "beat_s": 1.0},
            parameters=DeploymentParameters(epoch_s=EPOCH_S, court=TERMS),
        )
        async with open_network(plan, silent) as network, ChainRpc([network.rpc_url]) as rpc:
            books, court = Books(network), CourtClient(rpc, network.deployment)
            accounts = [network.accounts[name].account for name in network.accounts.validators]

            async def have_all_committed() -> bool:
                block = await rpc.block("latest")
                epoch = court.epoch_at(0 if block is None else block.timestamp_s)
                return all(secret.value != bytes(32) for secret in await court.fetch_secrets(accounts, epoch))

            await until(have_all_committed, "an epoch with every secret", 60)
            receipts, private = set(), set()

            async def call(number: int, *, is_private: bool = False) -> None:
                gateway = list(network.base_urls)[number % 2]
                headers = {"x-steelyard-private": "true"} if is_private else {}
                async with openai.AsyncOpenAI(
                    base_url=network.base_urls[gateway], api_key=network.keys[gateway], default_headers=headers
                ) as client:
                    answer = await client.chat.completions.create(
                        model="echo", messages=[{"role": "user", "content": f"{LONG} {number}"}]
                    )
                receipt = bytes.fromhex(answer.steelyard["receipt_id"][2:])  # type: ignore[attr-defined]
                (private if is_private else receipts).add(receipt)

            for number in range(12):
                await call(number, is_private=number % 4 == 3)
            victims = network.accounts.validators[:2]
            before = {name: await books.secrets(name) for name in victims}
            for name in victims:
                await network.processes.kill(name)
            for number in range(12, 24):
                await call(number, is_private=number % 4 == 3)
            await asyncio.gather(*(network.start_validator(name) for name in victims))
            for number in range(24, 32):
                await call(number)

            async def are_all_judged() -> bool:
                return {row.receipt_hash for row in await books.all_rows()} >= receipts | private

            await until(are_all_judged, "a verdict on every call", 90)
            rows = await books.all_rows()
            counts = Counter(row.receipt_hash for row in rows)
            assert set(counts.values()) == {1}
            outcomes = {row.receipt_hash: (Outcome(row.outcome), row.reason) for row in rows}
            assert {outcomes[receipt] for receipt in receipts} == {(Outcome.PASS, "")}
            assert {outcomes[receipt] for receipt in private} == {(Outcome.ABSTAIN, "no_call")}
            assert {row.selected_by for row in rows if row.receipt_hash in receipts} == {"newcomer"}
            for name in victims:
                after = await books.secrets(name)
                assert {epoch: after[epoch].secret for epoch in before[name]} == {
                    epoch: row.secret for epoch, row in before[name].items()
                }
            assert await court.fetch_case_count() == 0
            assert all(child.is_running for child in network.processes.children.values())

    started_s = time.monotonic()
    asyncio.run(story())
    print(f"{time.monotonic() - started_s:.0f} s")
