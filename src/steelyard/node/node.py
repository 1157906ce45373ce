"""The node: what links ask of a provider, put together from credit, runs, lanes and the redeemer.

1. An order is taken only if it checks, is new, fits the credit window of its gateway, and there is room.
2. A call that was taken is never run again, restarts included.
3. A gateway that breaks a rule is refused by the link; the event is recorded.

Law: docs/spec/node.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from steelyard.chain.fault_desk import FaultDesk, LieCourt
from steelyard.errors import BadTotal, ConfigError, Forbidden, SteelyardError
from steelyard.link.port import CallRequest, Failure, GatewayLink, SignedOffer
from steelyard.node.chain_view import NodeChain
from steelyard.node.demands import DemandDesk
from steelyard.node.evidence_desk import EvidenceDesk
from steelyard.node.lane_account import LaneAccount, LaneTools, Leaf
from steelyard.node.orders import CLOCK_SKEW_MS, NodeService, Taken, check_order
from steelyard.node.redeemer import Redeemer, RedeemerTools
from steelyard.node.runner import Run, answer_at_once
from steelyard.node.seen import SeenCalls
from steelyard.node.settings import NodeSettings
from steelyard.node.terms import TermsWatch
from steelyard.node.voucher_witness import VoucherWitness
from steelyard.node.watch import CreditWatch
from steelyard.protocol.lanes import LaneState, SignedVoucher
from steelyard.protocol.messages import Lane, Order, Receipt
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.storage.blobs import BlobStore
from steelyard.storage.database import Database
from steelyard.storage.events import PeerEvent, record_event
from steelyard.storage.node_ledger import find_voucher, known_heads, last_voucher, load_lanes
from steelyard.storage.node_orders import load_order_bytes
from steelyard.storage.writer import GroupWriter

MAX_LANES = 256
"""Lanes with one gateway account; more are refused, they would cost memory and looks at the chain."""

STOP_S = 5.0
_log = structlog.get_logger("steelyard.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What a node is made of; `services` by service id, `on_crash` must stop the process.

    `court`: where lies are proven; None only keeps them.
    """

    key: SigningKey
    domain: Domain
    chain: NodeChain
    database: Database
    writer: GroupWriter
    blobs: BlobStore
    services: Mapping[bytes, NodeService]
    settings: NodeSettings
    on_crash: Callable[[BaseException], None]
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    court: LieCourt | None = None


class Node:
    """A provider at work; a `NodeSide` for its links. `open` reads its lanes back, `close` ends its calls."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._tools = LaneTools(
            parts.key, parts.domain, parts.database, parts.writer, parts.settings, parts.on_crash, parts.now_ms
        )
        self._lanes: dict[Lane, LaneAccount] = {}
        self._lost: set[Lane] = set()
        self._lane_counts: Counter[bytes] = Counter()
        self._runs: dict[bytes, Run] = {}
        self._runs_by_service: Counter[bytes] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[GatewayLink] = set()
        self._services = dict(parts.services)
        self._terms = TermsWatch(parts.chain, parts.key, parts.domain, self._services, self._tell_offers, parts.now_ms)
        self._seen = SeenCalls(CLOCK_SKEW_MS)
        self._watch = CreditWatch(parts.chain, parts.settings, lambda: self._lanes)
        self._desk = EvidenceDesk(parts.database, parts.now_ms)
        self._demands = DemandDesk(parts.chain, parts.database, parts.key.account)
        court = parts.court if parts.settings.is_proving else None
        self.faults = FaultDesk(parts.database, court, now_ms=parts.now_ms)
        self._witness = VoucherWitness(parts.database, parts.domain, self.faults, parts.now_ms)
        self._is_stopping = False
        redeemer_tools = RedeemerTools(
            parts.chain, parts.database, parts.writer, parts.blobs, parts.domain, parts.settings, parts.now_ms
        )
        self.redeemer = Redeemer(redeemer_tools, self._lanes.values)

    @property
    def offers(self) -> tuple[SignedOffer, ...]:
        """What links tell gateways."""
        region = self._parts.settings.region
        return tuple(
            msgspec.structs.replace(offered.signed_offer, region=region) for offered in self._services.values()
        )

    @property
    def calls_in_flight(self) -> int:
        """How many orders are at work."""
        return len(self._runs)

    async def open(self) -> None:
        """Read the lanes back, what the chain paid on them, and what the stake allows.

        Raises:
            ConfigError: evidence would be forgotten before it can be demanded. ChainError: the chain is silent.
        """
        await self._terms.look_at_stake()
        await self._check_keeping()
        database, now_ms = self._parts.database, self._parts.now_ms()
        await self._witness.restore()
        for stored in await load_lanes(database):
            lane = stored.state.lane
            heads = await known_heads(database, lane.key)
            voucher = await last_voucher(database, lane)
            self._add_lane(lane, LaneAccount(self._tools, stored.state, voucher=voucher, heads=heads))
            self._watch.credit(lane.gateway).served += stored.state.cumulative
        for gateway in self._lane_counts:
            await self._watch.add_gateway(gateway, is_staked=await self._parts.chain.is_gateway(gateway))
        await self._watch.add_lanes([lane.key for lane in self._lanes])
        for lane, account in self._lanes.items():
            totals = self._parts.chain.lane(lane.key)
            if account.promised > (totals.paid_nano if totals else 0):
                account.voucher_since_ms = now_ms
        horizon_ms = int(self._parts.settings.max_deadline_s * 1000) + CLOCK_SKEW_MS
        for order_bytes in await load_order_bytes(database, since_ms=now_ms - horizon_ms):
            order = msgspec.msgpack.decode(order_bytes, type=Order)
            if order.deadline_ms + CLOCK_SKEW_MS >= now_ms:
                self._seen.take(order.call_id, order.deadline_ms, now_ms)

    async def _check_keeping(self) -> None:
        needed_s, kept_s = await self._parts.chain.fetch_keep_s(), self._parts.settings.evidence_keep_s
        if kept_s < needed_s:
            raise ConfigError(
                f"node.evidence_keep_s is {kept_s:.0f}, and on this chain evidence may be needed for {needed_s} s "
                "after a call: who can't serve it then is slashed, so set it to that at least",
                param="node.evidence_keep_s",
            )

    async def run(self) -> None:
        """Follow the chain and redeem, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._parts.chain.run())
            group.create_task(self.redeemer.run())
            group.create_task(self._watch.run())
            group.create_task(self._desk.run())
            group.create_task(self._demands.run())
            group.create_task(self._terms.run())
            group.create_task(self.faults.run())

    async def close(self, drain_s: float = 0.0) -> None:
        """Take no more orders, let runs end for a while, stop the others, and sign and send the last batches."""
        self._is_stopping = True
        runs = [task for task in self._tasks if task.get_name() == "run"]
        if runs and drain_s:
            await asyncio.wait(runs, timeout=drain_s)
        for run in list(self._runs.values()):
            run.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        await self._desk.aclose()
        await asyncio.gather(*(lane.flush() for lane in self._lanes.values()))
        await asyncio.gather(*(lane.feed.close(STOP_S) for lane in self._lanes.values()))

    # what links ask

    async def admit_gateway(self, gateway: bytes) -> None:
        """Let in who is in the registry as a gateway, with stake."""
        if not await self._parts.chain.is_gateway(gateway):
            raise Forbidden(f"0x{gateway.hex()} is no staked gateway of this deployment", code="unknown_gateway")
        await self._watch.add_gateway(gateway, is_staked=True)

    def on_call(self, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        """Take an order, or say why not."""
        order, now_ms = request.order, self._parts.now_ms()
        taken = check_order(
            request,
            gateway=link.gateway,
            provider=self._parts.key.account,
            offered=self._services.get(order.service_id),
            now_ms=now_ms,
            max_deadline_ms=now_ms + int(self._parts.settings.max_deadline_s * 1000),
            largest_nano=self._terms.largest_nano,
        )
        if isinstance(taken, Failure):
            link.send_fail(order.call_id, taken)
            return
        account = self._admit(link, order, taken.offered, now_ms)
        if isinstance(account, Failure):
            link.send_fail(order.call_id, account)
            return
        ended = None if is_stream else answer_at_once(link, request, taken, now_ms, self._parts.now_ms)
        if ended is None:
            self._start(link, request, taken, account, is_stream=is_stream)
        else:
            self._settle(link, request, taken, account, ended if isinstance(ended, Receipt) else None)

    def on_cancel(self, link: GatewayLink, call_id: bytes) -> None:
        """Stop a run that this link ordered."""
        run = self._runs.get(call_id)
        if run is not None and run.link is link:
            run.cancel()

    async def on_voucher(self, link: GatewayLink, signed: SignedVoucher) -> None:
        """Check and keep a voucher."""
        lane = signed.voucher.lane
        if lane.gateway != link.gateway or lane.provider != self._parts.key.account:
            raise BadTotal("the voucher is for a lane that isn't between us")
        account = self._lanes.get(lane)
        if lane in self._lost:
            _log.error("voucher_for_lost_lane", lane=lane.key.hex(), nano=signed.voucher.cumulative)
        elif account is None:
            raise BadTotal("the voucher is for a lane without any batch")
        else:
            try:
                await account.take_voucher(signed)
            except BadTotal as error:
                await self._witness.look(signed)
                # A gateway restored from a backup sends what it signed last by then; it learns the rest from our feed.
                if await find_voucher(self._parts.database, lane, signed.voucher.count) != signed:
                    raise
                self.on_peer_refused(link.gateway, error)
            else:
                if lane.key in self._witness.refused:
                    await self._witness.compare(signed)

    def on_lanes_known(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        """Take no order on a lane that the gateway knows further than we do: its next batch was signed before."""
        self._links = {known for known in self._links if not known.is_over} | {link}
        for state in lanes:
            lane, account = state.lane, self._lanes.get(state.lane)
            if lane.gateway != link.gateway or lane.provider != self._parts.key.account:
                raise BadTotal("the gateway knows a lane that isn't between us")
            if state.seq > (account.state.seq if account else 0):
                self._lost.add(lane)
                _log.error("lane_history_lost", lane=lane.key.hex(), gateway_seq=state.seq)

    async def on_link_up(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        """Send what the gateway hasn't seen, and claim what it has forgotten."""
        known = {state.lane: state for state in lanes}
        for lane, account in list(self._lanes.items()):
            if lane.gateway != link.gateway or lane in self._lost:
                continue
            if lane in known:
                account.feed.attach(link, known[lane].seq)
            elif not account.feed.is_connected:  # else another process of this gateway has it
                account.feed.attach(link, None)

    async def on_batches_wanted(self, link: GatewayLink, state: LaneState) -> None:
        """Send a lane's batches after a state again, whole."""
        account = self._lanes.get(state.lane)
        if account is not None and state.lane.gateway == link.gateway:
            account.feed.attach(link, state.seq)

    def on_evidence_asked(self, link: GatewayLink, receipt_hash: bytes) -> None:
        """Show the evidence of a receipt that this gateway paid for."""
        self._desk.ask(link, receipt_hash)

    def on_link_down(self, link: GatewayLink, reason: str) -> None:
        """Nothing to do: the link dials again, and cancels what its session can't finish."""

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        """Record that a gateway was refused."""
        peer = "0x" + account.hex() if account else "unproven"
        _log.warning("peer_refused", peer=peer, code=error.code, reason=error.message[:500])
        try:
            self._parts.writer.submit(record_event(PeerEvent(self._parts.now_ms(), peer, error.code, error.message)))
        except SteelyardError as unwritten:
            _log.error("event_not_written", peer=peer, code=unwritten.code)

    # inside

    def _admit(self, link: GatewayLink, order: Order, offered: NodeService, now_ms: int) -> LaneAccount | Failure:
        """Take an order on: its call id is used, its highest cost reserved; returns its lane, or why not."""
        lane, settings = order.lane, self._parts.settings
        account = self._lanes.get(lane)
        if self._is_stopping:
            return Failure("busy", "this provider is stopping")
        service_runs = self._runs_by_service.get(order.service_id, 0)
        if len(self._runs) >= settings.max_calls or service_runs >= (offered.max_calls or settings.max_calls):
            return Failure("busy", f"{service_runs} calls to this service are in flight here", retry_after_s=1.0)
        if self._lost and lane in self._lost:
            return Failure("lane_lost", "this provider lost that lane's history: open a new lane")
        if account is None and self._lane_counts[lane.gateway] >= MAX_LANES:
            return Failure("bad_order", f"this provider has {MAX_LANES} lanes with this gateway already")
        refusal = self._seen.take(order.call_id, order.deadline_ms, now_ms)
        if refusal is not None:
            return refusal
        refusal = self._watch.credit(link.gateway).reserve(order.max_cost)
        if refusal is not None:
            self._seen.forget(order.call_id)
            return refusal
        return account or self._open_lane(lane, link)

    def _start(
        self, link: GatewayLink, request: CallRequest, taken: Taken, account: LaneAccount, *, is_stream: bool
    ) -> None:
        def end(run: Run, receipt: Receipt | None) -> None:
            del self._runs[order.call_id]
            self._runs_by_service[order.service_id] -= 1
            self._settle(link, request, taken, account, receipt, run.evidence)

        order = request.order
        run = Run(link, request, taken, is_stream=is_stream, on_end=end, now_ms=self._parts.now_ms)
        self._runs[order.call_id] = run
        self._runs_by_service[order.service_id] += 1
        self._keep(run.start())

    def _settle(
        self,
        link: GatewayLink,
        request: CallRequest,
        taken: Taken,
        account: LaneAccount,
        receipt: Receipt | None,
        evidence: bytes = b"",
    ) -> None:
        order = request.order
        self._watch.credit(order.gateway).settle(order.max_cost, receipt.cost if receipt else 0)
        if receipt is None:
            self._seen.forget(order.call_id)
        else:
            account.add(Leaf(order, taken.order_hash, request.tag, receipt, receipt.struct_hash(), link, evidence))

    def _open_lane(self, lane: Lane, link: GatewayLink) -> LaneAccount:
        account = LaneAccount(self._tools, LaneState(lane=lane), is_new=True)
        self._add_lane(lane, account)
        account.feed.attach(link, 0)
        self._keep(asyncio.create_task(self._watch_lane(lane), name="watch-lane"))
        return account

    def _tell_offers(self) -> None:
        for link in self._links:
            link.update_offers(self.offers)

    def _add_lane(self, lane: Lane, account: LaneAccount) -> None:
        self._lanes[lane] = account
        self._lane_counts[lane.gateway] += 1

    async def _watch_lane(self, lane: Lane) -> None:
        try:
            await self._watch.add_lanes([lane.key])
        except SteelyardError as error:  # the watch tries again with its next look
            _log.warning("lane_unwatched", lane=lane.key.hex(), reason=error.message)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
