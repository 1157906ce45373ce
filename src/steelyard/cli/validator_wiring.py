"""Puts a validator process together from the settings: key, chain, database, gateways, engines, calibrations.

1. Services are checked as they come: the manifest by the registry's digest, the engine by the manifest's weights. What
   can't be had here abstains, and is tried again after a while.
2. Gateways come from the registry, or by name; one that registers later is found after a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields

import structlog

from steelyard.chain.cases import CaseKind
from steelyard.chain.court import CourtClient
from steelyard.chain.fault_desk import ContractCourt, FaultDesk
from steelyard.chain.ledger import LedgerClient
from steelyard.chain.proofs import ProofsClient
from steelyard.chain.registry import Role
from steelyard.chain.rewards import RewardsClient
from steelyard.cli.chain_access import ChainAccess, Signer, open_chain, open_signer
from steelyard.cli.engine_wiring import Engines, Ordered
from steelyard.cli.invocation import Invocation
from steelyard.cli.market import fetch_directory
from steelyard.cli.settings import NodeSection, ServiceEntry, ValidatorSection
from steelyard.errors import ConfigError, NotProvable, SteelyardError
from steelyard.protocol.cid import Cid
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import Manifest, decode_manifest
from steelyard.storage.blobs import BlobStore, FolderBlobs
from steelyard.storage.claims import claim_process
from steelyard.storage.database import open_database
from steelyard.validator.backroom import Backroom
from steelyard.validator.book import open_book
from steelyard.validator.calibrations import Calibrations
from steelyard.validator.challenges import Challenges
from steelyard.validator.checker import Checkable
from steelyard.validator.clerk import Clerk
from steelyard.validator.cuts import Cuts
from steelyard.validator.demands import Demands
from steelyard.validator.epochs import Epochs
from steelyard.validator.feed import GatewayFeed
from steelyard.validator.feed_witness import FeedWitness
from steelyard.validator.gateway_client import GatewayClient
from steelyard.validator.lazy import LazyWatch
from steelyard.validator.probes import Prober, ProbeShop, load_prompts
from steelyard.validator.quality import NetworkQuality
from steelyard.validator.quality_posts import QualityPosts
from steelyard.validator.record import LedgerRecord
from steelyard.validator.replayer import BoughtReplayer, OwnReplayer, Replayer
from steelyard.validator.rewards import RewardDesk, RewardRoots
from steelyard.validator.settings import ValidatorSettings
from steelyard.validator.stakes import ValidatorStakes
from steelyard.validator.validator import Validator, ValidatorParts
from steelyard.verification.consensus import OWN_NODE, consensus_null
from steelyard.weights.cache import WeightCache

REGISTRY = "registry"
RETRY_S = 60.0
_log = structlog.get_logger("steelyard.cli")


class Checkables:
    """How each service is checked on this machine; opened once, when the first call of it is selected."""

    def __init__(
        self,
        section: ValidatorSection,
        chain: ChainAccess,
        blobs: BlobStore,
        cache: WeightCache,
        calibrations: Calibrations,
        shop: ProbeShop | None,
    ) -> None:
        self._section = section
        self._chain = chain
        self._blobs = blobs
        self._cache = cache
        self._calibrations = calibrations
        self._shop = shop
        self._known: dict[bytes, Checkable] = {}
        self._failed_s: dict[bytes, float] = {}
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def find(self, service_id: bytes) -> Checkable | None:
        """Return how a service is checked here, or None if its manifest or kind can't be had."""
        async with self._lock:
            if service_id in self._known:
                return self._known[service_id]
            if time.monotonic() - self._failed_s.get(service_id, float("-inf")) < RETRY_S:
                return None
            try:
                self._known[service_id] = await self._open(service_id)
            except SteelyardError as error:
                self._failed_s[service_id] = time.monotonic()
                _log.warning("service_not_checkable", service=service_id.hex(), reason=error.message)
                return None
            return self._known[service_id]

    async def aclose(self) -> None:
        """Close all engines and services."""
        await self._stack.aclose()

    async def _open(self, service_id: bytes) -> Checkable:
        registered = await self._chain.registry.fetch_service(service_id)
        if registered is None:
            raise ConfigError("the service is not registered")
        kind = installed_services().find(registered.kind)
        manifest = await self._manifest(registered.name, registered.kind, registered.manifest)
        engine_name = f"{manifest.engine} {manifest.engine_version}".strip()
        upstream = self._section.upstreams.get(manifest.name)
        if kind.check == "consensus" and upstream is not None:
            service = kind(manifest, options={"upstream": upstream.get_secret_value()})
            self._stack.push_async_callback(service.aclose)
            await service.prepare(_ignore)
            return Checkable(service, False, OwnReplayer(service, OWN_NODE), consensus_null(registered.manifest))
        if kind.check == "exact" or not kind.needs_engine:
            service = kind(manifest)
            self._stack.push_async_callback(service.aclose)
            return Checkable(service, kind.check == "exact", None, None)
        replayer: Replayer | None = None
        service = kind(manifest)
        try:
            ordered = Ordered(ServiceEntry(name=manifest.name), manifest)
            section = NodeSection(engine_slots=1, engine_threads=self._section.engine_threads)
            engines = Engines(section, self._cache, [ordered])
            self._stack.push_async_callback(engines.aclose)
            engine = await engines.open(ordered)
            service = kind(manifest, engine=engine)
            await service.prepare(_ignore)
            engine_name = f"{engine.info.engine} {engine.info.engine_version}"
            replayer = OwnReplayer(service, engine_name)
        except SteelyardError as error:
            if self._shop is None:
                raise
            _log.info("replays_are_bought", service=manifest.name, reason=error.message)
            replayer = BoughtReplayer(self._shop.buy_replay, engine_name)
        self._stack.push_async_callback(service.aclose)
        null = self._calibrations.find(registered.manifest, f"{manifest.engine} {manifest.engine_version}", engine_name)
        if null is None:
            _log.warning("not_calibrated", service=manifest.name, engine=engine_name)
        return Checkable(service, False, replayer, null)

    async def _manifest(self, name: str, kind: str, digest: bytes) -> Manifest:
        try:
            return decode_manifest(await self._blobs.get(Cid(digest)))
        except NotProvable:
            found = installed_services().find(kind)
            if found.needs_engine:
                raise
            return found.describe(name)


@asynccontextmanager
async def open_validator(invocation: Invocation) -> AsyncIterator[tuple[Validator, Signer]]:
    """Give a validator that is ready to run, and close what it is made of afterwards.

    Raises:
        ConfigError: what is missing or doesn't fit, in one line.
    """
    settings = invocation.settings
    section = settings.validator
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(open_chain(invocation))
        signer = open_signer(invocation, chain, section.wallet)
        if not await chain.registry.fetch_is_active(signer.sender.account, Role.VALIDATOR):
            raise ConfigError(
                f"{section.wallet} has no active stake as a validator: run steelyard stake 1000 --role validator "
                f"--wallet {section.wallet}"
            )
        database = await open_database(settings.validator_database)
        stack.push_async_callback(database.aclose)
        await stack.enter_async_context(claim_process(database, section.wallet))
        blobs, domain = FolderBlobs(settings.blobs_folder), chain.deployment.domain
        court, ledger = CourtClient(chain.rpc, chain.deployment), LedgerClient(chain.rpc, chain.deployment)
        terms = await court.fetch_terms()
        book = await open_book(database, signer.key, domain, lambda: time.time_ns() // 1_000_000)
        urls = await _gateways(chain, section)
        desk = FaultDesk(
            database,
            ContractCourt(chain.rpc, chain.deployment, signer.sender) if section.is_proving else None,
        )
        witness = FeedWitness(database, domain, desk, keep_days=section.seen_keep_days)
        feeds = []
        for account, url in urls.items():
            client = GatewayClient(url, account, signer.key, domain)
            stack.push_async_callback(client.aclose)
            place = await book.load_place(account)
            feeds.append(GatewayFeed(client, domain, chain.deployment.epoch_s, place, witness))
        shop, prompts = None, load_prompts(settings.prompts_file)
        if section.api_keys:
            shop = ProbeShop({url.rstrip("/"): key.get_secret_value() for url, key in section.api_keys.items()})
            stack.push_async_callback(shop.aclose)
        calibrations = Calibrations(settings.calibrations_folder)
        checkables = Checkables(section, chain, blobs, WeightCache(settings.weights_folder), calibrations, shop)
        stack.push_async_callback(checkables.aclose)
        epochs = Epochs(
            database, blobs, court, ledger, signer.sender, domain, ahead=section.secrets_ahead, reveal_s=terms.reveal_s
        )
        await epochs.open()
        demands = Demands(
            book,
            database,
            chain.rpc,
            ProofsClient(chain.rpc, chain.deployment),
            signer.sender,
            {feed.client.account: feed.client for feed in feeds},
            checkables.find,
            from_block=chain.deployment.block,
            keep_s=terms.keep_s,
            epoch_s=chain.deployment.epoch_s,
        )
        backroom = Backroom()
        stack.push_async_callback(backroom.aclose)
        challenges = Challenges(book, blobs, court, chain.escrow, signer.sender, domain, checkables.find, backroom)

        async def validators() -> list[bytes]:
            stakes = (await fetch_directory(chain)).stakes
            return sorted(account for account, role in stakes if role == Role.VALIDATOR)

        stakes = ValidatorStakes(chain.registry, validators, chain.deployment.epoch_s)
        record = LedgerRecord(chain.rpc, ledger, stakes, blobs, domain, chain.deployment.block)
        # one for what is published, one for roots: each is asked for epochs in their order
        quality, earned = (NetworkQuality(chain.rpc, court, stakes, record, chain.deployment.block) for _ in range(2))
        rewards = RewardsClient(chain.rpc, chain.deployment)
        roots = RewardRoots(rewards, earned, Cuts(chain.rpc, chain.deployment), blobs, domain)
        lazy = LazyWatch(
            book,
            record,
            blobs,
            court,
            signer.sender,
            domain,
            checkables.find,
            is_challenging=section.is_challenging,
        )
        clerk = Clerk(
            database,
            blobs,
            court,
            signer.sender,
            domain,
            terms,
            checkables.find,
            challenges if section.is_challenging else None,
            backroom,
            {CaseKind.WRONG_ROOT: roots.judge_case, CaseKind.LAZY: lazy.judge_case},
        )
        parts = ValidatorParts(
            account=signer.sender.account,
            rpc=chain.rpc,
            record=record,
            book=book,
            epochs=epochs,
            clerk=clerk,
            feeds=feeds,
            stakes=stakes,
            checkables=checkables.find,
            prober=None if shop is None else Prober(shop, probes_per_hour=section.probes_per_hour, prompts=prompts),
            demands=demands if section.is_demanding else None,
            posts=QualityPosts(quality, ledger, blobs, signer.sender, domain),
            lazy=lazy,
            faults=desk,
            rewards=RewardDesk(
                roots, rewards, court, blobs, signer.sender, validators, is_challenging=section.is_challenging
            ),
            settings=ValidatorSettings(**{own.name: getattr(section, own.name) for own in fields(ValidatorSettings)}),
        )
        yield Validator(parts), signer


async def _gateways(chain: ChainAccess, section: ValidatorSection) -> dict[bytes, str]:
    registered = (await fetch_directory(chain)).gateways
    if REGISTRY in section.gateways:
        found = dict(registered)
    else:
        found = {account: url for account, url in registered.items() if url.rstrip("/") in section.gateways}
    if not found:
        raise ConfigError("no gateway to check was found: the registry has none of those in validator.gateways")
    return found


def _ignore(what: str, done: int, total: int) -> None:
    pass
