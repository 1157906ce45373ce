"""No two messages of an honest history contradict each other, however often and in whatever order they are sent; of a
dishonest one exactly those do that the contract takes."""

from __future__ import annotations

import asyncio
from itertools import combinations, product
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.databases import open_test_database
from tests.validator_world import DOMAIN as FEED_DOMAIN
from tests.validator_world import GATEWAYS as FEED_GATEWAYS
from tests.validator_world import LaneMaker

from steelyard.chain.fault_desk import FaultDesk
from steelyard.protocol.hashing import keccak
from steelyard.protocol.lanes import LaneState, SignedBatch, SignedVoucher, extend_lane, sign_voucher
from steelyard.protocol.lies import PlacedReceipt, find_two_batches, find_two_receipts, find_two_vouchers
from steelyard.protocol.messages import Lane, Receipt
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.storage.lies import load_lies
from steelyard.validator.feed_witness import FeedWitness

DOMAIN = Domain(31415, b"\x05" * 32)
GATEWAYS = [SigningKey(bytes([number]) * 32) for number in (1, 2)]
PROVIDERS = [SigningKey(bytes([number]) * 32) for number in (3, 4)]

LANES = st.tuples(st.sampled_from(GATEWAYS), st.sampled_from(PROVIDERS), st.integers(1, 2))
BATCHES = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=3), max_size=4)
HISTORIES = st.dictionaries(LANES, BATCHES, min_size=1, max_size=3)
History = tuple[list[SignedBatch], list[PlacedReceipt], list[SignedVoucher]]


def play(lanes: dict[Any, list[list[int]]]) -> History:
    """Sign what honest providers and gateways sign: batches of receipts by cost, a voucher after each of them."""
    batches, receipts, vouchers = [], [], []
    for (gateway, provider, lane_id), costs in lanes.items():
        state = LaneState(lane=Lane(gateway.account, provider.account, b"\x07" * 32, lane_id))
        for batch in costs:
            some = [_receipt(state, index, cost) for index, cost in enumerate(batch)]
            leaves = tuple(receipt.struct_hash() for receipt in some)
            state, signed = extend_lane(state, leaves, batch, provider, DOMAIN)
            batches.append(signed)
            receipts += [PlacedReceipt(signed, leaves, receipt) for receipt in some]
            vouchers.append(sign_voucher(state, gateway, DOMAIN))
    return batches, receipts, vouchers


def _receipt(state: LaneState, index: int, cost: int) -> Receipt:
    order = keccak(state.lane.key + bytes([state.seq, index]))
    return Receipt(order, 0, keccak(order), b"\x00" * 32, 1, 1, cost, 1, 2, 0)


@given(HISTORIES)
def test_honest_history_holds_no_lie(lanes: dict[Any, list[list[int]]]) -> None:
    """Every pair, both ways round, each message with itself too: what is sent again accuses nobody."""
    batches, receipts, vouchers = play(lanes)
    assert not any(find_two_batches(one, other, DOMAIN) for one, other in product(batches, batches))
    assert not any(find_two_receipts(one, other, DOMAIN) for one, other in product(receipts, receipts))
    assert not any(find_two_vouchers(one, other, DOMAIN) for one, other in product(vouchers, vouchers))


@given(HISTORIES, st.data())
def test_batch_signed_again_otherwise_contradicts_the_one_of_its_number(
    lanes: dict[Any, list[list[int]]], data: st.DataObject
) -> None:
    """Whatever field differs; batches of other lanes contradict it never."""
    batches, _, _ = play(lanes)
    if not batches:
        return
    signed = data.draw(st.sampled_from(batches))
    change = data.draw(st.sampled_from(["prev_head", "receipts_root", "count", "cumulative"]))
    value = getattr(signed.batch, change)
    batch = msgspec.structs.replace(signed.batch, **{change: keccak(value) if isinstance(value, bytes) else value + 1})
    key = next(key for key in PROVIDERS if key.account == batch.provider)
    other = SignedBatch(batch, key.sign(DOMAIN.digest(batch.struct_hash())))
    assert find_two_batches(signed, other, DOMAIN) is not None
    found = [lie for lie in (find_two_batches(each, other, DOMAIN) for each in batches) if lie is not None]
    assert {lie.id for lie in found} == {found[0].id}
    assert all(lie.one.batch.lane == batch.lane == lie.other.batch.lane for lie in found)


@given(HISTORIES, st.data())
def test_voucher_below_what_was_signed_contradicts_it(lanes: dict[Any, list[list[int]]], data: st.DataObject) -> None:
    """A gateway that signs one count again with another total, or more calls for less, is seen."""
    _, _, vouchers = play(lanes)
    if not vouchers:
        return
    signed = data.draw(st.sampled_from(vouchers))
    more = data.draw(st.integers(0, 3))
    voucher = msgspec.structs.replace(
        signed.voucher, count=signed.voucher.count + more, cumulative=signed.voucher.cumulative + 1, head=keccak(b"x")
    )
    if more:
        voucher = msgspec.structs.replace(voucher, cumulative=max(signed.voucher.cumulative - 1, 0))
    key = next(key for key in GATEWAYS if key.account == voucher.gateway)
    other = SignedVoucher(voucher, key.sign(DOMAIN.digest(voucher.struct_hash())))
    is_lie = not more or voucher.cumulative < signed.voucher.cumulative
    assert (find_two_vouchers(signed, other, DOMAIN) is not None) == is_lie
    assert not any(
        find_two_vouchers(one, two, DOMAIN) for one, two in combinations(vouchers, 2) if other not in (one, two)
    )


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_feeds_shown_in_any_order_and_again_hold_no_lie(lengths: list[int], random: Any) -> None:
    """Whatever is shown twice, late, in parts or without its calls, by whichever gateway: the desk keeps nothing."""
    lanes = [LaneMaker(gateway=FEED_GATEWAYS[number % 2], lane_id=number) for number, _ in enumerate(lengths)]
    shown = [lane.add(f"{n}", "x") for lane, length in zip(lanes, lengths, strict=True) for n in range(length)]
    shown = [*shown, *shown, *(msgspec.structs.replace(batch, calls=()) for batch in shown)]
    random.shuffle(shown)

    async def story() -> None:
        async with open_test_database("sqlite") as database:
            witness = FeedWitness(database, FEED_DOMAIN, FaultDesk(database, None))
            await witness.see(shown)
            assert await load_lies(database) == []

    asyncio.run(story())
