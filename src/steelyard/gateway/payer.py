"""Pays providers: follows their batches lane by lane, and signs vouchers for what it followed.

1. One lane for each (provider, service), opened by this process and found again by its name after a restart.
2. A batch is taken only if every receipt in it is one that we checked, or one whose order carries our own tag; each
   order once, ever. An order in flight is nobody's to bill: its call ends first, by the link.
3. A voucher is signed by count, value or age, written to disk, and only then sent. No total is ever lower than before.
4. The history of a lane that we lost is followed from its first batch, and then paid like any other.
5. What is refused, or comes again, is shown to the witness: it may be half of a lie.

Law: docs/spec/money.md, sections 3 and 6.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from steelyard.errors import BadMessage, BadTotal, NotFound, PeerError, SteelyardError
from steelyard.gateway.batch_witness import BatchWitness
from steelyard.gateway.metrics import Metrics
from steelyard.gateway.pay_lane import CLAIMING, CLOSED, KnownReceipt, PayLane
from steelyard.gateway.receipt_check import check_entry
from steelyard.gateway.settings import GatewaySettings
from steelyard.gateway.settlement import FAILED, Settlement
from steelyard.link.port import LaneClaim, LeafEntry, ProviderLink
from steelyard.protocol.lanes import LaneState, SignedBatch, follow_lane, sign_voucher
from steelyard.protocol.messages import TAG_PURPOSE, Lane
from steelyard.protocol.signing import Domain, SigningKey, require_signer
from steelyard.storage.batch_feed import note_calls
from steelyard.storage.calls import CallRow, known_orders
from steelyard.storage.database import Database
from steelyard.storage.lanes import (
    find_place,
    give_lane,
    last_voucher,
    load_batches,
    load_lanes,
    open_lane,
    record_batch,
    record_voucher,
)
from steelyard.storage.operations import Operation
from steelyard.storage.writer import GroupWriter

_log = structlog.get_logger("steelyard.gateway")

MAX_CLAIMED = 64
"""Lanes of one provider that are there to be paid alone; further claims are passed over."""


class Recoverer(Protocol):
    """Accounts for calls that came back by their tags alone."""

    async def prepare(self, entries: Sequence[LeafEntry]) -> None:
        """Get ready to take these entries, which may still be refused."""

    def take(self, entry: LeafEntry, order_hash: bytes, receipt_hash: bytes, known: CallRow | None) -> None:
        """Account for one; `known`: its row, if the call was given up as lost."""


class Payer:
    """All lanes of one gateway process.

    Args:
        key: the gateway's. recovery: accounts for calls that came back by their tags alone. witness: sees lies.
        clock: monotonic seconds. clock_ms: Unix milliseconds. draw: random bytes, for lane ids.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        database: Database,
        writer: GroupWriter,
        key: SigningKey,
        domain: Domain,
        settlement: Settlement,
        metrics: Metrics,
        recovery: Recoverer,
        witness: BatchWitness,
        *,
        draw: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.tag_secret = key.derive_secret(TAG_PURPOSE)
        self.lanes: dict[Lane, PayLane] = {}
        self._settings = settings
        self._database = database
        self._writer = writer
        self._key = key
        self._domain = domain
        self._settlement = settlement
        self._metrics = metrics
        self._recovery = recovery
        self._witness = witness
        self._draw = draw

    async def restore(self) -> None:
        """Load this process's lanes with the last voucher of each; receipts without a batch come again with theirs."""
        process = self._settings.process
        found = [await load_lanes(self._database, process=process + kind) for kind in ("", CLAIMING, CLOSED)]
        for known in (lane for lanes in found for lane in lanes):
            if known.state.lane.gateway != self._key.account:
                continue
            lane = PayLane(known.state.lane.key, known.state, known.signed_cumulative_nano, known.signed_count)
            lane.is_closed, lane.is_claiming = known.process != process, known.process == process + CLAIMING
            lane.voucher = await last_voucher(self._database, known.state.lane)
            for stored in await load_batches(
                self._database, known.state.lane, after_seq=max(known.state.seq - 64, 0), limit=64
            ):
                lane.heads[stored.head] = stored.signed.batch.seq
            if lane.state.count > lane.signed_count:
                lane.unsigned_since_s = self._settlement.clock()
            self.lanes[known.state.lane] = lane

    @property
    def awaits_batches(self) -> bool:
        """Whether a linked provider still owes a batch for receipts that we have."""
        return any(lane.receipts and lane.link is not None and lane.link.is_up for lane in self.lanes.values())

    async def open_lanes(self, provider: bytes, service_ids: Sequence[bytes]) -> None:
        """Make sure that there is a lane for each service of a provider; a new one is on disk before it is used."""
        for service_id in service_ids:
            if self._own_lane(provider, service_id) is None:
                lane = Lane(self._key.account, provider, service_id, int.from_bytes(self._draw(8), "big"))
                await self._writer.submit_flushed(
                    open_lane(lane, self._settings.process, now_ms=self._settlement.clock_ms())
                )
                if self._own_lane(provider, service_id) is None:
                    self.lanes[lane] = PayLane(lane.key, LaneState(lane=lane))

    def retire(self, lane: PayLane) -> bool:
        """Use a lane for no new order, because its provider lost its history; False if it is retired, or never used.

        A lane that was never used has no history to lose: whoever says so gets no further lane for it.
        """
        if lane.is_closed or not lane.is_used:
            return False
        lane.is_closed = True
        self._settlement.submit(give_lane(lane.state.lane, self._settings.process + CLOSED))
        _log.warning("lane_retired", provider=lane.state.lane.provider.hex(), nano=lane.state.cumulative)
        return True

    def lane_for(self, provider: bytes, service_id: bytes) -> PayLane:
        """Return the lane for new orders; `open_lanes` came before."""
        lane = self._own_lane(provider, service_id)
        if lane is None:
            raise NotFound(f"no lane with 0x{provider.hex()} for 0x{service_id.hex()}")
        return lane

    def known_lanes(self, provider: bytes) -> list[LaneState]:
        """Return how far each lane with a provider is known."""
        return [lane.state for key, lane in self.lanes.items() if key.provider == provider and not lane.is_claiming]

    def attach(self, link: ProviderLink) -> None:
        """Send a provider's vouchers over its new link: the last of each lane, in case it never arrived."""
        for key, lane in self.lanes.items():
            if key.provider == link.provider and lane.link is not link:
                lane.link = link
                if lane.voucher is not None:
                    link.send_voucher(lane.voucher)

    def detach(self, link: ProviderLink) -> None:
        """Forget a link that is down; what is signed meanwhile is sent over the next."""
        for lane in self.lanes.values():
            if lane.link is link and not link.is_up:
                lane.link = None

    async def take_batch(
        self, link: ProviderLink, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> None:
        """Follow a batch that a provider sent, or ask for what is missing.

        Raises:
            PeerError: it breaks the lane's rules.
        """
        if self._settlement.is_behind:
            await self._settlement.flush()
        lane = self.lanes.get(signed.batch.lane)
        if lane is None:
            self._check_parties(link, signed.batch.lane)
            await self._witness.look(signed, entries, is_ours=False)
            return  # another process's, or one whose claim comes
        head = self._domain.digest(signed.batch.struct_hash())
        if lane.is_repeat(signed, head):
            if head not in lane.heads:
                await self._witness.look(signed, entries)
            return
        if lane.is_off_path(signed):
            await self._witness.look(signed, entries)
        if signed.batch.seq > lane.state.seq + 1 or not await self._follow(lane, signed, call_ids, entries):
            link.request_batches(lane.state)

    async def take_claim(self, link: ProviderLink, claim: LaneClaim) -> None:
        """Follow a part of a lane's history from its first batch on; the last part lets vouchers be signed.

        Raises:
            PeerError: it breaks the lane's rules, or names a voucher of ours above what it proves.
        """
        if not claim.batches:
            raise BadMessage("a claim without a batch")
        if self._settlement.is_behind:
            await self._settlement.flush()
        lane = self.lanes.get(claim.lane) or await self._adopt(link, claim.lane)
        history = list(zip(claim.batches, claim.entries, strict=True))
        known_seq = 0 if lane is None else lane.state.seq
        await self._witness.look_back(
            claim.lane, [part for part in history if lane is None or part[0].batch.seq <= known_seq]
        )
        if lane is None:
            return
        for signed, entries in history:
            if signed.batch.seq > lane.state.seq:
                call_ids = [entry.order.call_id for entry in entries]
                if not await self._follow(lane, signed, call_ids, entries):
                    raise BadTotal(f"the claim's batch {signed.batch.seq} lacks receipts of its calls")
                lane = self.lanes[claim.lane]
        if claim.is_last:
            self._end_claim(lane, claim)

    async def _adopt(self, link: ProviderLink, key: Lane) -> PayLane | None:
        """A lane for a claim; it becomes one of ours with the first batch that proves it."""
        self._check_parties(link, key)
        for known in await load_lanes(self._database, provider=key.provider):
            if known.state.lane == key:
                return None  # another process of this gateway owns it, and pays it
        if sum(lane.is_closed for other, lane in self.lanes.items() if other.provider == key.provider) >= MAX_CLAIMED:
            _log.error(
                "claim_passed_over", provider=key.provider.hex(), reason=f"{MAX_CLAIMED} lanes are claimed already"
            )
            return None
        return PayLane(key.key, LaneState(lane=key), link=link, is_closed=True, is_claiming=True)

    def _check_parties(self, link: ProviderLink, key: Lane) -> None:
        if key.gateway != self._key.account or key.provider != link.provider:
            raise BadTotal(f"the lane is between 0x{key.gateway.hex()} and 0x{key.provider.hex()}, not between us")

    def _end_claim(self, lane: PayLane, claim: LaneClaim) -> None:
        shown = claim.voucher
        if shown is not None:
            if shown.voucher.lane != claim.lane:
                raise BadTotal("the claim shows a voucher of another lane")
            require_signer(
                self._domain.digest(shown.voucher.struct_hash()), shown.signature, self._key.account, "claimed voucher"
            )
            if shown.voucher.cumulative > lane.state.cumulative or shown.voucher.count > lane.state.count:
                raise BadTotal(
                    f"the claim shows our voucher for {shown.voucher.cumulative} nano, and proves "
                    f"{lane.state.cumulative}"
                )
        if lane.is_claiming:
            self._settlement.submit(give_lane(claim.lane, self._settings.process + CLOSED))
        lane.is_claiming = False
        _log.info(
            "lane_claimed", provider=lane.state.lane.provider.hex(), batches=lane.state.seq, nano=lane.state.cumulative
        )

    async def sign_due(self, *, is_last: bool = False) -> int:
        """Sign, write and send the vouchers that are due (at the end: all); return how many."""
        now_s = self._settlement.clock()
        terms = self._settings
        due = [
            lane
            for lane in self.lanes.values()
            if lane.is_due(now_s, terms.voucher_count, terms.voucher_nano, 0.0 if is_last else terms.voucher_age_s)
        ]
        if due:
            results = await asyncio.gather(*map(self._sign, due), return_exceptions=True)
            for result in results:
                if isinstance(result, SteelyardError):
                    _log.error("voucher_not_written", code=result.code, reason=result.message)
                elif isinstance(result, BaseException):
                    raise result
        return len(due)

    async def _sign(self, lane: PayLane) -> None:
        signed = sign_voucher(lane.state, self._key, self._domain)
        await self._writer.submit_flushed(record_voucher(signed, now_ms=self._settlement.clock_ms()))
        lane.note_signed(signed, self._settlement.clock())
        self._metrics.vouchers += 1
        if lane.link is not None:
            lane.link.send_voucher(signed)

    async def _follow(
        self, lane: PayLane, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> bool:
        """Take a batch into its lane; False if calls are unknown and came without their entries."""
        try:
            is_taken = await self._take(lane, signed, call_ids, entries)
        except PeerError:
            await self._witness.look(signed, entries, is_ours=lane.state.lane in self.lanes)
            raise
        if lane.key in self._witness.refused:
            await self._witness.compare(signed)
        return is_taken

    async def _take(
        self, lane: PayLane, signed: SignedBatch, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> bool:
        if len(set(call_ids)) != len(call_ids):
            raise BadTotal("a batch names a call twice")
        found = [lane.receipts.get(call_id) for call_id in call_ids]
        known = [receipt for receipt in found if receipt is not None]
        strangers: list[tuple[LeafEntry, KnownReceipt]] = []
        rows: dict[bytes, CallRow] = {}
        if len(known) != len(found):
            if not entries:
                return False
            strangers = self._read_entries(lane, call_ids, entries)
            filled = dict(zip([entry.order.call_id for entry, _ in strangers], strangers, strict=True))
            known = [
                receipt if receipt is not None else filled[call_id][1]
                for receipt, call_id in zip(found, call_ids, strict=True)
            ]
            self._refuse_live(lane, strangers)
            before = lane.state
            rows = await self._refuse_repeats(strangers)
            await self._recovery.prepare([entry for entry, _ in strangers])
            if lane.state is not before:
                return True  # a newer link of this provider brought it meanwhile
            self._refuse_live(lane, strangers)
        if self.lanes.get(lane.state.lane, lane) is not lane:
            return True  # the same claim came by a newer link meanwhile
        receipts = [receipt.receipt_hash for receipt in known]
        state = follow_lane(lane.state, signed, receipts, [receipt.cost_nano for receipt in known], self._domain)
        if lane.state.lane not in self.lanes:
            self.lanes[lane.state.lane] = lane
            process = self._settings.process + CLAIMING
            self._settlement.submit(open_lane(lane.state.lane, process, now_ms=self._settlement.clock_ms()))
        for entry, receipt in strangers:
            if self._settlement.settle_late(receipt.order_hash, entry.receipt, receipt.receipt_hash):
                continue
            row = rows.get(receipt.order_hash)
            if row is None or row.receipt_hash is None:
                self._recovery.take(entry, receipt.order_hash, receipt.receipt_hash, row)
        write = record_batch(state, signed, receipts, now_ms=self._settlement.clock_ms())
        noted = note_calls(lane.state.lane.key, signed.batch.seq, call_ids)
        self._settlement.submit(Operation((*write.steps, noted)))
        lane.advance(state, tuple(call_ids), self._settlement.clock())
        self._metrics.batches += 1
        return True

    def _read_entries(
        self, lane: PayLane, call_ids: Sequence[bytes], entries: Sequence[LeafEntry]
    ) -> list[tuple[LeafEntry, KnownReceipt]]:
        """The entries of calls that we don't remember, each proven to be our own order by its tag."""
        if len(entries) != len(call_ids):
            raise BadTotal(f"a batch of {len(call_ids)} calls came with {len(entries)} entries")
        strangers = []
        for call_id, entry in zip(call_ids, entries, strict=True):
            if call_id in lane.receipts:
                continue
            order_hash, receipt_hash = check_entry(self.tag_secret, self._key.account, lane.state.lane.provider, entry)
            if entry.order.call_id != call_id or entry.order.lane != lane.state.lane:
                raise BadTotal(f"the entry of call {call_id.hex()} is for another call or lane")
            strangers.append((entry, KnownReceipt(order_hash, receipt_hash, entry.receipt.cost)))
        return strangers

    def _refuse_live(self, lane: PayLane, strangers: Sequence[tuple[LeafEntry, KnownReceipt]]) -> None:
        """Refuse orders that are in flight here, or whose own receipt came: a call's end comes before its batch."""
        for entry, receipt in strangers:
            if receipt.order_hash in self._settlement.open_orders or entry.order.call_id in lane.receipts:
                raise BadTotal(f"order 0x{receipt.order_hash.hex()} is in a batch, and its call has not ended")

    async def _refuse_repeats(self, strangers: Sequence[tuple[LeafEntry, KnownReceipt]]) -> dict[bytes, CallRow]:
        """Refuse orders that are in a batch already or ended otherwise; return the rows that there are."""
        await self._settlement.flush()
        asked = [(entry.order.call_id, receipt.order_hash) for entry, receipt in strangers]
        rows = await known_orders(self._database, asked)
        for entry, receipt in strangers:
            row = rows.get(receipt.order_hash)
            if row is None:
                continue
            place = await find_place(self._database, entry.order.lane, row)
            if place is not None:
                raise BadTotal(f"order 0x{receipt.order_hash.hex()} is in batch {place[0].signed.batch.seq} already")
            if row.receipt_hash not in (None, receipt.receipt_hash) or row.status.startswith(FAILED):
                raise BadTotal(f"order 0x{receipt.order_hash.hex()} ended otherwise: {row.status}")
        return rows

    def _own_lane(self, provider: bytes, service_id: bytes) -> PayLane | None:
        for key, lane in self.lanes.items():
            if key.provider == provider and key.service_id == service_id and not lane.is_closed:
                return lane
        return None
