"""A validator at work: one loop per gateway, and for the chain one each for secrets, for the court, for the ledger.

1. A call is selected by the secret of the epoch in which it ended; without a committed secret nothing is selected, and
   the chain shows that.
2. What a read of a feed comes to is kept whole or not at all. A gateway that is silent is asked again; one that shows
   what no provider signed is passed over until this process starts anew, and the reason is logged.
3. One validator's trouble with one gateway, or with the chain, never stops its other loops.

Law: docs/spec/validator.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from steelyard.chain.fault_desk import FaultDesk
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import ChainError, PeerError, SteelyardError, Unavailable
from steelyard.protocol.messages import Outcome
from steelyard.storage.waiting import WaitingRow
from steelyard.validator.book import Book, Finding, material_of
from steelyard.validator.checker import Checkable, Checked, check_call
from steelyard.validator.clerk import Clerk
from steelyard.validator.demands import Demands, begin_waiting, relay_evidence
from steelyard.validator.epochs import Epochs
from steelyard.validator.feed import GatewayFeed, SeenCall
from steelyard.validator.gateway_client import ShownCall
from steelyard.validator.lazy import LazyWatch
from steelyard.validator.probes import Prober
from steelyard.validator.quality_posts import QualityPosts
from steelyard.validator.record import LedgerRecord
from steelyard.validator.rewards import RewardDesk
from steelyard.validator.settings import ValidatorSettings
from steelyard.validator.stakes import ValidatorStakes
from steelyard.verification.selection import Reason, Standing, is_long, select_calls
from steelyard.verification.standing import Pair
from steelyard.verification.verdict import Lack

READ_BATCHES = 16
PROBE, NEWCOMER = "probe", Reason.NEWCOMER.name.lower()
_log = structlog.get_logger("steelyard.validator")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorParts:
    """What a validator is made of.

    Attributes:
        account: its own. stakes: of all validators. checkables: by service id, as they are now.
        prober: buys calls as an ordinary client, or None.
        demands: asks on chain for evidence that is not served; None: such calls abstain.
        posts: publishes quality, or None. rewards: proposes and checks the roots of rewards, or None.
        lazy: compares others' verdicts, or None. faults: proves the lies that the feeds' witness saw, or None.
    """

    account: bytes
    rpc: ChainRpc
    record: LedgerRecord
    book: Book
    epochs: Epochs
    clerk: Clerk
    feeds: Sequence[GatewayFeed]
    stakes: ValidatorStakes
    checkables: Callable[[bytes], Awaitable[Checkable | None]]
    prober: Prober | None
    settings: ValidatorSettings
    demands: Demands | None = None
    posts: QualityPosts | None = None
    rewards: RewardDesk | None = None
    lazy: LazyWatch | None = None
    faults: FaultDesk | None = None


@dataclass(frozen=True, slots=True)
class _EpochView:
    """What is the same for all calls of an epoch."""

    secret: bytes
    stakes: Mapping[bytes, int]
    standings: Mapping[Pair, Standing]


class _NotBegun(Exception):
    """A call's epoch has not begun by the chain's clock, which goes after the calls': nobody knows its stakes yet."""


class Validator:
    """Runs until cancelled."""

    def __init__(self, parts: ValidatorParts) -> None:
        self._parts = parts
        self._views: dict[int, _EpochView] = {}
        self._turns = asyncio.Semaphore(parts.settings.checks_at_once)

    async def run(self) -> None:
        """Check, publish and judge, until cancelled."""
        async with asyncio.TaskGroup() as group:
            # Secrets and votes have their times: neither waits for what is only published.
            beats = [self._parts.epochs.keep_secrets, self._parts.clerk.beat, self._beat_ledger]
            if self._parts.demands is not None:
                beats.append(self._parts.demands.beat)
            for beat in beats:
                group.create_task(self._keep_beating(beat))
            for feed in self._parts.feeds:
                group.create_task(self._keep_reading(feed))
            if self._parts.faults is not None:
                group.create_task(self._parts.faults.run())
            if self._parts.prober is not None and self._parts.prober.is_buying:
                group.create_task(self._keep_probing(self._parts.prober))

    # the chain

    async def _keep_beating(self, beat: Callable[[int], Awaitable[None]]) -> None:
        while True:
            try:
                block = await self._parts.rpc.block("latest")
                if block is not None:
                    await beat(block.timestamp_s)
            except ChainError as error:
                _log.warning("chain_silent", reason=error.message)
            except SteelyardError as error:
                _log.error("beat_failed", code=error.code, reason=error.message)
            await asyncio.sleep(self._parts.settings.beat_s)

    async def _beat_ledger(self, now_s: int) -> None:
        parts = self._parts
        await parts.book.forget(parts.settings.keep_days)
        await parts.record.refresh()
        await parts.epochs.publish(now_s)
        if parts.posts is not None:
            await parts.posts.beat(now_s)
        if parts.lazy is not None:
            await parts.lazy.beat()
        if parts.rewards is not None:
            await parts.rewards.beat(now_s)

    # the feeds

    async def _keep_probing(self, prober: Prober) -> None:
        while True:
            await prober.wait()
            await prober.probe()

    async def _keep_reading(self, feed: GatewayFeed) -> None:
        while True:
            count = 0
            try:
                count = await self.read(feed)
            except Unavailable as error:
                _log.warning("gateway_silent", gateway=feed.client.url, reason=error.message)
            except PeerError as error:
                _log.error("gateway_passed_over", gateway=feed.client.url, code=error.code, reason=error.message)
                return
            except SteelyardError as error:
                _log.error("read_failed", gateway=feed.client.url, code=error.code, reason=error.message)
            if not count:
                await asyncio.sleep(self._parts.settings.poll_s)

    async def read(self, feed: GatewayFeed) -> int:
        """Work off the next batches of a gateway, and return how many calls they held.

        Raises:
            Unavailable: the gateway is silent. PeerError: it shows what no provider signed. ChainError.
        """
        calls, place = await feed.read(READ_BATCHES)
        if not calls and place == feed.state:
            return 0
        book = self._parts.book
        found: list[Finding] = []
        waiting: list[WaitingRow] = []
        for call in await book.unjudged(calls):
            try:
                selected_by = await self._select(call)
            except _NotBegun:
                return 0
            if selected_by:
                async with self._turns:
                    checked, shown = await self._check(feed, call, selected_by)
                if self._parts.demands is not None and shown and checked.judgement.reason == Lack.EVIDENCE:
                    waiting.append(begin_waiting(call, selected_by, shown))
                    continue
                found.append((call, selected_by, checked, material_of(call, shown, checked)))
        for row in await book.record(feed.client.account, place, found, waiting):
            _log.info(
                "call_checked",
                provider=row.provider.hex(),
                outcome=Outcome(row.outcome).name,
                reason=row.reason,
                selected_by=row.selected_by,
                nats=round(row.micro_nats / 1e6, 2),
                tokens=row.tokens,
            )
        feed.advance(place)
        return len(calls)

    async def _select(self, call: SeenCall) -> str:
        prober = self._parts.prober
        if prober is not None and call.receipt_hash in prober.receipts:
            return PROBE
        view = await self._view(call.epoch)
        if view is None:
            return ""
        pair = (call.order.provider, call.order.service_id)
        selected = select_calls(
            view.secret,
            self._parts.account,
            [call.receipt],
            view.standings.get(pair, Standing()),
            view.stakes,
            calls_before=call.calls_before,
            long_calls_before=call.long_before,
        )
        return selected[0].reason.name.lower() if selected else ""

    async def _view(self, epoch: int) -> _EpochView | None:
        known = self._views.get(epoch)
        if known is not None:
            return known
        secret = self._parts.epochs.secret(epoch)
        if secret is None:
            return None
        await self._parts.record.refresh()
        block = await self._parts.rpc.block("latest")
        if block is None or block.timestamp_s < epoch * self._parts.epochs.epoch_s:
            raise _NotBegun
        stakes = await self._parts.stakes.at_start(epoch)
        view = self._views[epoch] = _EpochView(secret, stakes, self._parts.record.standings(epoch))
        for old in sorted(self._views)[:-4]:
            del self._views[old]
        return view

    async def _check(self, feed: GatewayFeed, call: SeenCall, selected_by: str) -> tuple[Checked, ShownCall | None]:
        shown: list[ShownCall] = []

        async def fetch_call() -> ShownCall | None:
            found = await feed.client.fetch_call(call.receipt_hash)
            if found is not None:
                shown.append(found)
            return found

        checkable = await self._parts.checkables(call.order.service_id)
        fetch_evidence = partial(relay_evidence, feed.client, call.receipt_hash)
        checked = await check_call(call.order, call.receipt, checkable, fetch_call, fetch_evidence)
        if shown and checkable is not None and checked.judgement.reason != Lack.CALL:
            self._learn(call, selected_by, shown[0], checkable, feed.client.url)
        return checked, shown[0] if shown else None

    def _learn(self, call: SeenCall, selected_by: str, shown: ShownCall, checkable: Checkable, url: str) -> None:
        prober, name = self._parts.prober, checkable.service.manifest.name
        if prober is None or call.receipt_hash in prober.receipts:
            return
        prober.learn(shown.api, name, shown.body, url, is_long=is_long(call.receipt))
        if selected_by == NEWCOMER:
            prober.owe(call.order.provider, name, url)
