"""Whom a node serves, from a real registry and real HTTP: gateways come, fall silent, move and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from tests.chains import RunningChain, deploy_on, open_chain

from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.yard import YardClient
from steelyard.cli import gateway_finding
from steelyard.cli.chain_access import ChainAccess
from steelyard.cli.gateway_finding import REGISTRY, GatewayFinder
from steelyard.errors import ConfigError
from steelyard.node.discovery import LinkAddress
from steelyard.protocol.ids import format_hex
from steelyard.protocol.pricing import NANO_PER_YARD

SILENT = "http://127.0.0.1:1"


class Gateways:
    """An HTTP server that answers for several gateways, each under a path of its own."""

    def __init__(self, salt: bytes) -> None:
        self.salt = salt
        self.links: dict[str, tuple[bytes, str]] = {}
        self.port = 0

    def url(self, name: str) -> str:
        """The base URL of one of them."""
        return f"http://127.0.0.1:{self.port}/{name}"

    async def answer(self, request: web.Request) -> web.Response:
        """Answer as `GET /v1/network` does; 404 for one that isn't there now."""
        if request.match_info["name"] not in self.links:
            raise web.HTTPNotFound
        account, link = self.links[request.match_info["name"]]
        told = {"deployment": format_hex(self.salt), "gateway": format_hex(account), "link_url": link.split()[0]}
        return web.json_response(told | ({"link_urls": link.split()} if " " in link else {}))


@asynccontextmanager
async def _serving(salt: bytes) -> AsyncIterator[Gateways]:
    gateways, app = Gateways(salt), web.Application()
    app.router.add_get("/{name}/v1/network", gateways.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    gateways.port = runner.addresses[0][1]
    try:
        yield gateways
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _access(chain: RunningChain, deployment: Deployment) -> AsyncIterator[ChainAccess]:
    async with ChainRpc([chain.url], chain_id=chain.chain_id) as rpc:
        clients = YardClient(rpc, deployment), RegistryClient(rpc, deployment), EscrowClient(rpc, deployment)
        yield ChainAccess(rpc, deployment, *clients)


def test_gateways_of_the_registry_come_move_fall_silent_and_go() -> None:
    """Each look gives who is to be served by then: a silent one that was found stays, one that left is dropped."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, DeploymentParameters(min_stakes_nano=(NANO_PER_YARD,) * 3))

        async def story() -> None:
            async with _access(chain, deployment) as access, _serving(deployment.salt) as gateways:
                owner, first, second = (Sender(access.rpc, key) for key in chain.keys[:3])
                for sender in (first, second):
                    await access.yard.transfer(owner, sender.account, NANO_PER_YARD)
                    await access.registry.stake(sender, Role.GATEWAY, NANO_PER_YARD)
                finder = GatewayFinder(access, [REGISTRY])
                assert await finder.find() == []

                gateways.links["a"] = first.account, "ws://a"
                await access.registry.set_gateway(first, gateways.url("a"))
                assert await finder.find() == [LinkAddress("ws://a", first.account)]

                await access.registry.set_gateway(second, gateways.url("b"))
                assert await finder.find() == [LinkAddress("ws://a", first.account)]
                gateways.links = {"b": (second.account, "ws://b")}
                both = [LinkAddress("ws://a", first.account), LinkAddress("ws://b", second.account)]
                assert await finder.find() == both

                gateways.links["a"] = first.account, "ws://moved"
                assert (await finder.find())[0] == LinkAddress("ws://moved", first.account)
                gateways.links["a"] = first.account, "ws://one ws://two"
                assert [link.url for link in await finder.find()] == ["ws://one", "ws://two", "ws://b"]
                await access.registry.set_gateway(first, "")
                assert await finder.find() == [LinkAddress("ws://b", second.account)]

        asyncio.run(story())


def test_start_waits_for_a_gateway_and_says_why_it_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A named gateway that never answers ends the start in one line; one that comes late begins it; a stop ends it."""
    monkeypatch.setattr(gateway_finding, "PATIENCE_S", 0.3)
    monkeypatch.setattr(gateway_finding, "RETRY_S", 0.05)
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain)

        async def story() -> None:
            async with _access(chain, deployment) as access, _serving(deployment.salt) as gateways:
                stop = asyncio.Event()
                with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1.*name one with --gateway"):
                    await GatewayFinder(access, [SILENT]).find_first(stop)

                late = asyncio.create_task(GatewayFinder(access, [gateways.url("a")]).find_first(stop))
                await asyncio.sleep(0.1)
                gateways.links["a"] = b"\x01" * 20, "ws://a"
                assert await late == [LinkAddress("ws://a", b"\x01" * 20)]

                stop.set()
                assert await GatewayFinder(access, [SILENT]).find_first(stop) == []

        asyncio.run(story())
