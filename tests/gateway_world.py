"""A gateway and scripted nodes on real sockets, over a chain that is a dictionary: for tests of the gateway.

async with open_world(tmp_path, nodes=2) as world:
    async with world.client() as client:            # the stock openai client
        await client.chat.completions.create(...)

`world.chain` holds deposits, stakes, offers and payments; `stop_gateway` and `start_gateway` bring the gateway back
on its database and ports. Everything is in temporary folders on free ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
from tests.gateway_node import ScriptedNode

from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import LaneTotals
from steelyard.chain.fault_desk import LieCourt
from steelyard.errors import ChainUnreachable
from steelyard.gateway.assembly import Gateway
from steelyard.gateway.chain_view import CourtRecord, EscrowState, LanePaid, OfferTerms, Position, ServiceTerms
from steelyard.gateway.serve import GatewayParts, Running, open_gateway
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.x402 import Payments
from steelyard.link.limits import LinkLimits
from steelyard.link.port import SignedOffer
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import SignedVoucher
from steelyard.protocol.messages import Offer
from steelyard.protocol.pricing import NANO_PER_YARD
from steelyard.protocol.signing import SigningKey
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import Manifest, encode_manifest, manifest_digest
from steelyard.services.port import Service
from steelyard.storage.database import Database, open_database
from steelyard.storage.keys import ApiKey, create_key

DEPLOYMENT = Deployment(
    chain_id=31415,
    salt=b"\x05" * 32,
    manager=b"\x01" * 20,
    yard=b"\x02" * 20,
    registry=b"\x03" * 20,
    escrow=b"\x04" * 20,
    ledger=b"\x06" * 20,
    court=b"\x07" * 20,
    proofs=b"\x08" * 20,
    rewards=b"\x09" * 20,
    block=0,
    epoch_s=60,
    withdraw_delay_s=60,
    unbond_delay_s=60,
    is_development=True,
)
DOMAIN = DEPLOYMENT.domain
GATEWAY_KEY = SigningKey(b"\x01" * 32)
MODEL = "echo-1"
LIMITS = LinkLimits(resume_window_s=1.0, handshake_s=3.0)
PRICE_IN, PRICE_OUT = 1_000_000, 2_000_000


def now_ms() -> int:
    """Return Unix milliseconds."""
    return time.time_ns() // 1_000_000


def provider_key(index: int) -> SigningKey:
    """Return the key of the test provider of that number."""
    return SigningKey(bytes([index + 2]) * 32)


@dataclass(eq=False)
class MemoryChain:
    """Both rooms' view of a chain that is a few dictionaries."""

    deposit_nano: int = 100 * NANO_PER_YARD
    owed_nano: int = 0
    withdrawal_nano: int = 0
    is_silent: bool = False
    active: set[bytes] = field(default_factory=set)
    stakes: dict[bytes, int] = field(default_factory=dict)
    validators: set[bytes] = field(default_factory=set)
    court_records: dict[bytes, CourtRecord] = field(default_factory=dict)
    services: dict[bytes, ServiceTerms] = field(default_factory=dict)
    offers: dict[tuple[bytes, bytes], OfferTerms] = field(default_factory=dict)
    lanes: dict[bytes, LaneTotals] = field(default_factory=dict)

    def _check(self) -> None:
        if self.is_silent:
            raise ChainUnreachable("the test silenced the chain")

    async def fetch_position(self, gateway: bytes, lane_keys: Sequence[bytes]) -> Position:
        self._check()
        lanes = [self.lanes.get(key, LaneTotals(0, 0)) for key in lane_keys]
        state = EscrowState(self.deposit_nano, self.owed_nano, self.withdrawal_nano, NANO_PER_YARD)
        return Position(state, tuple(LanePaid(lane.accepted_nano, lane.paid_nano) for lane in lanes))

    async def fetch_is_active(self, provider: bytes) -> bool:
        self._check()
        return provider in self.active

    async def fetch_stake(self, provider: bytes) -> int:
        self._check()
        return self.stakes.get(provider, 100_000 * NANO_PER_YARD)

    async def fetch_court_record(self, provider: bytes, service_id: bytes) -> CourtRecord:
        self._check()
        return self.court_records.get(provider, CourtRecord())

    async def fetch_is_validator(self, account: bytes) -> bool:
        self._check()
        return account in self.validators

    async def fetch_service(self, service: bytes) -> ServiceTerms | None:
        self._check()
        return self.services.get(service)

    async def fetch_offer(self, provider: bytes, service: bytes) -> OfferTerms | None:
        self._check()
        return self.offers.get((provider, service))

    def pay(self, signed: SignedVoucher) -> None:
        """Do what the escrow does with a voucher of ours."""
        key, total = signed.voucher.lane.key, signed.voucher.cumulative
        before = self.lanes.get(key, LaneTotals(0, 0))
        self.deposit_nano -= total - before.paid_nano
        self.lanes[key] = LaneTotals(total, total)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def build_service(manifest: Manifest, options: dict[str, str] | None = None) -> Service:
    """Return the installed kind for a manifest."""
    return installed_services().find(manifest.kind)(manifest, options=options)


@dataclass(eq=False)
class World:
    """A gateway, its nodes and its chain."""

    folder: Path
    settings: GatewaySettings
    chain: MemoryChain
    stack: AsyncExitStack
    running: Running
    database: Database
    nodes: list[ScriptedNode] = field(default_factory=list)
    key: ApiKey | None = None
    secret: str = ""
    own_database: Database | None = None
    payments: Payments | None = None
    court: LieCourt | None = None
    link_limits: LinkLimits = LIMITS
    gateway_stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def base_url(self) -> str:
        return self.running.base_url

    @property
    def gateway(self) -> Gateway:
        return self.running.gateway

    async def ask(self, text: str = "hello there", **options: Any) -> openai.types.chat.ChatCompletion:
        """Return the answer to one chat."""
        async with self.client() as client:
            return await client.chat.completions.create(
                model=options.pop("model", MODEL), messages=[{"role": "user", "content": text}], **options
            )

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON and headers of a raw POST; `body` is bytes, or a value to be sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", "authorization": f"Bearer {self.secret}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.base_url + path, data=raw, headers=sent) as reply,
        ):
            return reply.status, await reply.json(content_type=None), _lower(reply.headers)

    async def get(self, path: str, secret: str | None = None) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON and headers of a raw GET; a path begins after ``/v1``, or with ``//`` after the host."""
        url = self.base_url.removesuffix("/v1") + path[1:] if path.startswith("//") else self.base_url + path
        headers = {"authorization": f"Bearer {secret or self.secret}"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as reply:
            text = await reply.text()
            is_json = reply.content_type == "application/json"
            return reply.status, json.loads(text) if is_json else text, _lower(reply.headers)

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        """Return the stock client, without retries of its own."""
        options.setdefault("max_retries", 0)
        options.setdefault("api_key", self.secret)
        return openai.AsyncOpenAI(base_url=self.base_url, **options)

    async def new_key(self, name: str, **options: Any) -> str:
        """Return the secret of a new API key."""
        _, secret = await create_key(self.database, name, now_ms=now_ms(), **options)
        return secret

    async def add_node(
        self,
        index: int,
        *,
        price: tuple[int, int] = (PRICE_IN, PRICE_OUT),
        options: dict[str, str] | None = None,
        model: str = MODEL,
        service: Service | None = None,
    ) -> ScriptedNode:
        """Start a node with one service (echo by default), and wait until it is on sale."""
        node = self.build_node(index, price=price, options=options, model=model, service=service)
        node.dial(self.running.address.link_url, self.link_limits)
        await self.until_linked(node.key.account)
        return node

    def build_node(
        self,
        index: int,
        *,
        price: tuple[int, int] = (PRICE_IN, PRICE_OUT),
        options: dict[str, str] | None = None,
        model: str = MODEL,
        service: Service | None = None,
    ) -> ScriptedNode:
        """Put a node on the chain, without dialling."""
        key = provider_key(index)
        service = service or build_service(installed_services().find("echo").describe(model), options)
        node = ScriptedNode(key, DOMAIN, service, self.register(key, service.manifest, price))
        self.nodes.append(node)
        return node

    def register(self, key: SigningKey, manifest: Manifest, price: tuple[int, int], seq: int = 1) -> SignedOffer:
        """Put a service and a provider's offer for it on the chain, and return the offer for the link."""
        blob = encode_manifest(manifest)
        ident, digest = service_id(manifest.name), manifest_digest(blob)
        self.chain.active.add(key.account)
        self.chain.services[ident] = ServiceTerms(manifest.name, manifest.kind, digest, b"\x09" * 20)
        grade = int(build_service(manifest).grade)
        offer = Offer(key.account, ident, price[0], price[1], grade, digest, seq)
        self.chain.offers[(key.account, ident)] = OfferTerms(price[0], price[1], grade, digest, seq)
        return SignedOffer(offer, key.sign(DOMAIN.digest(offer.struct_hash())), manifest.name, blob)

    async def until_linked(self, provider: bytes, is_up: bool = True) -> None:
        """Wait until a provider's link is up (or down)."""

        def is_there() -> bool:
            sellers = [
                seller
                for listing in self.running.gateway.catalogue.listings.values()
                for seller in listing.sellers
                if seller.link.provider == provider and seller.link.is_up
            ]
            return bool(sellers) == is_up

        await until(is_there)

    async def start_gateway(self) -> None:
        """Start the gateway on its database."""
        self.gateway_stack = AsyncExitStack()
        if self.own_database is None:
            self.database = await open_database(f"sqlite:///{self.folder}/gateway.db")
            self.gateway_stack.push_async_callback(self.database.aclose)
        else:
            self.database = self.own_database
        self.running = await self.gateway_stack.enter_async_context(
            open_gateway(
                GatewayParts(
                    settings=self.settings,
                    key=GATEWAY_KEY,
                    deployment=DEPLOYMENT,
                    database=self.database,
                    chain=self.chain,
                    bind_service=build_service,
                    link_limits=self.link_limits,
                    payments=self.payments,
                    court=self.court,
                )
            )
        )
        # A restart listens where it listened before, so that nodes and clients find it.
        port = int(self.running.base_url.rsplit(":", 1)[1].split("/")[0])
        link_port = int(self.running.address.link_url.rsplit(":", 1)[1].split("/")[0])
        self.settings = replace(self.settings, port=port, link_port=link_port)

    async def stop_gateway(self) -> None:
        """Stop it in order."""
        await self.gateway_stack.aclose()


async def until(is_true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until something is true; fails the test after a while."""
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s, "it never came true"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def open_world(
    folder: Path,
    *,
    nodes: int = 1,
    limit_nano: int | None = None,
    database: Database | None = None,
    court: LieCourt | None = None,
    payments: Payments | None = None,
    link_limits: LinkLimits = LIMITS,
    **settings: Any,
) -> AsyncIterator[World]:
    """Give a running gateway with so many echo nodes and one API key."""
    settings.setdefault("watch_s", 0.2)
    for quiet in ("relay_probe_s", "relay_cross_check_share", "relay_hedge_share"):
        settings.setdefault(quiet, 0.0)
    chosen = GatewaySettings(port=0, link_port=0, **settings)
    async with AsyncExitStack() as stack:
        world = World(folder, chosen, MemoryChain(), stack, None, None)  # type: ignore[arg-type]
        world.own_database, world.court, world.payments = database, court, payments
        world.link_limits = link_limits
        await world.start_gateway()
        try:
            world.key, world.secret = await create_key(world.database, "test", limit_nano=limit_nano, now_ms=now_ms())
            for index in range(nodes):
                await world.add_node(index)
            yield world
        finally:
            for node in world.nodes:
                with contextlib.suppress(Exception):
                    await node.stop()
            await world.stop_gateway()
