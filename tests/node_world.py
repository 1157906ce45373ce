"""A node on real sockets and a real database, before a gateway by hand and a chain that is a few dictionaries.

    async with open_node_world(folder) as world:
        call = world.order(b"hello")                    # an honest order for the service `echo-1`
        await call.ended.wait()
        await until(lambda: world.gateway.paid_nano)    # the gateway follows batches and signs vouchers

`world.restart_node()` ends the node as kill -9 would and starts it again on its database; `world.restart_gateway()`
brings the gateway back with its lanes, or (`is_forgetful`) with none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from tests.link_world import DOMAIN, GATEWAY_KEY, LIMITS, PROVIDER_KEY, until
from tests.node_twins import SERVICE_ID, SERVICE_NAME, TAG_SECRET, HandGateway, Ordered, TwinChain
from tests.service_world import LetterEngine

from steelyard.chain.fault_desk import LieCourt
from steelyard.link.client import LinkClient
from steelyard.link.port import CallRequest, SignedOffer
from steelyard.link.server import LinkServer, unix_ms
from steelyard.node.chain_view import NodeChain
from steelyard.node.node import Node, NodeParts
from steelyard.node.orders import NodeService
from steelyard.node.settings import NodeSettings
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import Offer, Order, content_hash, order_tag
from steelyard.services.chat import ChatService
from steelyard.services.echo import EchoService
from steelyard.services.port import Service, encode_manifest, manifest_digest
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import Database, open_database
from steelyard.storage.writer import GroupWriter, open_writer

PRICE_IN, PRICE_OUT = 1_000_000, 2_000_000
SETTINGS = NodeSettings(batch_delay_s=0.05)


def echo_body(text: str, *, is_stream: bool = False) -> bytes:
    """Return a chat request that `echo` answers with the text."""
    return json.dumps(
        {"model": SERVICE_NAME, "stream": is_stream, "messages": [{"role": "user", "content": text}]}
    ).encode()


def offer_service(service: Service, apis: frozenset[str] = EchoService.apis, max_calls: int = 0) -> NodeService:
    """Return a service with a signed offer at the tests' prices."""
    manifest = encode_manifest(service.manifest)
    offer = Offer(
        PROVIDER_KEY.account,
        service_id(service.manifest.name),
        PRICE_IN,
        PRICE_OUT,
        int(service.grade),
        manifest_digest(manifest),
        1,
    )
    signature = PROVIDER_KEY.sign(DOMAIN.digest(offer.struct_hash()))
    return NodeService(service, apis, SignedOffer(offer, signature, service.manifest.name, manifest), max_calls)


def build_echo(delay_ms: int = 0) -> EchoService:
    """Return an `echo` service; with a delay it pauses before each word."""
    return EchoService(EchoService.describe(SERVICE_NAME), options={"delay_ms": str(delay_ms)} if delay_ms else None)


def build_letters(script: Sequence[int] = ()) -> ChatService:
    """Return a stepped `chat` service on the little model, under the tests' service name."""
    engine = LetterEngine(script)
    return ChatService(ChatService.describe(SERVICE_NAME, engine.info), engine=engine)


@dataclass(eq=False)
class NodeWorld:
    """A node, its gateway and its chain."""

    folder: Path
    chain: TwinChain
    gateway: HandGateway
    server: LinkServer
    port: int
    settings: NodeSettings
    services: dict[bytes, NodeService]
    node: Node
    database: Database
    writer: GroupWriter
    client: LinkClient
    tasks: list[asyncio.Task[None]]
    crashes: list[BaseException]
    view: NodeChain | None = None
    court: LieCourt | None = None
    serial: int = 0
    life: int = 0

    def order(self, text: str = "hello", *, is_stream: bool = False, grants: int = 1, **changes: Any) -> Ordered:
        """Send an order; `changes` are fields of the order, or `body`, `salt`, `tag`, `api`."""
        assert self.gateway.link is not None
        self.serial += 1
        call_id = changes.pop("call_id", self.serial.to_bytes(16, "big"))
        body = changes.pop("body", echo_body(text, is_stream=is_stream))
        salt = changes.pop("salt", self.serial.to_bytes(32, "little"))
        tag, api = changes.pop("tag", None), changes.pop("api", "chat.completions")
        order = Order(
            call_id, GATEWAY_KEY.account, PROVIDER_KEY.account, SERVICE_ID, self.gateway.lane_id,
            content_hash(salt, body), ZERO32, 7, 4, PRICE_IN, PRICE_OUT, 4 * len(text.encode()) + 10,
            unix_ms() + 30_000,
        )  # fmt: skip
        order = msgspec.structs.replace(order, **changes)
        call = Ordered(self.gateway.link, call_id, grants, order=order, salt=salt, gateway=self.gateway)
        tag = order_tag(TAG_SECRET, order.struct_hash()) if tag is None else tag
        self.gateway.link.open_call(CallRequest(order, tag, salt, api, body), call, is_stream=is_stream)
        return call

    async def kill_node(self) -> None:
        """End the node as kill -9 would: what was not written is gone, nothing is said to anyone."""
        self.client.abort()
        for account in self.node._lanes.values():
            await account.feed.close()
        await self._release()

    async def stop_node(self) -> None:
        """End the node in order."""
        await self.node.close()
        await self.client.aclose()
        await self._release()

    async def start_node(self) -> None:
        """Start the node on its database."""
        await start_parts(self)
        async with asyncio.timeout(10):
            await self.gateway.up.wait()
            await until(lambda: self.client.link)

    async def restart_gateway(self, *, is_forgetful: bool = False) -> None:
        """End the gateway's links and listen again on the same port."""
        await self.server.aclose()
        if is_forgetful:
            self.gateway.forget()
        self.gateway.up.clear()
        self.server = LinkServer(GATEWAY_KEY, DOMAIN, self.gateway, LIMITS)
        await self.server.start("127.0.0.1", self.port)
        async with asyncio.timeout(10):
            await self.gateway.up.wait()

    async def _release(self) -> None:
        self.life += 1
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.writer.aclose()
        await self.database.aclose()


async def start_parts(world: NodeWorld) -> None:
    """Open the node on its folder and let it dial."""
    life = world.life

    def crash(error: BaseException) -> None:
        if world.life == life:  # a killed node's last writes fail, and nobody is there to mind
            world.crashes.append(error)

    world.database = await open_database(f"sqlite:///{world.folder}/node.db")
    world.writer = await open_writer(world.database, on_failure=lambda operation, fault: crash(fault), on_crash=crash)
    parts = NodeParts(
        key=PROVIDER_KEY,
        domain=DOMAIN,
        chain=world.view or world.chain,
        database=world.database,
        writer=world.writer,
        blobs=FolderBlobs(world.folder / "blobs"),
        services=world.services,
        settings=world.settings,
        on_crash=crash,
        court=world.court,
    )
    world.node = Node(parts)
    await world.node.open()
    world.client = LinkClient(
        f"ws://127.0.0.1:{world.port}", PROVIDER_KEY, DOMAIN, world.node, offers=lambda: world.node.offers,
        limits=LIMITS, gateway=GATEWAY_KEY.account, jitter=lambda: 0.0,
    )  # fmt: skip
    world.tasks = [asyncio.create_task(world.client.run()), asyncio.create_task(world.node.run())]


@asynccontextmanager
async def open_node_world(
    folder: Path,
    *,
    services: Sequence[NodeService] | None = None,
    view: NodeChain | None = None,
    court: LieCourt | None = None,
    **settings: Any,
) -> AsyncIterator[NodeWorld]:
    """Start a gateway by hand and a node that has found it; `view` is a real chain, `settings` change the node's."""
    gateway = HandGateway()
    server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
    port = await server.start("127.0.0.1", 0)
    offered = services or [offer_service(build_echo())]
    world = NodeWorld(
        folder, TwinChain(), gateway, server, port, replace(SETTINGS, **settings),
        {item.signed_offer.offer.service_id: item for item in offered}, *[None] * 4, [], [],  # type: ignore[arg-type]
    )  # fmt: skip
    world.view, world.court = view, court
    for item in offered:
        world.chain.offer(item.signed_offer.offer)
    await world.start_node()
    try:
        yield world
        assert world.crashes == []
    finally:
        await world.stop_node()
        await world.server.aclose()
