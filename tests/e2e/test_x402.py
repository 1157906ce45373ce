"""An agent without an account buys answers with x402's own client: real processes, a real chain, real HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from eth_account import Account
from tests.network_world import echo_plan, open_echo_network
from x402 import x402ClientSync
from x402.http.clients.requests import wrapRequestsWithPayment
from x402.mechanisms.evm.exact import ExactEvmClientScheme
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC
from x402.mechanisms.evm.upto import UptoEvmClientScheme

from steelyard.chain.rpc import ChainRpc
from steelyard.chain.yard import YardClient
from steelyard.cli.genesis import open_accounts
from steelyard.cli.local_network import Network, prepare_home
from steelyard.cli.settings_file import load_settings
from steelyard.protocol.signing import SigningKey

X402 = {"x402": {"enabled": True}}
QUESTION = {
    "model": "echo",
    "max_tokens": 64,
    "stop": ["?"],
    "messages": [{"role": "user", "content": "What does it weigh? It costs less than it might."}],
}
ANSWER = "What does it weigh"


@dataclass
class Agent:
    """Somebody with YARD and no API key; `sent` are the payments that its client made, as headers."""

    network: Network
    key: SigningKey
    gateway: bytes
    yard: YardClient
    sent: list[str] = field(default_factory=list)

    async def wallets(self) -> tuple[int, int]:
        """Return what the agent and the gateway's account have, in nano."""
        mine, theirs = await self.yard.fetch_balances([self.key.account, self.gateway])
        return mine, theirs

    async def ask(self, scheme: str, **changes: Any) -> requests.Response:
        """Send one chat with x402's client, which pays by a scheme when it is asked to."""
        return await asyncio.to_thread(self._ask, scheme, QUESTION | changes)

    def _ask(self, scheme: str, body: dict[str, Any]) -> requests.Response:
        signer = EthAccountSignerWithRPC(Account.from_key(self.key.secret), self.network.rpc_url)
        client = x402ClientSync()
        kind = ExactEvmClientScheme if scheme == "exact" else UptoEvmClientScheme
        client.register("eip155:*", kind(signer))
        yard = "0x" + self.network.deployment.yard.hex()
        client.set_spend_controls(
            {"allowed_assets": [{"network": "eip155:*", "asset": yard, "max_amount_per_payment": str(10**9)}]}
        )
        with wrapRequestsWithPayment(requests.Session(), client) as session:
            session.hooks["response"].append(lambda reply, **_: self._note(reply))
            return session.post(self.network.base_url + "/chat/completions", json=body, timeout=60)

    def _note(self, reply: requests.Response) -> None:
        payment = reply.request.headers.get("PAYMENT-SIGNATURE")
        if payment:
            self.sent.append(str(payment))


@asynccontextmanager
async def open_agent(home: Path, chain: str) -> AsyncIterator[Agent]:
    """Give a network whose gateway takes x402, and its funded stranger."""
    async with open_echo_network(home, chain, gateway=X402) as network:
        plan = echo_plan(home)
        accounts = open_accounts(load_settings(home).keys_folder, prepare_home(plan), plan.providers)
        async with ChainRpc([network.rpc_url]) as rpc:
            yield Agent(network, accounts["me"], accounts["gateway"].account, YardClient(rpc, network.deployment))


def told(reply: requests.Response) -> dict[str, Any]:
    """Return what a reply says of its payment."""
    decoded: dict[str, Any] = json.loads(base64.b64decode(reply.headers["PAYMENT-RESPONSE"]))
    return decoded


@pytest.mark.timeout(180)
def test_agent_without_a_key_pays_each_answer_by_x402(tmp_path: Path) -> None:
    """exact takes the price, upto the cost, whole and streamed; a replay is refused; what one pays the other gets."""

    async def story() -> None:
        async with open_agent(tmp_path / "home", "embedded") as agent:
            before = await agent.wallets()

            async def moved() -> int:
                mine, theirs = await agent.wallets()
                assert before[0] - mine == theirs - before[1]
                return before[0] - mine

            plain = await asyncio.to_thread(
                requests.post, agent.network.base_url + "/chat/completions", json=QUESTION, timeout=60
            )
            assert plain.status_code == 402
            asked = json.loads(base64.b64decode(plain.headers["PAYMENT-REQUIRED"]))
            body = plain.json()
            assert asked["x402Version"] == body["x402Version"] == 2
            assert asked["accepts"] == body["accepts"]
            assert [one["scheme"] for one in asked["accepts"]] == ["exact", "upto"]
            assert body["error"]["code"] == asked["error"] == "payment_required"
            price = int(asked["accepts"][0]["amount"])

            exact = await agent.ask("exact")
            assert exact.status_code == 200, exact.text
            assert exact.json()["choices"][0]["message"]["content"] == ANSWER
            assert told(exact)["success"] is True
            assert int(told(exact)["amount"]) == await moved() == price
            assert 0 < int(exact.headers["x-steelyard-cost-nano"]) < price

            again = await asyncio.to_thread(
                requests.post,
                agent.network.base_url + "/chat/completions",
                json=QUESTION,
                headers={"PAYMENT-SIGNATURE": agent.sent[-1]},
                timeout=60,
            )
            assert (again.status_code, again.json()["error"]["code"]) == (402, "invalid_exact_evm_nonce_already_used")
            assert await moved() == price

            upto = await agent.ask("upto")  # its first: with a permit for Permit2, since nothing is approved
            assert upto.status_code == 200, upto.text
            cost = int(upto.headers["x-steelyard-cost-nano"])
            assert int(told(upto)["amount"]) == cost
            assert await moved() == price + cost

            stream = await agent.ask("exact", stream=True)
            assert stream.text.endswith("data: [DONE]\n\n")
            assert int(told(stream)["amount"]) == price
            assert await moved() == 2 * price + cost

            stream = await agent.ask("upto", stream=True)
            lines = stream.text.split("\n\n")
            assert lines[-2] == "data: [DONE]"
            comment = next(line for line in lines if line.startswith(": payment-response "))
            settled = json.loads(base64.b64decode(comment.split()[-1]))
            assert (settled["success"], int(settled["amount"])) == (True, cost)
            assert await moved() == 2 * price + 2 * cost

    asyncio.run(story())


@pytest.mark.timeout(180)
def test_agent_pays_exact_on_a_chain_without_permit2(tmp_path: Path) -> None:
    """On anvil as it comes only `exact` is offered, and it works."""

    async def story() -> None:
        async with open_agent(tmp_path / "home", "anvil") as agent:
            before = await agent.wallets()
            reply = await agent.ask("exact")
            assert reply.json()["choices"][0]["message"]["content"] == ANSWER
            after = await agent.wallets()
            assert before[0] - after[0] == after[1] - before[1] == int(told(reply)["amount"])
            plain = await asyncio.to_thread(
                requests.post, agent.network.base_url + "/chat/completions", json=QUESTION, timeout=60
            )
            assert [one["scheme"] for one in plain.json()["accepts"]] == ["exact"]

    asyncio.run(story())
