"""Puts one gateway together from what it was given; nothing here listens.

Law: docs/spec/gateway.md, section 8.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

import structlog

from steelyard.chain.deployment import Deployment
from steelyard.chain.fault_desk import FaultDesk, LieCourt
from steelyard.errors import SteelyardError, Unavailable
from steelyard.gateway import relay_purse
from steelyard.gateway.access import Access
from steelyard.gateway.app import GatewayApp
from steelyard.gateway.batch_witness import BatchWitness
from steelyard.gateway.call_marks import CALL_MARK_PURPOSE
from steelyard.gateway.calls_view import CallsView
from steelyard.gateway.catalogue import BindService, Catalogue
from steelyard.gateway.chain_view import ChainView
from steelyard.gateway.check_sessions import CheckSessions
from steelyard.gateway.check_store import CheckStore
from steelyard.gateway.checks import CheckPages
from steelyard.gateway.consents import Consents
from steelyard.gateway.dispatch import Dispatcher
from steelyard.gateway.fast_path import FastPath
from steelyard.gateway.hangups import HangupWatch
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.network_quality import QualityView
from steelyard.gateway.order_tags import OrderTagger
from steelyard.gateway.pages import Pages
from steelyard.gateway.payer import Payer
from steelyard.gateway.randomness import RandomPool
from steelyard.gateway.recovery import Recovery
from steelyard.gateway.relay_fronts import RelayFronts
from steelyard.gateway.replays import Replays
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.settlement import Settlement
from steelyard.gateway.side import ProviderSide
from steelyard.gateway.watch import ChainWatch
from steelyard.gateway.work import Work
from steelyard.gateway.x402 import KEY_ID, PaidWork, Payments, open_paid_work
from steelyard.gateway.x402_settle import Till
from steelyard.protocol.ids import format_hex
from steelyard.protocol.signing import SigningKey
from steelyard.storage.budgets import Run, recover, set_limit
from steelyard.storage.database import Database
from steelyard.storage.meters import BudgetMeters
from steelyard.storage.writer import GroupWriter

MAX_QUEUED_WRITES = 15_000
STALE_CHAIN_BEATS = 10

_log = structlog.get_logger("steelyard.gateway")


def unix_ms() -> int:
    """Return the time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Gateway:
    """The parts of a running gateway that others reach for."""

    settings: GatewaySettings
    database: Database
    writer: GroupWriter
    catalogue: Catalogue
    settlement: Settlement
    payer: Payer
    recovery: Recovery
    replays: Replays
    side: ProviderSide
    watch: ChainWatch
    access: Access
    meters: BudgetMeters
    metrics: Metrics
    hangups: HangupWatch
    pages: Pages
    sessions: CheckSessions
    fronts: RelayFronts
    app: GatewayApp
    fast: FastPath
    desk: FaultDesk
    is_stopping: bool = False
    paid: PaidWork | None = None

    async def beat(self) -> None:
        """Twenty times a second: who hung up, whose provider is silent, and which vouchers are due."""
        self.hangups.sweep()
        self.settlement.wake_due()
        await self.payer.sign_due()

    async def slow_beat(self) -> None:
        """Once a second: what expired, and what came back after a crash."""
        self.settlement.expire()
        self.settlement.store.expire(self.settlement.clock())
        self.sessions.expire()
        if not self.why_full():
            self.fronts.watch.look()
        await self.recovery.run_due()

    def why_full(self) -> str:
        """Return why no call is taken now, or an empty string."""
        if self.is_stopping:
            return "this gateway is stopping: try again in a few seconds"
        if self.settlement.in_flight >= self.settings.max_calls:
            return f"{self.settlement.in_flight} calls are in flight already: try again in a second"
        if self.writer.queued > MAX_QUEUED_WRITES or self.settlement.is_behind:
            return "the database is behind: try again in a second"
        return ""

    async def why_unready(self) -> list[str]:
        """Return every reason not to send traffic here."""
        reasons = [full] if (full := self.why_full()) else []
        sight, now_s = self.watch.sight, self.settlement.clock()
        if now_s - sight.seen_s > STALE_CHAIN_BEATS * self.settings.watch_s:
            reasons.append(f"the chain was not read lately: {sight.trouble or 'no answer'}")
        if sight.position is not None and not sight.limit_nano:
            reasons.append("the escrow holds nothing for this gateway: `steelyard deposit` adds to it")
        sellers = [seller for listing in self.catalogue.listings.values() for seller in listing.sellers]
        if not any(not seller.why_not(now_s) for seller in sellers):
            told = "; ".join(sorted({f"{s.provider_hex}: {s.why_not(now_s)}" for s in sellers})[:10])
            reasons.append(f"no provider can serve now ({told or 'none is linked'})")
        try:
            await self.database.ping()
        except Exception as error:  # whatever the driver raises: the database does not answer
            reasons.append(f"the database does not answer: {type(error).__name__}")
        return reasons

    def gauges(self) -> dict[str, float]:
        """Return what `/metrics` shows as of now."""
        now_s = self.settlement.clock()
        sellers = [seller for listing in self.catalogue.listings.values() for seller in listing.sellers]
        position = self.watch.sight.position
        lanes = self.payer.lanes.values()
        return {
            "calls_in_flight": self.settlement.in_flight,
            "calls_lost_unsettled": len(self.settlement.lost),
            "requests_waiting": self.hangups.count + self.fast.in_flight,
            "providers_well": sum(not seller.why_not(now_s) for seller in sellers),
            "providers_known": len({seller.provider_hex for seller in sellers}),
            "lanes": len(lanes),
            "unsigned_nano": sum(lane.state.cumulative - lane.signed_nano for lane in lanes),
            "unbatched_receipts": sum(len(lane.receipts) for lane in lanes),
            "writes_queued": self.writer.queued,
            "checks_kept": len(self.settlement.store),
            "checks_kept_bytes": self.settlement.store.size_bytes,
            "escrow_deposit_nano": 0 if position is None else position.escrow.deposit_nano,
            "escrow_owed_nano": 0 if position is None else position.escrow.owed_nano,
            "open_links": len({id(lane.link) for lane in lanes if lane.link is not None and lane.link.is_up}),
            "tasks": len(asyncio.all_tasks()),
            "chain_age_seconds": min(now_s - self.watch.sight.seen_s, 1e9),
            **self.fronts.gauges(),
        }

    async def aclose(self) -> None:
        """Write what is still to be written; the writer must be open."""
        if self.paid is not None:
            await self.paid.aclose()
        self.settlement.expire()
        try:
            await self.settlement.flush()
        except Unavailable as error:
            _log.error("last_writes_lost", code=error.code, reason=error.message)
        await self.access.aclose()
        await self.meters.aclose()


async def assemble(
    settings: GatewaySettings,
    key: SigningKey,
    deployment: Deployment,
    database: Database,
    writer: GroupWriter,
    chain: ChainView,
    bind_service: BindService,
    quality: QualityView | None = None,
    court: LieCourt | None = None,
    *,
    payments: Payments | None = None,
) -> Gateway:
    """Return a gateway with its state restored, ready for links and requests."""
    clock, account, random = time.monotonic, key.account, RandomPool()
    escrow_id = f"escrow:{format_hex(account)}"
    run = Run(settings.process, os.urandom(16))
    crashed = await recover(database, settings.process)
    metrics = Metrics()
    meters = BudgetMeters(database, writer, run, now_ms=unix_ms, clock=clock, on_failure=_log_lost_save)
    catalogue = Catalogue(chain, deployment.domain, bind_service)
    watch = ChainWatch(
        chain,
        database,
        catalogue,
        account=account,
        escrow_id=escrow_id,
        reserve_nano=settings.reserve_nano,
        clock=clock,
        clock_ms=unix_ms,
        quality=quality,
    )
    await watch.begin()
    settlement = Settlement(
        writer,
        meters.meter(escrow_id),
        metrics,
        run.run_id,
        clock=clock,
        clock_ms=unix_ms,
        grace_s=settings.grace_s,
        store=CheckStore(settings.checks_keep_s, settings.checks_keep_bytes),
    )
    mark_secret = key.derive_secret(CALL_MARK_PURPOSE)
    recovery = Recovery(
        database,
        writer,
        settlement,
        crashed,
        escrow_id=escrow_id,
        secret=mark_secret,
        wait_ms=int((settings.deadline_s + settings.grace_s) * 1000),
    )
    await recovery.load_keys()

    desk = FaultDesk(database, court if settings.is_proving else None, now_ms=unix_ms)
    metrics.lies = desk.counts
    witness = BatchWitness(database, deployment.domain, desk, settlement.flush, unix_ms)
    await witness.restore()
    payer = Payer(settings, database, writer, key, deployment.domain, settlement, metrics, recovery, witness)
    await payer.restore()
    replays = Replays(settings, database, unix_ms)
    await replays.forget_crashed()
    access = Access(database, check_s=settings.key_check_s, clock=clock, clock_ms=unix_ms)
    dispatcher = Dispatcher(
        settings,
        database,
        meters,
        settlement,
        account=account,
        tag=OrderTagger(payer.tag_secret),
        mark_secret=mark_secret,
        escrow_id=escrow_id,
        escrow_address=deployment.escrow,
        random=random,
    )
    hangups = HangupWatch(clock)
    calls = CallsView(database, writer, settings.admin_key_ids, catalogue.name_of)
    side = ProviderSide(catalogue, payer, settlement, metrics, clock_ms=unix_ms)

    def why_full() -> str:
        return gateway.why_full()

    async def why_unready() -> list[str]:
        return await gateway.why_unready()

    work = Work(
        settings,
        access,
        catalogue,
        dispatcher,
        replays,
        hangups,
        metrics,
        renew_lane=side.renew_lane,
        why_full=why_full,
        clock=clock,
        clock_ms=unix_ms,
    )
    pages = Pages(
        deployment,
        account,
        access,
        catalogue,
        calls,
        metrics,
        watch.sight,
        why_unready=why_unready,
        clock=clock,
    )
    sessions = CheckSessions(key, deployment.domain, chain.fetch_is_validator, clock=clock, clock_ms=unix_ms)
    consents = Consents(key, deployment.domain, is_consenting=settings.consents_to_demands)
    checks = CheckPages(
        database,
        settlement.store,
        sessions,
        consents,
        account=account,
        find_link=catalogue.find_link,
        clock=clock,
        disagreements=lambda: gateway.fronts.checks.kept,
    )
    fronts = RelayFronts(
        settings,
        access,
        catalogue,
        dispatcher,
        work,
        replays,
        hangups,
        settlement,
        metrics,
        random,
        why_full=why_full,
        clock=clock,
    )
    app = GatewayApp(work, pages, checks, fronts, metrics, random, serves_cors=settings.serves_cors)
    gateway = Gateway(
        settings,
        database,
        writer,
        catalogue,
        settlement,
        payer,
        recovery,
        replays,
        side,
        watch,
        access,
        meters,
        metrics,
        hangups,
        pages,
        sessions,
        fronts,
        app,
        FastPath(
            work,
            fronts.relay,
            metrics,
            max_body_bytes=settings.max_body_bytes,
            extra_block=app.extra_block,
            clock=clock,
        ),
        desk,
    )
    metrics.gauges = gateway.gauges
    await set_limit(database, relay_purse.KEY_ID, None, now_ms=unix_ms())
    if payments is not None:
        await set_limit(database, KEY_ID, 0, now_ms=unix_ms())
        gateway.paid = work.paid = await open_paid_work(
            payments,
            settings,
            metrics,
            lambda asked: Till(
                payments.chain,
                database,
                asked,
                process=settings.process,
                bench_s=payments.terms.bench_s,
                clock=clock,
                clock_ms=unix_ms,
            ),
            account=account,
            nobody=dispatcher.nobody,
            base_url=lambda: pages.address.base_url,
            why_full=why_full,
            clock=clock,
        )
    return gateway


def _log_lost_save(error: SteelyardError) -> None:
    _log.error("budget_not_saved", code=error.code, reason=error.message)
