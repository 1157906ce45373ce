"""A gateway, a node and what a validator is made of, over a real chain: for tests of what is settled there.

async with open_trust_world(folder, chain_url, owner_key, deployment) as world:
    call = await world.chat("hello")                 # by the stock client, over HTTP, checked as a validator does
    await world.demands.beat(world.now_s())

The node serves a little model whose answers carry evidence. The chain is embedded, everything else in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from tests.gateway_world import LIMITS, build_service
from tests.service_world import LetterEngine

from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.fault_desk import ContractCourt
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.proofs import ProofsClient
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.reward_terms import RewardTerms
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.gateway.chain_reader import ChainReader
from steelyard.gateway.network_quality import LedgerQuality
from steelyard.gateway.serve import GatewayParts, Running, open_gateway
from steelyard.gateway.settings import GatewaySettings
from steelyard.link.client import LinkClient
from steelyard.node.chain_view import ContractChain
from steelyard.node.node import Node, NodeParts
from steelyard.node.orders import NodeService
from steelyard.node.settings import NodeSettings
from steelyard.node.terms import load_terms
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import Offer
from steelyard.protocol.pricing import NANO_PER_YARD
from steelyard.protocol.signing import SigningKey
from steelyard.services.chat import ChatService
from steelyard.services.manifest import encode_manifest, manifest_digest
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import Database, open_database
from steelyard.storage.keys import create_key
from steelyard.storage.writer import open_writer
from steelyard.validator.book import Book, open_book
from steelyard.validator.checker import Checkable, Checked, check_call
from steelyard.validator.demands import Demands, begin_waiting, relay_evidence
from steelyard.validator.feed import GatewayFeed, SeenCall
from steelyard.validator.gateway_client import GatewayClient, ShownCall
from steelyard.validator.replayer import OwnReplayer

YARD = NANO_PER_YARD
MODEL = "letters"
TERMS = CourtTerms(reveal_s=1, commit_s=1, vote_s=1, appeal_s=1, keep_s=600, evidence_s=6)
PARAMETERS = DeploymentParameters(
    withdraw_delay_s=60,
    unbond_delay_s=2_000,
    epoch_s=4,
    min_stakes_nano=(YARD,) * 3,
    court=TERMS,
    rewards=RewardTerms(challenge_s=4, purse_s=60),
)
GATEWAY, PROVIDER, VALIDATOR = (SigningKey(bytes([number]) * 32) for number in (0x61, 0x62, 0x63))


def letters() -> ChatService:
    """Return the little model's service."""
    engine = LetterEngine()
    return ChatService(ChatService.describe(MODEL, engine.info), engine=engine)


@dataclass(eq=False)
class TrustWorld:
    """The parts that a test reaches for."""

    folder: Path
    rpc: ChainRpc
    deployment: Deployment
    registry: RegistryClient
    proofs: ProofsClient
    running: Running
    node: Node
    database: Database
    book: Book
    client: GatewayClient
    feed: GatewayFeed
    demands: Demands
    validator: Sender
    owner: Sender
    secret: str
    stack: AsyncExitStack
    checked: list[Checked] = field(default_factory=list)

    def now_s(self) -> int:
        """The chain's clock, as good as any."""
        return int(time.time())

    async def chat(self, text: str = "hello", tokens: int = 40) -> SeenCall:
        """Have a chat answered, tried again as any client does, and return it as the validator's feed shows it."""
        async with openai.AsyncOpenAI(base_url=self.running.base_url, api_key=self.secret) as client:
            messages: Any = [{"role": "user", "content": text}]
            await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=tokens)
        async with asyncio.timeout(20):
            while True:
                calls, place = await self.feed.read()
                if calls:
                    self.feed.advance(place)
                    return calls[-1]
                await asyncio.sleep(0.05)

    async def check(self, call: SeenCall) -> str:
        """Check a call as a validator does; return the verdict's reason, or "waits"."""
        shown: list[ShownCall] = []

        async def fetch_call() -> ShownCall | None:
            found = await self.client.fetch_call(call.receipt_hash)
            shown.extend([found] if found else [])
            return found

        async def fetch_evidence() -> bytes | None:
            return await relay_evidence(self.client, call.receipt_hash)

        checkable = await self.checkable(call.order.service_id)
        checked = await check_call(call.order, call.receipt, checkable, fetch_call, fetch_evidence)
        if checked.judgement.reason == "no_evidence" and shown:
            waiting = [begin_waiting(call, "rate", shown[0])]
            await self.book.record(GATEWAY.account, self.feed.state, [], waiting)
            return "waits"
        await self.book.record(GATEWAY.account, self.feed.state, [(call, "rate", checked, None)])
        return checked.judgement.reason

    async def checkable(self, service: bytes) -> Checkable | None:
        """How the little model is checked: by replay, without a calibration."""
        kind = letters()
        return Checkable(kind, False, OwnReplayer(kind, "letters 1"), None)

    async def reopen(self) -> None:
        """Forget all of the validator that isn't on disk."""
        self.book = await open_book(self.database, VALIDATOR, self.deployment.domain, lambda: time.time_ns() // 10**6)
        self.demands = self.new_demands()

    def new_demands(self) -> Demands:
        """The validator's asking for evidence, without patience."""
        return Demands(
            self.book,
            self.database,
            self.rpc,
            self.proofs,
            self.validator,
            {GATEWAY.account: self.client},
            self.checkable,
            from_block=self.deployment.block,
            keep_s=TERMS.keep_s,
            epoch_s=self.deployment.epoch_s,
            patience_s=0,
        )


@asynccontextmanager
async def open_trust_world(
    folder: Path, url: str, owner_key: SigningKey, deployment: Deployment
) -> AsyncIterator[TrustWorld]:
    """Give a network that sells the little model, with a validator's hands and 10 YARD staked by everyone."""
    async with AsyncExitStack() as stack:
        rpc = await stack.enter_async_context(ChainRpc([url]))
        owner, registry = Sender(rpc, owner_key), RegistryClient(rpc, deployment)
        gateway, provider, validator = (Sender(rpc, key) for key in (GATEWAY, PROVIDER, VALIDATOR))
        for sender, role in ((gateway, Role.GATEWAY), (provider, Role.PROVIDER), (validator, Role.VALIDATOR)):
            await owner.send(sender.account, value_wei=10**18)
            await registry.yard.transfer(owner, sender.account, 1_000 * YARD)
            await registry.stake(sender, role, 10 * YARD)
        staked_s = time.time()
        service = letters()
        digest = manifest_digest(encode_manifest(service.manifest))
        await registry.register_service(owner, MODEL, "chat", digest, Split(7_000, 1_000, 0, 2_000))
        offer = Offer(PROVIDER.account, service_id(MODEL), 1_000_000, 2_000_000, int(service.grade), digest, 1)
        await registry.set_offer(provider, offer, PROVIDER.sign(deployment.domain.digest(offer.struct_hash())))
        await EscrowClient(rpc, deployment).deposit(gateway, GATEWAY.account, YARD)

        database = await open_database(f"sqlite:///{folder}/gateway.db")
        stack.push_async_callback(database.aclose)
        running = await stack.enter_async_context(
            open_gateway(
                GatewayParts(
                    settings=GatewaySettings(port=0, link_port=0, watch_s=0.2),
                    key=GATEWAY,
                    deployment=deployment,
                    database=database,
                    chain=ChainReader(rpc, deployment),
                    bind_service=build_service,
                    link_limits=LIMITS,
                    quality=LedgerQuality(rpc, deployment, FolderBlobs(folder / "blobs")),
                    court=ContractCourt(rpc, deployment, gateway),
                )
            )
        )
        await registry.set_gateway(gateway, running.base_url.removesuffix("/v1"))
        _, secret = await create_key(database, "test", now_ms=time.time_ns() // 10**6)
        node = await stack.enter_async_context(_open_node(folder, rpc, deployment, provider, service, running))

        own = await open_database(f"sqlite:///{folder}/validator.db")
        stack.push_async_callback(own.aclose)
        book = await open_book(own, VALIDATOR, deployment.domain, lambda: time.time_ns() // 10**6)
        client = GatewayClient(running.base_url.removesuffix("/v1"), GATEWAY.account, VALIDATOR, deployment.domain)
        stack.push_async_callback(client.aclose)
        feed = GatewayFeed(client, deployment.domain, deployment.epoch_s)
        proofs = ProofsClient(rpc, deployment)
        world = TrustWorld(
            folder, rpc, deployment, registry, proofs, running, node, own, book, client, feed, None,  # type: ignore[arg-type]
            validator, owner, secret, stack,
        )  # fmt: skip
        world.demands = world.new_demands()
        # posts count of those who had stake a second before
        await asyncio.sleep(max(0.0, staked_s + 1.1 - time.time()))
        yield world


@asynccontextmanager
async def _open_node(
    folder: Path, rpc: ChainRpc, deployment: Deployment, sender: Sender, service: ChatService, running: Running
) -> AsyncIterator[Node]:
    def fail(*told: object) -> None:
        raise AssertionError(told)

    view = ContractChain(rpc, deployment, sender, poll_s=0.1)
    signed = await load_terms(view, PROVIDER, deployment.domain, service.manifest, wallet="provider")
    database = await open_database(f"sqlite:///{folder}/node.db")
    writer = await open_writer(database, on_failure=fail, on_crash=fail)
    node = Node(
        NodeParts(
            key=PROVIDER,
            domain=deployment.domain,
            chain=view,
            database=database,
            writer=writer,
            blobs=FolderBlobs(folder / "blobs"),
            services={signed.offer.service_id: NodeService(service, ChatService.apis, signed)},
            settings=NodeSettings(batch_delay_s=0.05, redeem_value_nano=1),
            on_crash=fail,
            court=ContractCourt(rpc, deployment, sender),
        )
    )
    await node.open()
    client = LinkClient(
        running.address.link_url, PROVIDER, deployment.domain, node, offers=lambda: node.offers, limits=LIMITS
    )
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(node.run())]
    try:
        async with asyncio.timeout(20):
            while running.gateway.catalogue.find_link(PROVIDER.account) is None:  # noqa: ASYNC110  # a link of another room
                await asyncio.sleep(0.02)
        yield node
    finally:
        await node.close()
        await client.aclose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await writer.aclose()
        await database.aclose()
