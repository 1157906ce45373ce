"""Redemption: who is paid what, and which vouchers are skipped without harm to the others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contracts.world import SPLIT, YARD, ZERO_ADDRESS, SignedVoucher, World, fields, skips

from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.messages import MAX_UINT64, MAX_UINT128, Voucher

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
FIELDS = (*Voucher.__struct_fields__, "r", "vs")


@pytest.fixture
def service(world: World) -> bytes:
    """A service with the usual split, and a gateway with 100 YARD."""
    world.deposit(world.account("gateway"), 100 * YARD)
    return world.register("echo")


def shares(amount: int, split: tuple[int, ...] = SPLIT) -> tuple[int, int, int, int]:
    """Return provider's, builder's, data pot's and protocol's share: floors, the rest is the provider's."""
    builder, data, protocol = (amount * bps // 10_000 for bps in split[1:])
    return amount - builder - data - protocol, builder, data, protocol


def unswept(world: World, provider: str = "provider") -> tuple[int, ...]:
    """Return what the four payees of the usual service may sweep."""
    payees = (world.account(provider), world.account("builder"), world.account("data pot"), world.protocol_pot)
    return tuple(map(world.unswept, payees))


def corrupt(voucher: SignedVoucher, field: str) -> SignedVoucher:
    """Flip the lowest bit of a number, or a bit of the first byte of bytes."""
    place = FIELDS.index(field)
    value = voucher[place]
    changed = value ^ 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    return (*voucher[:place], changed, *voucher[place + 1 :])


def test_first_voucher_opens_lane_and_pays_four(world: World, service: bytes) -> None:
    """The deposit falls by what is paid, and the four shares are credited inside the escrow."""
    voucher = world.voucher("gateway", "provider", service, 10 * YARD + 7, count=3)
    receipt = world.redeem([(*fields(voucher), *world.signed(voucher, world.actor("gateway")))], blob=keccak(b"blob"))
    lane = voucher.lane.key
    opened = {"lane": lane, "gateway": voucher.gateway, "provider": voucher.provider}
    assert receipt.only("LaneOpened") == {**opened, "serviceId": service, "laneId": 1}
    paid = {"cumulative": 10 * YARD + 7, "paid": 10 * YARD + 7, "count": 3, "head": voucher.head}
    assert receipt.only("LaneRedeemed") == {"lane": lane, **paid}
    assert receipt.only("CallsPublished") == {"publisher": world.account("anyone"), "blob": keccak(b"blob")}
    assert world.escrow.call("laneOf", lane) == (10 * YARD + 7, 10 * YARD + 7)
    assert world.escrow.call("accountOf", voucher.gateway)[0] == 90 * YARD - 7
    assert unswept(world) == shares(10 * YARD + 7)


def test_later_voucher_pays_the_difference(world: World, service: bytes) -> None:
    """Totals are cumulative: the second voucher pays what it adds, and opens nothing."""
    world.redeem([world.pay("gateway", "provider", service, 10 * YARD)])
    receipt = world.redeem([world.pay("gateway", "provider", service, 15 * YARD)])
    assert receipt.only("LaneRedeemed")["paid"] == 5 * YARD
    assert receipt.all("LaneOpened") == receipt.all("CallsPublished") == []
    assert sum(unswept(world)) == 15 * YARD


def test_redeem_by_anyone_returns_what_was_paid(world: World, service: bytes) -> None:
    """A dry run tells what a redemption would pay; who sends it makes no difference to who is credited."""
    vouchers = [world.pay("gateway", "provider", service, 10 * YARD)]
    assert world.escrow.call("redeem", vouchers, ZERO32) == 10 * YARD
    world.redeem(vouchers, sender=world.account("mallory"))
    assert world.unswept(world.account("mallory")) == 0


def test_redeem_of_nothing_changes_nothing(world: World) -> None:
    """An empty batch is no failure."""
    assert world.redeem([]).events == ()


def test_lanes_apart_by_any_of_their_four_fields(world: World, service: bytes) -> None:
    """Gateway, provider, service and lane id each make another lane with its own total."""
    other = world.register("other")
    world.deposit(world.account("gateway two"), 100 * YARD)
    vouchers = [
        world.pay("gateway", "provider", service, YARD),
        world.pay("gateway two", "provider", service, YARD),
        world.pay("gateway", "provider two", service, YARD),
        world.pay("gateway", "provider", other, YARD),
        world.pay("gateway", "provider", service, YARD, lane_id=2),
    ]
    receipt = world.redeem(vouchers)
    assert len({event["lane"] for event in receipt.all("LaneOpened")}) == 5
    assert sum(event["paid"] for event in receipt.all("LaneRedeemed")) == 5 * YARD


def test_two_vouchers_of_one_lane_in_one_batch_pay_the_higher_total(world: World, service: bytes) -> None:
    """In rising order both count, in falling order the second is stale: they never pay more than the higher."""
    low, high = (world.pay("gateway", "provider", service, amount * YARD) for amount in (3, 5))
    receipt = world.redeem([low, high])
    assert [event["paid"] for event in receipt.all("LaneRedeemed")] == [3 * YARD, 2 * YARD]
    low, high = (world.pay("gateway", "provider", service, amount * YARD) for amount in (7, 9))
    receipt = world.redeem([high, low])
    assert [event["paid"] for event in receipt.all("LaneRedeemed")] == [4 * YARD]
    assert skips(receipt) == [(1, "LowerTotal")]


@given(amount=st.integers(1, 100 * YARD), cuts=st.lists(st.integers(0, 10_000), min_size=3, max_size=3))
def test_split_is_floored_per_voucher_and_whole(deployed: World, amount: int, cuts: list[int]) -> None:
    """Whatever the split and amount, the four shares sum to what was paid, and only the provider gains by rounding."""
    world = deployed
    world.reset()
    first, second, third = sorted(cuts)
    split = (first, second - first, third - second, 10_000 - third)
    service = world.register("echo", split)
    world.deposit(world.account("gateway"), amount)
    world.redeem([world.pay("gateway", "provider", service, amount)])
    assert unswept(world) == shares(amount, split)
    assert sum(unswept(world)) == amount


@given(order=st.permutations([0, 0, 1, 1, 2, 2]))
def test_split_is_the_same_in_any_order(deployed: World, order: list[int]) -> None:
    """Vouchers of one service side by side cost less, but pay the same as scattered ones."""
    world = deployed
    world.reset()
    world.deposit(world.account("gateway"), 100 * YARD)
    splits = [(10_000, 0, 0, 0), (5_000, 3_000, 1_500, 500), (0, 0, 9_999, 1)]
    services = [world.register(f"service-{i}", split) for i, split in enumerate(splits)]
    amounts = [333_333_333 + place for place in range(6)]
    vouchers = [
        world.pay("gateway", "provider", services[which], amount, lane_id=place)
        for place, (which, amount) in enumerate(zip(order, amounts, strict=True))
    ]
    world.redeem(vouchers)
    expected = [shares(amount, splits[which]) for which, amount in zip(order, amounts, strict=True)]
    assert unswept(world) == tuple(map(sum, zip(*expected, strict=True)))


def test_payee_in_several_parts_gets_all_shares(world: World) -> None:
    """A provider that built the service and holds its data pot is credited three times."""
    service = world.register("own", builder="provider", data_pot="provider")
    world.deposit(world.account("gateway"), 10 * YARD)
    world.redeem([world.pay("gateway", "provider", service, 10 * YARD)])
    assert world.unswept(world.account("provider")) == sum(shares(10 * YARD)[:3])


@pytest.mark.parametrize("field", FIELDS)
def test_voucher_corrupted_in_one_field_skipped_and_the_rest_paid(world: World, service: bytes, field: str) -> None:
    """Whatever field or signature word is changed after signing, that voucher alone is skipped."""
    good = world.pay("gateway", "provider", service, 2 * YARD, lane_id=9)
    bad = corrupt(world.pay("gateway", "provider", service, 3 * YARD), field)
    receipt = world.redeem([bad, good, bad])
    assert skips(receipt) == [(0, "BadSignature"), (2, "BadSignature")]
    assert receipt.only("LaneRedeemed")["paid"] == 2 * YARD
    assert receipt.all("VoucherSkipped")[0]["lane"] == Voucher(*bad[:7]).lane.key


def test_voucher_signed_by_another_skipped(world: World, service: bytes) -> None:
    """The provider can't sign for its gateway."""
    voucher = world.voucher("gateway", "provider", service, YARD)
    forged = (*fields(voucher), *world.signed(voucher, world.actor("provider")))
    assert skips(world.redeem([forged])) == [(0, "BadSignature")]


@pytest.mark.parametrize("signature", [(ZERO32, ZERO32), (b"\xff" * 32, b"\xff" * 32), (b"\0" * 31 + b"\1", ZERO32)])
def test_voucher_of_nobody_skipped(world: World, service: bytes, signature: tuple[bytes, bytes]) -> None:
    """A signature that recovers to nobody is not the zero account's, even where it has a deposit."""
    voucher = msgspec.structs.replace(world.voucher("gateway", "provider", service, YARD), gateway=ZERO_ADDRESS)
    assert skips(world.redeem([(*fields(voucher), *signature)])) == [(0, "BadSignature")]


def test_voucher_with_malleable_signature_skipped(world: World, service: bytes) -> None:
    """The twin (r, n - s) with the other parity recovers to the same key, and is refused all the same."""
    gateway = world.actor("gateway")
    for attempt in range(1, 200):
        voucher = world.voucher("gateway", "provider", service, YARD, count=attempt)
        signature = gateway.sign(world.domain.digest(voucher.struct_hash()))
        twin = ORDER - int.from_bytes(signature[32:64], "big")
        if twin < 1 << 255:  # EIP-2098 has 255 bits for s: only then can the twin be written down
            break
    else:
        twin = (1 << 255) - 1
    parity = (28 - signature[64]) << 255
    malleable = (*fields(voucher), signature[:32], (twin | parity).to_bytes(32, "big"))
    assert skips(world.redeem([malleable])) == [(0, "BadSignature")]


def test_voucher_for_unknown_service_skipped(world: World, service: bytes) -> None:
    """Nobody would know the split; a known one after it is paid by its own."""
    vouchers = [
        world.pay("gateway", "provider", service, YARD),
        world.pay("gateway", "provider", keccak(b"unknown"), YARD),
        world.pay("gateway", "provider", service, YARD, lane_id=2),
    ]
    receipt = world.redeem(vouchers)
    assert skips(receipt) == [(1, "UnknownService")]
    assert unswept(world) == tuple(2 * share for share in shares(YARD))
    unknown = world.pay("gateway", "provider", ZERO32, YARD)
    assert skips(world.redeem([unknown])) == [(0, "UnknownService")]


def test_voucher_for_nobody_skipped(world: World, service: bytes) -> None:
    """What the zero account is paid could never be swept."""
    voucher = msgspec.structs.replace(world.voucher("gateway", "provider", service, YARD), provider=ZERO_ADDRESS)
    signed = (*fields(voucher), *world.signed(voucher, world.actor("gateway")))
    assert skips(world.redeem([signed])) == [(0, "BadProvider")]


def test_voucher_of_gateway_without_account_skipped(world: World, service: bytes) -> None:
    """A key that nobody ever deposited for opens no lane; once somebody did, its voucher is paid."""
    voucher = world.pay("stranger", "provider", service, YARD)
    assert skips(world.redeem([voucher])) == [(0, "NoAccount")]
    assert world.escrow.call("laneOf", Voucher(*voucher[:7]).lane.key) == (0, 0)
    world.deposit(world.account("stranger"), YARD)
    assert world.redeem([voucher]).only("LaneRedeemed")["paid"] == YARD


def test_voucher_below_total_skipped(world: World, service: bytes) -> None:
    """A lane's total never falls, whatever its gateway signs."""
    world.redeem([world.pay("gateway", "provider", service, 5 * YARD)])
    lower = world.pay("gateway", "provider", service, 5 * YARD - 1, count=99)
    assert skips(world.redeem([lower])) == [(0, "LowerTotal")]
    assert world.escrow.call("laneOf", Voucher(*lower[:7]).lane.key) == (5 * YARD, 5 * YARD)


def test_voucher_redeemed_twice_pays_once(world: World, service: bytes) -> None:
    """The same voucher again, in the same batch or a later one, finds nothing due."""
    voucher = world.pay("gateway", "provider", service, 5 * YARD)
    assert skips(world.redeem([voucher, voucher])) == [(1, "NothingDue")]
    assert skips(world.redeem([voucher])) == [(0, "NothingDue")]
    assert sum(unswept(world)) == 5 * YARD


def test_voucher_for_nothing_skipped(world: World, service: bytes) -> None:
    """A total of zero owes nothing."""
    assert skips(world.redeem([world.pay("gateway", "provider", service, 0)])) == [(0, "NothingDue")]


def test_voucher_that_overflows_debt_skipped_and_the_rest_paid(world: World, service: bytes) -> None:
    """A gateway may sign any total; debts beyond 128 bits are not taken up, and spoil no batch."""
    vouchers = [
        world.pay("gateway", "provider", service, 2 * YARD, lane_id=3),
        world.pay("gateway", "provider", service, MAX_UINT128, lane_id=1),
        world.pay("gateway", "provider", service, MAX_UINT128, lane_id=2),
    ]
    receipt = world.redeem(vouchers)
    assert skips(receipt) == [(2, "TooHigh")]
    assert [event["paid"] for event in receipt.all("LaneRedeemed")] == [2 * YARD, 98 * YARD]


def test_voucher_at_widest_fields_is_paid(world: World, service: bytes) -> None:
    """Lane ids and counts fill their whole width."""
    voucher = world.pay("gateway", "provider", service, YARD, lane_id=MAX_UINT64, count=MAX_UINT64)
    assert world.redeem([voucher]).only("LaneRedeemed")["count"] == MAX_UINT64


def test_batch_with_every_kind_of_bad_voucher_pays_the_good(world: World, service: bytes) -> None:
    """Nine tenths of a batch may be bad: the one good voucher in its midst is paid whole."""
    world.redeem([world.pay("gateway", "provider", service, 5 * YARD)])
    bad: list[Any] = [
        corrupt(world.pay("gateway", "provider", service, 9 * YARD), "head"),
        world.pay("gateway", "provider", keccak(b"unknown"), YARD),
        world.pay("stranger", "provider", service, YARD),
        world.pay("gateway", "provider", service, 4 * YARD),
        world.pay("gateway", "provider", service, 5 * YARD),
    ]
    receipt = world.redeem([*bad, world.pay("gateway", "provider", service, 6 * YARD), *reversed(bad)])
    before = ["BadSignature", "UnknownService", "NoAccount", "LowerTotal", "NothingDue"]
    after = ["LowerTotal", "LowerTotal", "NoAccount", "UnknownService", "BadSignature"]  # the total is 6 by then
    assert [reason for _, reason in skips(receipt)] == before + after
    assert receipt.only("LaneRedeemed")["paid"] == YARD


def test_sweep_by_anyone_pays_the_accounts_themselves(world: World, service: bytes) -> None:
    """Who sweeps gets nothing; each account's wallet gets its own."""
    world.redeem([world.pay("gateway", "provider", service, 10 * YARD)])
    payees = [world.account("provider"), world.account("builder"), world.account("data pot"), world.protocol_pot]
    receipt = world.escrow.send("sweep", payees, sender=world.account("mallory"))
    assert [event["amount"] for event in receipt.all("Swept")] == list(shares(10 * YARD))
    assert tuple(map(world.balance, payees)) == shares(10 * YARD)
    assert unswept(world) == (0, 0, 0, 0)
    assert world.balance(world.account("mallory")) == 0


def test_sweep_of_nothing_or_twice_pays_nothing(world: World, service: bytes) -> None:
    """An account with nothing is passed over, and one named twice is paid once."""
    world.redeem([world.pay("gateway", "provider", service, 10 * YARD)])
    provider = world.account("provider")
    accounts = [world.account("mallory"), provider, provider, world.escrow.address]
    receipt = world.escrow.send("sweep", accounts, sender=provider)
    assert len(receipt.all("Swept")) == 1
    assert world.balance(provider) == shares(10 * YARD)[0]


def test_share_of_the_escrow_itself_stays_unswept(world: World) -> None:
    """A voucher made out to the escrow itself can't make money that belongs to nobody."""
    service = world.register("echo")
    world.deposit(world.account("gateway"), YARD)
    voucher = world.voucher("gateway", "provider", service, YARD)
    voucher = msgspec.structs.replace(voucher, provider=world.escrow.address)
    world.redeem([(*fields(voucher), *world.signed(voucher, world.actor("gateway")))])
    world.escrow.send("sweep", [world.escrow.address], sender=world.account("anyone"))
    assert world.unswept(world.escrow.address) == shares(YARD)[0]
