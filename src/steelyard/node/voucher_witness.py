"""What gateways sign against themselves: vouchers that were refused, held against those that are kept.

1. Nothing here runs for a voucher that is taken, unless one of its lane was refused before.
2. A refused voucher that its gateway signed is kept, a few per lane: one that comes later may be the other half.
3. Only what `protocol.lies` finds is a lie. A gateway that lost its database, or sends an old voucher again, told none.

Law: docs/spec/checking.md, section 13.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from steelyard.chain.fault_desk import FaultDesk
from steelyard.protocol.lanes import SignedVoucher
from steelyard.protocol.lies import find_two_vouchers, is_voucher_signed
from steelyard.protocol.signing import Domain
from steelyard.storage.database import Database
from steelyard.storage.lies import keep_half, load_halves
from steelyard.storage.node_ledger import load_vouchers_near

MAX_TOTAL = 2**63 - 1
"""What every database holds; a voucher beyond it is never kept."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SignedVoucher).decode


class VoucherWitness:
    """Looks at what the lanes refused; `refused` are the refused vouchers by lane key, mostly none.

    Args:
        desk: where lies go. now_ms: Unix milliseconds.
    """

    def __init__(self, database: Database, domain: Domain, desk: FaultDesk, now_ms: Callable[[], int]) -> None:
        self.refused: dict[bytes, list[SignedVoucher]] = {}
        self._database = database
        self._domain = domain
        self._desk = desk
        self._now_ms = now_ms

    async def restore(self) -> None:
        """Read the refused vouchers back."""
        for lane_key, content in await load_halves(self._database):
            self.refused.setdefault(lane_key, []).append(_decode(content))

    async def look(self, signed: SignedVoucher) -> None:
        """Hold a refused voucher (untrusted) for a lane of ours against what its gateway signed before."""
        voucher = signed.voucher
        if max(voucher.cumulative, voucher.count) > MAX_TOTAL or not is_voucher_signed(signed, self._domain):
            return
        lane_key = voucher.lane.key
        near = await load_vouchers_near(self._database, voucher)
        is_found = False
        for other in [*near, *self.refused.get(lane_key, [])]:
            lie = find_two_vouchers(other, signed, self._domain)
            if lie is not None:
                is_found = True
                await self._desk.keep(lie)
        if not is_found and all(other.voucher != voucher for other in near):
            half_id = self._domain.digest(voucher.struct_hash())
            if await keep_half(self._database, half_id, lane_key, _encode(signed), now_ms=self._now_ms()):
                self.refused.setdefault(lane_key, []).append(signed)

    async def compare(self, signed: SignedVoucher) -> None:
        """Hold a voucher that was taken against those of its lane that were refused."""
        for other in self.refused.get(signed.voucher.lane.key, ()):
            lie = find_two_vouchers(other, signed, self._domain)
            if lie is not None:
                await self._desk.keep(lie)
