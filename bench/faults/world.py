"""A gateway with two providers on real sockets: the faulty one, and the healthy one that may stand beside it.

Both are whole nodes (`steelyard.node`) before the scripted provider; where the fault is of our own wire, the faulty
one is a scripted node that breaks the link's rules. The chain is a dictionary. Each case has a world of its own, with
times cut down so that nobody waits: see `TIMES`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from client import CHAT_STREAM, CHAT_WHOLE, EMBEDDINGS, RPC
from provider import HEALTHY, Provider
from tests.gateway_node import ScriptedNode
from tests.gateway_world import DOMAIN, World, open_world, provider_key
from tests.node_twins import TwinChain

from steelyard.engines.port import EngineInfo
from steelyard.engines.upstream import UpstreamEngine
from steelyard.link.client import LinkClient
from steelyard.link.limits import LinkLimits
from steelyard.link.port import CallRequest, GatewayLink, Piece, SignedOffer
from steelyard.node.node import Node, NodeParts
from steelyard.node.orders import NodeService
from steelyard.node.settings import NodeSettings
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Receipt
from steelyard.services.chat import ChatService
from steelyard.services.embeddings import EmbeddingsService
from steelyard.services.port import Service
from steelyard.services.rpc import RpcService
from steelyard.services.rpc.upstream import Upstream
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import open_database
from steelyard.storage.writer import open_writer

BAD, GOOD = 0, 1
MODELS = {CHAT_STREAM: "far", CHAT_WHOLE: "far", EMBEDDINGS: "far-vectors", RPC: "eth"}
PRICE = (1_000_000, 2_000_000)
"""One nano a unit in, two a unit out."""

UPSTREAM_SILENCE_S = 2.0
LIMITS = LinkLimits(resume_window_s=3.0, handshake_s=5.0)
TIMES: dict[str, float] = {
    "first_byte_s": 1.0,
    "stall_s": 1.0,
    "rescue_wait_s": 0.3,
    "deadline_s": 6.0,
    "grace_s": 0.5,
    "drain_s": 2.0,
}
INFO = EngineInfo(
    engine="openai",
    engine_version="",
    model="m",
    context_tokens=1000,
    parameters=("logprobs", "seed"),
    embedding_dimension=2,
    embedding_context_tokens=100,
)
WIRE = (
    "wrong-cost",
    "wrong-content",
    "wrong-order",
    "wrong-times",
    "no-receipt",
    "link-lost",
    "piece-twice",
    "pieces-swapped",
    "oversized-frame",
)
"""Faults of our own wire, which a scripted node plays."""

CLOCKS = {"clock-ahead": 3_600_000, "clock-behind": -3_600_000}


def build_service(kind: str, url: str, silence_s: float) -> tuple[Service, Any]:
    """Return a service of a kind before an upstream, and what has to be closed after it."""
    if kind == RPC:
        chain = RpcService(RpcService.describe("eth"))
        chain._upstream = Upstream(url + "/rpc", is_light=chain.family.is_light, silence_s=silence_s)
        return chain, chain
    engine = UpstreamEngine(url + "/v1", INFO, silence_s=silence_s)
    name = MODELS[kind]
    if kind == EMBEDDINGS:
        return EmbeddingsService(EmbeddingsService.describe(name, INFO), engine=engine), engine
    return ChatService(ChatService.describe(name, INFO), engine=engine), engine


class FaultyNode(ScriptedNode):
    """A node that serves well and breaks one rule of the wire."""

    fault = ""

    def on_call(self, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        """Serve it over a link that spoils what it sends."""
        super().on_call(_FaultyLink(link, self), request, is_stream=is_stream)  # type: ignore[arg-type]


class _FaultyLink:
    """A link that does to pieces and receipts what the node's fault says."""

    def __init__(self, link: GatewayLink, node: FaultyNode) -> None:
        self._link, self._node, self._held = link, node, list[Piece]()
        self._sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def send_piece(self, call_id: bytes, piece: Piece) -> bool:
        """Send a piece, or twice, or after the next one, or far too large."""
        self._sent += bool(piece.content)
        if self._node.fault == "pieces-swapped" and self._sent == 4:
            self._held.append(piece)
            return True
        if self._node.fault == "oversized-frame" and self._sent == 4:
            piece = msgspec.structs.replace(piece, content=b" " * (LIMITS.max_message_bytes + 1024))
        if self._node.fault == "link-lost" and self._sent == 6:
            self._node._keep(self._node.kill())
            await asyncio.Event().wait()
        is_open = await self._link.send_piece(call_id, piece)
        if self._node.fault == "piece-twice" and self._sent == 4:
            is_open = await self._link.send_piece(call_id, piece)
        while self._held:
            is_open = await self._link.send_piece(call_id, self._held.pop())
        return is_open

    def send_done(self, call_id: bytes, receipt: Receipt, piece: Piece | None) -> None:
        """Send the receipt, or none; of an answer that doesn't stream the content is spoilt."""
        fault = self._node.fault
        if fault == "no-receipt":
            return
        if fault == "link-lost":
            self._node._keep(self._node.kill())
            return
        if piece is not None and fault in ("piece-twice", "pieces-swapped", "oversized-frame"):
            raw = piece.content
            content = {
                "piece-twice": raw + raw,
                "pieces-swapped": raw[8:16] + raw[:8] + raw[16:],
                "oversized-frame": raw + b" " * LIMITS.max_message_bytes,
            }[fault]
            piece = msgspec.structs.replace(piece, content=content)
        self._link.send_done(call_id, receipt, piece)


SPOILS: dict[str, Callable[[Receipt], Receipt]] = {
    "wrong-cost": lambda receipt: msgspec.structs.replace(receipt, cost=receipt.cost + 1),
    "wrong-content": lambda receipt: msgspec.structs.replace(receipt, response_hash=b"\x01" * 32),
    "wrong-order": lambda receipt: msgspec.structs.replace(receipt, order_hash=ZERO32),
    "wrong-times": lambda receipt: msgspec.structs.replace(
        receipt, started_ms=receipt.started_ms - 60_000, finished_ms=receipt.finished_ms + 60_000
    ),
}


async def add_node(world: World, stack: AsyncExitStack, kind: str, provider: Provider, fault: str, index: int) -> bytes:
    """Start a provider with a fault, wait until it is on sale, and return its account."""
    is_late = fault == "deadline"
    upstream = "hang" if is_late else HEALTHY if fault in WIRE or fault in CLOCKS else fault
    silence_s = 60.0 if is_late else UPSTREAM_SILENCE_S
    service, closed = build_service(kind, provider.url(upstream), silence_s)
    stack.push_async_callback(closed.aclose)
    key = provider_key(index)
    signed = world.register(key, service.manifest, PRICE)
    if fault in WIRE:
        faulty = FaultyNode(key, DOMAIN, service, signed)
        faulty.fault, faulty.batches_by_itself = fault, False
        faulty.spoil_receipt = SPOILS.get(fault, faulty.spoil_receipt)
        faulty.dial(world.running.address.link_url, replace(LIMITS, max_message_bytes=64 << 20))
        stack.push_async_callback(faulty.stop)
    else:
        skew_ms = CLOCKS.get(fault, 0)
        await _start_node(world, stack, service, signed, index, lambda: time.time_ns() // 1_000_000 + skew_ms)
    await world.until_linked(key.account)
    return key.account


async def _start_node(
    world: World,
    stack: AsyncExitStack,
    service: Service,
    signed: SignedOffer,
    index: int,
    now_ms: Callable[[], int],
) -> None:
    """Start a whole node with one service."""
    chain = TwinChain()
    chain.offer(signed.offer)
    database = await open_database(f"sqlite:///{world.folder}/node{index}.db")
    stack.push_async_callback(database.aclose)
    crashes: list[BaseException] = []
    writer = await open_writer(
        database, on_failure=lambda operation, fault: crashes.append(fault), on_crash=crashes.append
    )
    stack.push_async_callback(writer.aclose)
    key = provider_key(index)
    node = Node(
        NodeParts(
            key=key,
            domain=DOMAIN,
            chain=chain,
            database=database,
            writer=writer,
            blobs=FolderBlobs(world.folder / f"blobs{index}"),
            services={signed.offer.service_id: NodeService(service, service.apis, signed, 0)},
            settings=NodeSettings(batch_delay_s=0.05),
            on_crash=crashes.append,
            now_ms=now_ms,
        )
    )
    await node.open()
    stack.push_async_callback(node.close)
    client = LinkClient(world.running.address.link_url, key, DOMAIN, node, offers=lambda: node.offers, limits=LIMITS)
    stack.push_async_callback(client.aclose)
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(node.run())]
    stack.callback(lambda: [task.cancel() for task in tasks])


@asynccontextmanager
async def open_case(folder: Path, kind: str, provider: Provider, fault: str, *, has_second: bool) -> AsyncIterator[Any]:
    """Give (world, account of the faulty provider, account of the healthy one or b"")."""
    folder.mkdir(parents=True, exist_ok=True)
    async with open_world(folder, nodes=0, link_limits=LIMITS, **TIMES) as world, AsyncExitStack() as stack:
        bad = await add_node(world, stack, kind, provider, fault, BAD)
        good = await add_node(world, stack, kind, provider, HEALTHY, GOOD) if has_second else b""
        yield world, bad, good
