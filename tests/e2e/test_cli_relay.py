"""A person sells a data source and a blockchain's node: one command each, and the offers stand and are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.chains import open_chain
from tests.e2e.test_cli_network import Person, on_network
from tests.e2e.test_cli_own_model import NODE, own_wallet
from tests.network_world import fetch, until
from tests.relay_world import open_weather

YARD = 10**9


async def offers(person: Person, name: str) -> list[dict[str, Any]]:
    """The offers of a service as `services list` tells them."""
    services = await person.read("services", "list")
    return next((service["offers"] for service in services if service["name"] == name), [])


async def buy(network: Any, path: str, body: Any = None) -> tuple[Any, int]:
    """What is answered at an address of the gateway, and its cost in nano."""
    url, headers = network.base_url.removesuffix("/v1") + path, {"authorization": f"Bearer {network.key}"}
    method = "GET" if body is None else "POST"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, url, json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json(), int(answer.headers["x-steelyard-cost-nano"])


async def serve(network: Any, name: str, *more: str, bought: Callable[[], Awaitable[None]] | None = None) -> None:
    """Start a node with one command, and stop it once it is ready, its gateway lists the service, and it was bought."""
    words = ["node", "run", "--wallet", NODE, "--service", name, "--gateway", network.base_url[:-3], *more]
    node = await network.processes.start(NODE, words, environment=network.environment)
    assert node.ready["services"] == [name]

    async def is_sold() -> bool:
        listing = await fetch(network, "/models")
        return any(model["id"] == name for model in listing["data"])

    await until(is_sold, f"{name} is on sale")
    if bought is not None:
        await bought()
    await network.processes.stop(NODE)


@pytest.mark.timeout(300)
def test_data_source_is_sold_by_one_command(tmp_path: Path) -> None:
    """It registers, offers and serves; typed again it sends nothing to the chain; another price replaces the offer.

    Nothing is offered by the wallet of a node that runs already.
    """

    async def story(person: Person, network: Any) -> None:
        async with open_weather() as url:
            words = ["--kind", "rest", "--upstream", url]
            run = ["node", "run", "--wallet", NODE, "--service", "weather", *words]
            await person.type("wallet", "new", NODE, "--dev")
            await person.type("wallet", "fund", NODE, "1500")
            _, error = await person.type(*run, status=1)
            assert "doesn't offer 'weather' yet: give --price" in error
            _, error = await person.type(*run, "--price", "50", status=2)
            assert "must stake before it may offer anything: run steelyard stake provider" in error
            assert not any(one["name"] == "weather" for one in await person.read("services", "list"))
            await person.type("stake", "provider", "1000", "--wallet", NODE)
            _, error = await person.type("node", "run", "--wallet", "node-1", "--service", "weather", *words,
                                         "--price", "50", status=2)  # fmt: skip
            assert "'node-1' runs on this database already" in error
            assert not any(one["name"] == "weather" for one in await person.read("services", "list"))

            async def ask_weather() -> None:
                said, cost_nano = await buy(network, "/rest/weather/bern?days=3")
                assert (said["path"], cost_nano) == ("/v1/bern?days=3", 50 * YARD // 1_000_000)

            await serve(network, "weather", *words, "--price", "50", bought=ask_weather)
            (offer,) = await offers(person, "weather")
            assert (offer["price_in_nano"], offer["seq"], offer["grade"]) == (50 * YARD, 1, "unchecked")
            await serve(network, "weather", "--upstream", url)
            assert (await offers(person, "weather"))[0]["seq"] == 1
            await serve(network, "weather", *words, "--price", "60")
            (offer,) = await offers(person, "weather")
            assert (offer["price_in_nano"], offer["seq"]) == (60 * YARD, 2)
            _, error = await person.type("node", "run", "--wallet", NODE, "--service", "weather", "--kind", "rpc",
                                         "--upstream", url, status=1)  # fmt: skip
            assert "registered as rest, not as rpc" in error

    on_network(tmp_path, story)


@pytest.mark.timeout(300)
def test_blockchain_node_is_sold_by_one_command(tmp_path: Path) -> None:
    """Anvil behind `anvil`, checked before anything is registered: another chain's name, or nobody there, is told."""

    async def story(person: Person, network: Any) -> None:
        await own_wallet(person)
        base = ["node", "run", "--wallet", NODE, "--kind", "rpc", "--price", "2"]
        chain = await asyncio.to_thread(opened.__enter__)
        try:
            for name, more, told in (
                ("polygon", ["--upstream", chain.url], "serves the chain 31337, polygon is 137"),
                ("anvil", ["--upstream", "http://127.0.0.1:1"], "does not answer"),
                ("anvil", [], "has no upstream"),
                ("etherum", ["--upstream", chain.url], "has no chain 'etherum' (near it: eth"),
            ):
                _, error = await person.type(*base, "--service", name, *more, status=2)
                assert told in error
            assert [one["kind"] for one in await person.read("services", "list")] == ["echo"]

            async def ask_chain() -> None:
                said, cost_nano = await buy(network, "/rpc/anvil", {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"})
                assert (said["result"], cost_nano) == ("0x7a69", 2_000)

            await serve(network, "anvil", "--kind", "rpc", "--price", "2", "--upstream", chain.url,
                        "--upstream-ws", chain.url.replace("http", "ws"), bought=ask_chain)  # fmt: skip
            (offer,) = await offers(person, "anvil")
            assert (offer["price_in_nano"], offer["price_out_nano"]) == (2 * YARD, 2 * YARD)
            assert offer["grade"] == "consensus"
            manifest = json.loads((await person.type("services", "describe", "my-rollup", "rpc", "--family", "evm"))[0])
            assert (manifest["chain"], manifest["family"]) == ("my-rollup", "evm")
            await serve(
                network, "my-rollup", "--kind", "rpc", "--family", "evm", "--price", "2", "--upstream", chain.url
            )
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)

    opened = open_chain("anvil")
    on_network(tmp_path, story)
