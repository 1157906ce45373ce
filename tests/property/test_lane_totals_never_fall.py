"""Whatever is sent along a lane, totals never fall, and both sides agree on every batch they accepted."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steelyard.errors import BadMessage, PeerError
from steelyard.protocol.lanes import (
    LaneState,
    SignedBatch,
    SignedVoucher,
    accept_voucher,
    extend_lane,
    follow_lane,
    sign_voucher,
)
from steelyard.protocol.messages import Lane, Voucher
from steelyard.protocol.signing import Domain, SigningKey

GATEWAY, PROVIDER, STRANGER = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3))
DOMAIN = Domain(31415, b"\x09" * 32)
LANE = Lane(GATEWAY.account, PROVIDER.account, b"\x04" * 32, 5)

receipts = st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 10**12)), min_size=1, max_size=64)


class LaneMachine(RuleBasedStateMachine):
    """A provider and a gateway over a wire that loses, repeats and forges."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = LaneState(lane=LANE)
        self.gateway = LaneState(lane=LANE)
        self.heads: dict[bytes, tuple[int, int]] = {}
        self.sent: list[tuple[SignedBatch, list[bytes], list[int]]] = []
        self.signed: list[SignedVoucher] = []
        self.held: Voucher | None = None
        self.served = 0

    @rule(items=receipts)
    def provider_extends(self, items: list[tuple[bytes, int]]) -> None:
        ids, costs = [i for i, _ in items], [c for _, c in items]
        self.provider, signed = extend_lane(self.provider, ids, costs, PROVIDER, DOMAIN)
        self.heads[self.provider.head] = (self.provider.cumulative, self.provider.count)
        self.sent.append((signed, ids, costs))
        self.served += sum(costs)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def gateway_sees_any_batch(self, data: st.DataObject) -> None:
        signed, ids, costs = data.draw(st.sampled_from(self.sent))
        is_next = signed.batch.seq == self.gateway.seq + 1
        try:
            self.gateway = follow_lane(self.gateway, signed, ids, costs, DOMAIN)
            assert is_next
        except PeerError:
            assert not is_next

    @precondition(lambda self: self.sent)
    @rule(
        data=st.data(), field=st.sampled_from(["seq", "count", "cumulative", "lane_id", "receipts_root", "prev_head"])
    )
    def gateway_refuses_a_forged_batch(self, data: st.DataObject, field: str) -> None:
        signed, ids, costs = data.draw(st.sampled_from(self.sent))
        value = getattr(signed.batch, field)
        forged = msgspec.structs.replace(
            signed.batch, **{field: value + 1 if isinstance(value, int) else bytes((value[0] ^ 1,)) + value[1:]}
        )
        resigned = SignedBatch(forged, PROVIDER.sign(DOMAIN.digest(forged.struct_hash())))
        with pytest.raises(PeerError):
            follow_lane(self.gateway, resigned, ids, costs, DOMAIN)

    @rule()
    def gateway_signs(self) -> None:
        self.signed.append(sign_voucher(self.gateway, GATEWAY, DOMAIN))

    @precondition(lambda self: self.signed)
    @rule(data=st.data())
    def provider_gets_any_voucher(self, data: st.DataObject) -> None:
        signed = data.draw(st.sampled_from(self.signed))
        before = self.held.cumulative if self.held else 0
        try:
            self.held = accept_voucher(self.held, signed, LANE, self.heads, DOMAIN)
        except PeerError:
            assert (
                signed.voucher.cumulative < before
                or signed.voucher.count == 0
                or signed.voucher.count < self.held.count
            )  # type: ignore[union-attr]

    @invariant()
    def totals_are_ordered(self) -> None:
        held = self.held.cumulative if self.held else 0
        assert held <= self.gateway.cumulative <= self.provider.cumulative == self.served
        totals = [signed.voucher.cumulative for signed in self.signed]
        assert totals == sorted(totals)


TestLaneMachine = LaneMachine.TestCase


@given(items=receipts, stranger=st.booleans())
def test_batch_signed_by_another_is_refused(items: list[tuple[bytes, int]], stranger: bool) -> None:
    """A batch that anyone but the lane's provider signed is refused, with right contents too."""
    ids, costs = [i for i, _ in items], [c for _, c in items]
    state = LaneState(lane=LANE)
    _, signed = extend_lane(state, ids, costs, PROVIDER, DOMAIN)
    digest = DOMAIN.digest(signed.batch.struct_hash())
    forged = SignedBatch(signed.batch, (STRANGER if stranger else GATEWAY).sign(digest))
    with pytest.raises(PeerError):
        follow_lane(state, forged, ids, costs, DOMAIN)


@given(cumulative=st.integers(0, 10**15), count=st.integers(0, 1000))
def test_voucher_for_a_head_never_sent_is_refused(cumulative: int, count: int) -> None:
    """A voucher must name a head that the provider sent, with that head's total and count."""
    state, _ = extend_lane(LaneState(lane=LANE), [b"\x01" * 32], [7], PROVIDER, DOMAIN)
    voucher = Voucher(*msgspec.structs.astuple(LANE), cumulative=cumulative, count=count, head=state.head)
    signed = SignedVoucher(voucher, GATEWAY.sign(DOMAIN.digest(voucher.struct_hash())))
    heads = {state.head: (state.cumulative, state.count)}
    if (cumulative, count) == (7, 1):
        assert accept_voucher(None, signed, LANE, heads, DOMAIN) == voucher
    else:
        with pytest.raises((PeerError, BadMessage)):
            accept_voucher(None, signed, LANE, heads, DOMAIN)
