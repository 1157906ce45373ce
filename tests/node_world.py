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
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from tests.link_world import DOMAIN, GATEWAY_KEY, LIMITS, PROVIDER_KEY, Call, until

from steelyard.chain.escrow import GatewayAccount, LaneTotals, RedeemedLane, Redemption, SkippedVoucher
from steelyard.chain.records import TxReceipt
from steelyard.errors import BadMessage, BadTotal, ChainUnreachable, PeerError, SteelyardError
from steelyard.link.client import LinkClient
from steelyard.link.port import CallRequest, LaneClaim, LeafEntry, ProviderLink, SignedOffer
from steelyard.link.server import LinkServer, unix_ms
from steelyard.node.node import Node, NodeParts
from steelyard.node.orders import NodeService
from steelyard.node.settings import NodeSettings
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher, follow_lane, sign_voucher
from steelyard.protocol.messages import (
    TAG_PURPOSE,
    Lane,
    Offer,
    Order,
    Receipt,
    content_hash,
    is_own_tag,
    order_tag,
)
from steelyard.protocol.pricing import NANO_PER_YARD, call_cost
from steelyard.services.echo import EchoService
from steelyard.services.port import Service, encode_manifest, manifest_digest
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import Database, open_database
from steelyard.storage.writer import GroupWriter, open_writer

SERVICE_NAME = "echo-1"
SERVICE_ID = service_id(SERVICE_NAME)
PRICE_IN, PRICE_OUT = 1_000_000, 2_000_000
SETTINGS = NodeSettings(batch_delay_s=0.05)
TAG_SECRET = GATEWAY_KEY.derive_secret(TAG_PURPOSE)


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


@dataclass(eq=False)
class TwinChain:
    """A `NodeChain` that is a few dictionaries; `pay` and `redeem` do what the escrow would."""

    deposit_nano: int = 100 * NANO_PER_YARD
    withdrawal_nano: int = 0
    is_silent: bool = False
    staked: set[bytes] = field(default_factory=lambda: {GATEWAY_KEY.account})
    totals: dict[bytes, LaneTotals] = field(default_factory=dict)
    watched: set[bytes] = field(default_factory=set)
    redeemed: list[tuple[tuple[SignedVoucher, ...], bytes]] = field(default_factory=list)
    skip: set[bytes] = field(default_factory=set)
    sweeps: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def is_gateway(self, account: bytes) -> bool:
        self._check()
        return account in self.staked

    async def watch_gateway(self, account: bytes) -> GatewayAccount:
        self._check()
        self.watched.add(account)
        return GatewayAccount(self.deposit_nano, 0, self.withdrawal_nano, 0)

    async def watch_lane(self, lane_key: bytes) -> LaneTotals:
        self._check()
        self.watched.add(lane_key)
        return self.totals.setdefault(lane_key, LaneTotals(0, 0))

    def account(self, gateway: bytes) -> GatewayAccount | None:
        return GatewayAccount(self.deposit_nano, 0, self.withdrawal_nano, 0) if gateway in self.watched else None

    def lane(self, lane_key: bytes) -> LaneTotals | None:
        return self.totals.get(lane_key) if lane_key in self.watched else None

    async def wait_change(self) -> None:
        await self.changed.wait()

    async def refresh(self) -> None:
        self._check()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def redeem(self, vouchers: Sequence[SignedVoucher], blob: bytes) -> Redemption:
        self._check()
        self.redeemed.append((tuple(vouchers), blob))
        lanes, skipped = [], []
        for index, signed in enumerate(vouchers):
            voucher = signed.voucher
            key = voucher.lane.key
            if key in self.skip:
                skipped.append(SkippedVoucher(index, key, 4))  # type: ignore[arg-type]
                continue
            before = self.totals.get(key, LaneTotals(0, 0))
            paid = min(voucher.cumulative - before.paid_nano, self.deposit_nano)
            self.deposit_nano -= paid
            self.totals[key] = LaneTotals(voucher.cumulative, before.paid_nano + paid)
            lanes.append(RedeemedLane(key, voucher.cumulative, paid, voucher.count, voucher.head))
        self.change()
        digest = len(self.redeemed).to_bytes(32, "big")
        return Redemption(TxReceipt(digest, 1, ZERO32, True, 1, 1, None, ()), tuple(lanes), tuple(skipped))

    async def sweep(self) -> None:
        self.sweeps += 1

    def change(self) -> None:
        """Wake whoever waits for a change."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _check(self) -> None:
        if self.is_silent:
            raise ChainUnreachable("the test silenced the chain")


@dataclass(eq=False)
class Ordered(Call):
    """An order's sink at the gateway, which checks the receipt as a gateway does."""

    order: Order | None = None
    salt: bytes = ZERO32
    gateway: HandGateway | None = None

    def on_done(self, receipt: Receipt) -> None:
        """Check the receipt against what came, and note it for its batch."""
        assert self.order is not None
        assert self.gateway is not None
        order = self.order
        if receipt.order_hash != order.struct_hash() or receipt.response_hash != content_hash(self.salt, self.content):
            raise BadMessage("the receipt isn't for what came")
        if receipt.cost != call_cost(receipt.units_in, receipt.units_out, order.price_in, order.price_out):
            raise BadTotal("the receipt's cost isn't its units'")
        self.gateway.receipts[self.call_id] = (receipt.struct_hash(), receipt.cost)
        super().on_done(receipt)


class HandGateway:
    """A gateway by hand: follows lanes by its own receipts or by tags, and signs a voucher after every batch.

    `is_signing` False stops vouchers; `batches` notes every batch as it came, with whether it brought entries.
    """

    def __init__(self) -> None:
        self.link: ProviderLink | None = None
        self.up = asyncio.Event()
        self.receipts: dict[bytes, tuple[bytes, int]] = {}
        self.lanes: dict[Lane, LaneState] = {}
        self.claimed: set[bytes] = set()
        self.batches: list[tuple[SignedBatch, bool]] = []
        self.claims: list[LaneClaim] = []
        self.refused: list[tuple[bytes | None, SteelyardError]] = []
        self.is_signing = True
        self.is_deaf = False
        self.lane_id = 1

    @property
    def paid_nano(self) -> int:
        """What vouchers promise in all."""
        return sum(state.cumulative for state in self.lanes.values())

    @property
    def lane(self) -> Lane:
        """The lane of new orders."""
        return Lane(GATEWAY_KEY.account, PROVIDER_KEY.account, SERVICE_ID, self.lane_id)

    async def admit_provider(self, provider: bytes, offers: Sequence[SignedOffer]) -> None:
        self.lanes.setdefault(self.lane, LaneState(lane=self.lane))

    def known_lanes(self, provider: bytes) -> Sequence[LaneState]:
        return list(self.lanes.values())

    def on_link_up(self, link: ProviderLink) -> None:
        self.link = link
        self.up.set()

    def on_link_down(self, link: ProviderLink, reason: str) -> None:
        self.up.clear()

    async def on_batch(
        self, link: ProviderLink, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> None:
        state = self.lanes.get(signed.batch.lane)
        if self.is_deaf or state is None:
            return
        self.batches.append((signed, bool(entries)))
        if DOMAIN.digest(signed.batch.struct_hash()) == state.head or signed.batch.seq <= state.seq:
            return
        if not entries and any(call_id not in self.receipts for call_id in call_ids):
            link.request_batches(state)
            return
        self._follow(state, signed, call_ids, entries)
        if self.is_signing:
            link.send_voucher(sign_voucher(self.lanes[state.lane], GATEWAY_KEY, DOMAIN))

    async def on_claim(self, link: ProviderLink, claim: LaneClaim) -> None:
        self.claims.append(claim)
        state = self.lanes.get(claim.lane) or LaneState(lane=claim.lane)
        for signed, entries in zip(claim.batches, claim.entries, strict=True):
            if signed.batch.seq > state.seq:
                state = self._follow(state, signed, [entry.order.call_id for entry in entries], entries)
        if claim.is_last:
            link.send_voucher(sign_voucher(state, GATEWAY_KEY, DOMAIN))

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        self.refused.append((account, error))

    def forget(self) -> None:
        """Lose the database: no lane, no receipt; new orders go on a new lane."""
        self.lanes.clear()
        self.receipts.clear()
        self.claimed.clear()
        self.lane_id += 1

    def _follow(
        self, state: LaneState, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> LaneState:
        for entry in entries:
            if not is_own_tag(TAG_SECRET, entry.order.struct_hash(), entry.tag):
                raise PeerError("an order that isn't ours")
            self.receipts[entry.order.call_id] = (entry.receipt.struct_hash(), entry.receipt.cost)
        if self.claimed.intersection(call_ids):
            raise PeerError("a call was batched twice")
        known = [self.receipts[call_id] for call_id in call_ids]
        after = follow_lane(state, signed, [item[0] for item in known], [item[1] for item in known], DOMAIN)
        self.claimed.update(call_ids)
        self.lanes[state.lane] = after
        return after


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
        await _start_node(self)
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


async def _start_node(world: NodeWorld) -> None:
    life = world.life

    def crash(error: BaseException) -> None:
        if world.life == life:  # a killed node's last writes fail, and nobody is there to mind
            world.crashes.append(error)

    world.database = await open_database(f"sqlite:///{world.folder}/node.db")
    world.writer = await open_writer(world.database, on_failure=lambda operation, fault: crash(fault), on_crash=crash)
    parts = NodeParts(
        key=PROVIDER_KEY,
        domain=DOMAIN,
        chain=world.chain,
        database=world.database,
        writer=world.writer,
        blobs=FolderBlobs(world.folder / "blobs"),
        services=world.services,
        settings=world.settings,
        on_crash=crash,
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
    on_build: Callable[[NodeWorld], None] = lambda world: None,
    **settings: Any,
) -> AsyncIterator[NodeWorld]:
    """Start a gateway by hand and a node that has found it; `settings` change the node's."""
    gateway = HandGateway()
    server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
    port = await server.start("127.0.0.1", 0)
    offered = services or [offer_service(build_echo())]
    world = NodeWorld(
        folder, TwinChain(), gateway, server, port, replace(SETTINGS, **settings),
        {item.signed_offer.offer.service_id: item for item in offered}, *[None] * 4, [], [],  # type: ignore[arg-type]
    )  # fmt: skip
    on_build(world)
    await world.start_node()
    try:
        yield world
        assert world.crashes == []
    finally:
        await world.stop_node()
        await world.server.aclose()
