"""What a node meets, by hand: a chain that is a few dictionaries, and a gateway that follows lanes and pays.

`TwinChain` is a `node.chain_view.NodeChain`, `HandGateway` a `link.port.GatewaySide`; `node_world` puts them together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.link_world import DOMAIN, GATEWAY_KEY, PROVIDER_KEY, Call

from steelyard.chain.escrow import GatewayAccount, LaneTotals, RedeemedLane, Redemption, Skip, SkippedVoucher
from steelyard.chain.records import TxReceipt
from steelyard.chain.registry import StandingOffer
from steelyard.errors import BadMessage, BadTotal, ChainUnreachable, PeerError, SteelyardError
from steelyard.link.port import LaneClaim, LeafEntry, ProviderLink, SignedOffer
from steelyard.node.demand_watch import OpenDemand
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import service_id
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher, follow_lane, sign_voucher
from steelyard.protocol.messages import TAG_PURPOSE, Lane, Offer, Order, Receipt, content_hash, is_own_tag
from steelyard.protocol.pricing import NANO_PER_YARD, call_cost

SERVICE_NAME = "echo-1"
SERVICE_ID = service_id(SERVICE_NAME)
TAG_SECRET = GATEWAY_KEY.derive_secret(TAG_PURPOSE)


@dataclass(eq=False)
class TwinChain:
    """A `NodeChain` that is a few dictionaries; `pay` and `redeem` do what the escrow would."""

    deposit_nano: int = 100 * NANO_PER_YARD
    withdrawal_nano: int = 0
    stake_nano: int = 100_000 * NANO_PER_YARD
    is_silent: bool = False
    staked: set[bytes] = field(default_factory=lambda: {GATEWAY_KEY.account})
    totals: dict[bytes, LaneTotals] = field(default_factory=dict)
    watched: set[bytes] = field(default_factory=set)
    redeemed: list[tuple[tuple[SignedVoucher, ...], bytes]] = field(default_factory=list)
    offers: dict[bytes, StandingOffer] = field(default_factory=dict)
    skip: set[bytes] = field(default_factory=set)
    keep_s: int = 0
    demands: list[OpenDemand] = field(default_factory=list)
    served: dict[bytes, bytes] = field(default_factory=dict)
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

    async def fetch_offer(self, provider: bytes, service_id: bytes) -> StandingOffer | None:
        self._check()
        return self.offers.get(service_id)

    async def fetch_keep_s(self) -> int:
        return self.keep_s

    async def fetch_demands(self, provider: bytes) -> list[OpenDemand]:
        self._check()
        return list(self.demands)

    async def serve_evidence(self, demand_id: bytes, evidence: bytes) -> None:
        self._check()
        self.served[demand_id] = evidence
        self.demands = [item for item in self.demands if item.id != demand_id]

    async def fetch_stake(self, provider: bytes) -> int:
        self._check()
        return self.stake_nano

    def offer(self, offer: Offer) -> None:
        """Let an offer stand."""
        self.offers[offer.service_id] = StandingOffer(
            offer.provider, offer.service_id, offer.price_in, offer.price_out, offer.seq, 0, offer.grade, offer.manifest
        )

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
                skipped.append(SkippedVoucher(index, key, Skip.NO_ACCOUNT))
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
        has_gap = signed.batch.seq > state.seq + 1
        if has_gap or (not entries and any(call_id not in self.receipts for call_id in call_ids)):
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
