"""The node: what links ask of a provider, put together from credit, runs, lanes and the redeemer.

1. An order is taken only if it checks, fits the credit window of its gateway, and there is room.
2. A call id or order that was seen is never run again.
3. A gateway that breaks a rule is refused by the link; the event is recorded.

Law: docs/spec/node.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from steelyard.errors import BadTotal, Forbidden, SteelyardError
from steelyard.link.port import CallRequest, Failure, GatewayLink, SignedOffer
from steelyard.node.chain_view import NodeChain
from steelyard.node.credit import Credit
from steelyard.node.lane_account import LaneAccount, LaneTools, Leaf
from steelyard.node.orders import NodeService, check_order
from steelyard.node.redeemer import Redeemer, RedeemerTools
from steelyard.node.resend import claim_lane, resend_batches
from steelyard.node.runner import Run
from steelyard.node.settings import NodeSettings
from steelyard.protocol.lanes import LaneState, SignedVoucher
from steelyard.protocol.messages import Lane, Receipt
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.storage.blobs import BlobStore
from steelyard.storage.database import Database
from steelyard.storage.events import PeerEvent, record_event
from steelyard.storage.node_ledger import known_heads, last_voucher, load_lanes
from steelyard.storage.writer import GroupWriter

SEEN_ORDERS = 100_000
_log = structlog.get_logger("steelyard.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What a node is made of; `services` by service id, `on_crash` must stop the process."""

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


class Node:
    """A provider at work; a `NodeSide` for its links. `open` reads its lanes back, `close` ends its calls."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._tools = LaneTools(parts.key, parts.domain, parts.writer, parts.settings, parts.on_crash, parts.now_ms)
        self._lanes: dict[Lane, LaneAccount] = {}
        self._credits: dict[bytes, Credit] = {}
        self._runs: dict[bytes, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        redeemer_tools = RedeemerTools(
            parts.chain, parts.database, parts.writer, parts.blobs, parts.domain, parts.settings, parts.now_ms
        )
        self.redeemer = Redeemer(redeemer_tools, self._lanes.values)

    @property
    def offers(self) -> tuple[SignedOffer, ...]:
        """What links tell gateways."""
        return tuple(offered.signed_offer for offered in self._parts.services.values())

    async def open(self) -> None:
        """Read the lanes back and watch what the chain paid on them; raises ChainError."""
        for stored in await load_lanes(self._parts.database):
            lane = stored.state.lane
            heads = await known_heads(self._parts.database, lane.key)
            voucher = await last_voucher(self._parts.database, lane)
            account = LaneAccount(self._tools, stored.state, voucher=voucher, heads=heads)
            totals = await self._parts.chain.watch_lane(lane.key)
            if voucher is not None and voucher.voucher.cumulative > totals.paid_nano:
                account.voucher_since_ms = self._parts.now_ms()
            self._lanes[lane] = account
            self._credit(lane.gateway).served += stored.state.cumulative
        for gateway in self._credits:
            await self._parts.chain.watch_gateway(gateway)
        self._read_chain()

    async def run(self) -> None:
        """Follow the chain and redeem, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._parts.chain.run())
            group.create_task(self.redeemer.run())
            group.create_task(self._follow_chain())

    async def close(self) -> None:
        """Stop every run, and sign and send the last batches."""
        for run in list(self._runs.values()):
            run.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        await asyncio.gather(*(lane.flush() for lane in self._lanes.values()))

    # what links ask

    async def admit_gateway(self, gateway: bytes) -> None:
        """Let in who is in the registry as a gateway, with stake."""
        if not await self._parts.chain.is_gateway(gateway):
            raise Forbidden(f"0x{gateway.hex()} is no staked gateway of this deployment", code="unknown_gateway")
        await self._parts.chain.watch_gateway(gateway)
        self._credit(gateway)
        self._read_chain()

    def on_call(self, link: GatewayLink, request: CallRequest, *, is_stream: bool) -> None:
        """Take an order, or say why not."""
        order = request.order
        offered = self._parts.services.get(order.service_id)
        now_ms = self._parts.now_ms()
        taken = check_order(
            request,
            gateway=link.gateway,
            provider=self._parts.key.account,
            offered=offered,
            now_ms=now_ms,
            max_deadline_ms=now_ms + int(self._parts.settings.max_deadline_s * 1000),
        )
        if isinstance(taken, Failure) or offered is None:
            link.send_fail(order.call_id, taken if isinstance(taken, Failure) else Failure("not_served", "no service"))
            return
        refusal = self._refuse(link, order.call_id, taken.order_hash, order.max_cost)
        if refusal is not None:
            link.send_fail(order.call_id, refusal)
            return
        self._remember(taken.order_hash)
        run = Run(
            link,
            request,
            offered,
            taken,
            is_stream=is_stream,
            on_end=self._end_run,
            now_ms=self._parts.now_ms,
        )
        self._runs[order.call_id] = run
        task = run.start()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on_cancel(self, link: GatewayLink, call_id: bytes) -> None:
        """Stop a run that this link ordered."""
        run = self._runs.get(call_id)
        if run is not None and run.link is link:
            run.cancel()

    async def on_voucher(self, link: GatewayLink, signed: SignedVoucher) -> None:
        """Check and keep a voucher."""
        lane = signed.voucher.lane
        account = self._lanes.get(lane)
        if account is None or lane.gateway != link.gateway:
            raise BadTotal("the voucher is for a lane that this link doesn't have")
        await account.take_voucher(signed)

    async def on_link_up(self, link: GatewayLink, lanes: Sequence[LaneState]) -> None:
        """Send what the gateway hasn't seen, and claim what it has forgotten."""
        known = {state.lane: state for state in lanes}
        for lane, account in list(self._lanes.items()):
            if lane.gateway != link.gateway:
                continue
            state = known.get(lane)
            if state is not None:
                account.link = link
                if state.seq < account.state.seq:
                    await resend_batches(self._parts.database, link, lane, state.seq)
            elif account.promised < account.state.cumulative and not (account.link and account.link.is_up):
                await claim_lane(self._parts.database, link, lane)

    async def on_batches_wanted(self, link: GatewayLink, state: LaneState) -> None:
        """Send a lane's batches after a state again, whole."""
        if state.lane.gateway == link.gateway and state.lane in self._lanes:
            await resend_batches(self._parts.database, link, state.lane, state.seq)

    def on_link_down(self, link: GatewayLink, reason: str) -> None:
        """Nothing to do: the link dials again, and cancels what its session can't finish."""

    def on_peer_refused(self, account: bytes | None, error: SteelyardError) -> None:
        """Record that a gateway was refused."""
        peer = "0x" + account.hex() if account else "unproven"
        self._parts.writer.submit(record_event(PeerEvent(self._parts.now_ms(), peer, error.code, error.message)))

    # inside

    def _refuse(self, link: GatewayLink, call_id: bytes, order_hash: bytes, max_cost: int) -> Failure | None:
        if call_id in self._runs or order_hash in self._seen:
            return Failure("bad_order", "this order was taken before", is_retryable=False)
        if len(self._runs) >= self._parts.settings.max_calls:
            return Failure("busy", f"{len(self._runs)} calls are in flight here", retry_after_s=1.0)
        credit = self._credit(link.gateway)
        if not credit.reserve(max_cost):
            return Failure(
                "credit_window",
                f"{credit.exposure} of a credit window of {credit.window} nano stand open, the order adds {max_cost}",
                retry_after_s=1.0,
            )
        return None

    def _end_run(self, run: Run, receipt: Receipt | None) -> None:
        order = run.call.order
        del self._runs[order.call_id]
        self._credit(order.gateway).settle(order.max_cost, receipt.cost if receipt else 0)
        if receipt is None:
            return
        account = self._lane(order.lane)
        account.link = run.link
        account.add(Leaf(order, run.taken.order_hash, run.call.tag, receipt, receipt.struct_hash()))

    def _lane(self, lane: Lane) -> LaneAccount:
        account = self._lanes.get(lane)
        if account is None:
            account = self._lanes[lane] = LaneAccount(self._tools, LaneState(lane=lane), is_new=True)
            task = asyncio.get_running_loop().create_task(self._watch_lane(lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return account

    async def _watch_lane(self, lane: Lane) -> None:
        try:
            await self._parts.chain.watch_lane(lane.key)
        except SteelyardError as error:
            _log.warning("lane_unwatched", lane=lane.key.hex(), reason=error.message)

    def _credit(self, gateway: bytes) -> Credit:
        credit = self._credits.get(gateway)
        if credit is None:
            credit = self._credits[gateway] = Credit(self._parts.settings)
        return credit

    def _remember(self, order_hash: bytes) -> None:
        self._seen[order_hash] = None
        if len(self._seen) > SEEN_ORDERS:
            self._seen.popitem(last=False)

    async def _follow_chain(self) -> None:
        while True:
            await self._parts.chain.wait_change()
            self._read_chain()

    def _read_chain(self) -> None:
        for gateway, credit in self._credits.items():
            account = self._parts.chain.account(gateway)
            credit.is_trusted = account is not None and not account.is_withdrawing
            totals = [self._parts.chain.lane(lane.key) for lane in self._lanes if lane.gateway == gateway]
            credit.paid = sum(total.paid_nano for total in totals if total is not None)
