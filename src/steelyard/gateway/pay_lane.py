"""One lane as its gateway keeps it: receipts that wait for their batch, what was batched, what was signed.

Pure state; payer.py writes it to disk and sends what it signs.

Law: docs/spec/money.md, section 3.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from steelyard.link.port import ProviderLink
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher
from steelyard.protocol.messages import Voucher

HEADS_KEPT = 256

CLAIMING, CLOSED = ":claiming", ":closed"
"""What follows the process's name in the database for a lane of that kind; no process's own name has a colon."""


class KnownReceipt(msgspec.Struct, frozen=True):
    """A receipt that was checked against its call; made once a call."""

    order_hash: bytes
    receipt_hash: bytes
    cost_nano: int


@dataclass(slots=True, eq=False)
class PayLane:
    """A lane's state in this process.

    Attributes:
        key: its 32-byte key. state: what was batched. signed_*: the last voucher's terms, on disk.
        receipts: by call id, of calls that no batch holds yet. unsigned_since_s: when the oldest unsigned batch came.
        heads: the last ones, newest last: a batch that comes again is known by its head.
        is_closed: never used for new orders: this process did not open it, or its node lost its history.
        is_claiming: its history is still coming: nothing is signed for it yet.
    """

    key: bytes
    state: LaneState
    signed_nano: int = 0
    signed_count: int = 0
    voucher: SignedVoucher | None = None
    link: ProviderLink | None = None
    receipts: dict[bytes, KnownReceipt] = field(default_factory=dict)
    unsigned_since_s: float | None = None
    heads: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    is_closed: bool = False
    is_claiming: bool = False

    @property
    def is_used(self) -> bool:
        """Whether a call on it was ever billed."""
        return self.state.seq > 0 or self.signed_count > 0 or bool(self.receipts)

    def add_receipt(self, call_id: bytes, order_hash: bytes, receipt_hash: bytes, cost_nano: int) -> None:
        """Note a checked receipt: a batch with its call will come."""
        self.receipts[call_id] = KnownReceipt(order_hash, receipt_hash, cost_nano)

    def advance(self, state: LaneState, call_ids: list[bytes] | tuple[bytes, ...], now_s: float) -> None:
        """Take over the state after a batch, and forget the receipts that it holds."""
        self.state = state
        self.heads[state.head] = state.seq
        if len(self.heads) > HEADS_KEPT:
            self.heads.popitem(last=False)
        for call_id in call_ids:
            self.receipts.pop(call_id, None)
        if self.unsigned_since_s is None:
            self.unsigned_since_s = now_s

    def is_due(self, now_s: float, count: int, nano: int, age_s: float) -> bool:
        """Say whether a voucher is due: so many calls, so much value, or so long since the first unsigned batch."""
        if self.unsigned_since_s is None or self.is_claiming:
            return False
        return (
            self.state.count - self.signed_count >= count
            or self.state.cumulative - self.signed_nano >= nano
            or now_s - self.unsigned_since_s >= age_s
        )

    def is_repeat(self, signed: SignedBatch, head: bytes) -> bool:
        """Say whether a batch is one that is in the lane already; only the last heads are remembered."""
        return signed.batch.seq <= self.state.seq and (head in self.heads or not self._remembers(signed.batch.seq))

    def is_off_path(self, signed: SignedBatch) -> bool:
        """Say whether a batch that is no repeat can't come after the lane's last: it may be half of a lie."""
        batch, state = signed.batch, self.state
        is_next = batch.seq == state.seq + 1
        return (
            batch.seq <= state.seq or batch.cumulative < state.cumulative or (is_next and batch.prev_head != state.head)
        )

    def note_signed(self, signed: SignedVoucher, now_s: float) -> None:
        """Note a voucher that is on disk; batches that came meanwhile wait for the next."""
        voucher: Voucher = signed.voucher
        self.voucher = signed
        self.signed_nano, self.signed_count = voucher.cumulative, voucher.count
        self.unsigned_since_s = None if self.state.count == voucher.count else now_s

    def _remembers(self, seq: int) -> bool:
        return bool(self.heads) and seq >= next(iter(self.heads.values()))
