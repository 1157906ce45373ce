"""Faults: what a liar signed twice slashes it, once and at once; nothing else does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.contracts.court_world import STAKE, CourtRoom
from tests.contracts.proof_world import Signer, corrupted
from tests.contracts.world import GATEWAY, PROVIDER, TERMS, YARD, ZERO_ADDRESS, World, fields

from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Batch, Receipt, Voucher

LIE = STAKE * TERMS.fault_bps // 10_000
Batched = tuple[Any, Any, Any]


@pytest.fixture
def room(world: World) -> CourtRoom:
    """A court, whose provider has a service and whose gateway has a stake."""
    room = CourtRoom(world, validators=0)
    world.stake(world.account("gateway"), GATEWAY, STAKE)
    return room


def prove(room: CourtRoom, name: str, a: Any, b: Any) -> Any:
    """Prove a fault, as a stranger."""
    return room.world.proofs.send(name, a, b, sender=room.world.account("informer"))


def two_receipts(room: CourtRoom, **changes: Any) -> tuple[Batched, Batched]:
    """Return two receipts for one order, in two batches of a lane; the second differs by `changes`."""
    signer = Signer(room.world)
    one = signer.receipt()
    other = msgspec.structs.replace(one, **(changes or {"response_hash": keccak(b"another")}))
    beside = signer.receipt(order_hash=keccak(b"beside"))
    first = signer.batched(room.service, [beside, one], 1)
    return first, signer.batched(room.service, [other, beside, beside], 0, seq=2)


def test_two_receipts_for_one_order_slash_the_provider(room: CourtRoom) -> None:
    """Its gateway gets back what both cost, the informer a tenth, the rest is burned."""
    room.pay("gateway", 5 * YARD)
    supply, provider = room.world.yard.call("totalSupply"), room.world.account("provider")
    receipt = prove(room, "proveTwoReceipts", *two_receipts(room))
    told = receipt.only("FaultProven")
    assert (told["liar"], told["fault"], told["informer"]) == (provider, 0, room.world.account("informer"))
    assert receipt.only("Compensated")["amount"] == 2 * YARD
    punished = receipt.only("Punished")
    assert (punished["taken"], punished["toHarmed"], punished["toInformer"]) == (LIE, 2 * YARD, LIE // 10)
    assert room.world.balance(room.world.account("gateway")) == 2 * YARD
    assert room.world.balance(room.world.account("informer")) == LIE // 10
    assert room.world.yard.call("totalSupply") == supply - (LIE - LIE // 10 - 2 * YARD)
    assert room.at_stake() == STAKE - LIE
    assert room.world.proofs.call("isProven", told["id"])


def test_two_receipts_on_two_lanes_pay_each_gateway_its_own(room: CourtRoom) -> None:
    """Each gets back what it paid for its receipt, at most what its lane was paid."""
    signer, other = Signer(room.world), room.world.account("other gateway")
    room.pay("gateway", 5 * YARD)
    room.pay("other gateway", YARD // 2)
    one = signer.receipt()
    two = msgspec.structs.replace(one, cost=3 * YARD)
    a, b = signer.batched(room.service, [one]), signer.batched(room.service, [two], gateway=other)
    receipt = prove(room, "proveTwoReceipts", a, b)
    paid = {told["gateway"]: told["amount"] for told in receipt.all("Compensated")}
    assert paid == {room.world.account("gateway"): YARD, other: YARD // 2}


@pytest.mark.parametrize("field", [name for name in Receipt.__struct_fields__ if name not in ("order_hash", "part")])
def test_two_receipts_that_differ_in_one_field_are_a_lie(room: CourtRoom, field: str) -> None:
    """Any difference is enough, for one order and part."""
    value = corrupted(getattr(Signer(room.world).receipt(), field))
    assert prove(room, "proveTwoReceipts", *two_receipts(room, **{field: value})).only("Punished")["taken"] == LIE


@pytest.mark.parametrize("change", [{"order_hash": keccak(b"two")}, {"part": 1}, {"cost": 10**9}])
def test_two_receipts_for_two_orders_or_parts_are_none(room: CourtRoom, change: dict[str, Any]) -> None:
    """Other work, a later part, and the same receipt twice contradict nothing."""
    with room.world.proofs.refuses("NoContradiction()"):
        prove(room, "proveTwoReceipts", *two_receipts(room, **change))


def test_two_receipts_proven_twice_refused(room: CourtRoom) -> None:
    """One lie is slashed once, whichever way round it is told, and with whatever third receipt."""
    a, b = two_receipts(room)
    told = prove(room, "proveTwoReceipts", a, b).only("FaultProven")
    room.world.stake(room.world.account("provider"), PROVIDER, STAKE)
    third = two_receipts(room, cost=77)[1]
    for pair in ((a, b), (b, a), (a, third)):
        with room.world.proofs.refuses(f"AlreadyProven(0x{told['id'].hex()})"):
            prove(room, "proveTwoReceipts", *pair)
    assert room.at_stake() == STAKE


def test_two_receipts_of_two_providers_are_none(room: CourtRoom) -> None:
    """A stranger's receipt for the same order says nothing about the provider."""
    signer, (a, _) = Signer(room.world), two_receipts(room)
    receipt = signer.receipt(cost=1)
    forged = signer.batch(room.service, [receipt], provider=room.world.account("mallory"))
    given = (signer.signed(forged, "mallory"), fields(receipt), [])
    with room.world.proofs.refuses("NoContradiction()"):
        prove(room, "proveTwoReceipts", a, given)


@pytest.mark.parametrize("field", Batch.__struct_fields__)
@pytest.mark.parametrize("side", [0, 1])
def test_batch_corrupted_in_one_field_proves_nothing(room: CourtRoom, side: int, field: str) -> None:
    """Whatever is changed after signing, nobody is slashed."""
    pair = list(two_receipts(room))
    index = Batch.__struct_fields__.index(field)
    batch = list(pair[side][0])
    batch[index] = corrupted(batch[index])
    pair[side] = (tuple(batch), *pair[side][1:])
    with room.world.proofs.refuses("NotSignedBy"):
        prove(room, "proveTwoReceipts", *pair)
    one, other = pair[0][0], pair[1][0]
    with room.world.proofs.refuses("NotSignedBy"):
        prove(room, "proveTwoBatches", one, other)


@pytest.mark.parametrize("field", Receipt.__struct_fields__)
@pytest.mark.parametrize("side", [0, 1])
def test_receipt_corrupted_in_one_field_proves_nothing(room: CourtRoom, side: int, field: str) -> None:
    """A receipt that the batch does not hold is nobody's."""
    pair = list(two_receipts(room))
    index = Receipt.__struct_fields__.index(field)
    receipt = list(pair[side][1])
    receipt[index] = corrupted(receipt[index])
    pair[side] = (pair[side][0], tuple(receipt), pair[side][2])
    with room.world.proofs.refuses("NotInBatch"):
        prove(room, "proveTwoReceipts", *pair)


def test_receipt_with_a_wrong_path_proves_nothing(room: CourtRoom) -> None:
    """A step off, one too few, one too many: the receipt is not in the batch."""
    a, b = two_receipts(room)
    (step,) = a[2]
    for proof in ([], [corrupted(step)], [step, step]):
        with room.world.proofs.refuses("NotInBatch"):
            prove(room, "proveTwoReceipts", (a[0], a[1], proof), b)


def test_lie_without_a_stake_refused(room: CourtRoom) -> None:
    """A lie is not used up while there is nothing to slash."""
    pair = two_receipts(room)
    slash = ("slash", room.world.account("provider"), PROVIDER, STAKE, ZERO_ADDRESS)
    room.world.registry.send(*slash, sender=room.world.slasher)
    with room.world.court.refuses("NothingAtStake"):
        prove(room, "proveTwoReceipts", *pair)
    room.world.stake(room.world.account("provider"), PROVIDER, YARD)
    assert prove(room, "proveTwoReceipts", *pair).only("Punished")["taken"] == YARD * TERMS.fault_bps // 10_000


def chain_of(room: CourtRoom, **changes: Any) -> tuple[Any, Any]:
    """Return two signed batches, the second following the first as it should but for `changes`."""
    signer = Signer(room.world)
    first = signer.batch(room.service, [signer.receipt()])
    head = room.world.domain.digest(first.struct_hash())
    second = signer.batch(room.service, [signer.receipt(part=1)], seq=2, prev_head=head, cumulative=2 * YARD)
    return signer.signed(first, "provider"), signer.signed(msgspec.structs.replace(second, **changes), "provider")


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 1},
        {"prev_head": keccak(b"another head")},
        {"cumulative": YARD - 1},
        {"seq": 9, "cumulative": YARD - 1},
    ],
)
def test_batches_that_cannot_follow_each_other_slash(room: CourtRoom, change: dict[str, Any]) -> None:
    """One number twice, another previous head, a lower total."""
    receipt = prove(room, "proveTwoBatches", *chain_of(room, **change))
    assert receipt.only("FaultProven")["fault"] == 1
    punished = receipt.only("Punished")
    assert (punished["taken"], punished["toHarmed"]) == (LIE, 0)


@pytest.mark.parametrize("change", [{}, {"seq": 3}, {"cumulative": YARD}, {"seq": 7, "prev_head": keccak(b"sixth")}])
def test_batches_that_can_follow_each_other_prove_nothing(room: CourtRoom, change: dict[str, Any]) -> None:
    """The next batch, one further on, one that cost nothing."""
    pair = chain_of(room, **change)
    for one, other in (pair, pair[::-1], (pair[0], pair[0])):
        with room.world.proofs.refuses("NoContradiction()"):
            prove(room, "proveTwoBatches", one, other)


@pytest.mark.parametrize("field", ["gateway", "service_id", "lane_id"])
def test_batches_of_two_lanes_prove_nothing(room: CourtRoom, field: str) -> None:
    """Every lane counts its own batches."""
    first, _ = chain_of(room)
    index = Batch.__struct_fields__.index(field)
    pair = chain_of(room, seq=1, **{field: corrupted(first[index])})
    with room.world.proofs.refuses("NoContradiction()"):
        prove(room, "proveTwoBatches", *pair)


def vouchers_of(room: CourtRoom, **changes: Any) -> tuple[Any, Any]:
    """Return two signed vouchers of a lane, the second later by one call but for `changes`."""
    signer = Signer(room.world)
    first = room.world.voucher("gateway", "provider", room.service, 5 * YARD, count=5)
    second = room.world.voucher("gateway", "provider", room.service, 6 * YARD, count=6)
    second = msgspec.structs.replace(second, **changes)
    return signer.signed(first, "gateway"), signer.signed(second, "gateway")


@pytest.mark.parametrize(
    "change",
    [
        {"cumulative": 5 * YARD - 1},
        {"count": 5},
        {"count": 5, "cumulative": 5 * YARD},
        {"head": keccak(b"head" + (5 * YARD).to_bytes(16, "big"))},
    ],
)
def test_vouchers_that_contradict_each_other_slash_the_gateway(room: CourtRoom, change: dict[str, Any]) -> None:
    """More calls for less, one count or one head with two meanings."""
    before = room.at_stake("gateway", GATEWAY)
    receipt = prove(room, "proveTwoVouchers", *vouchers_of(room, **change))
    assert receipt.only("FaultProven")["liar"] == room.world.account("gateway")
    assert before - room.at_stake("gateway", GATEWAY) == receipt.only("Punished")["taken"] == LIE
    assert room.at_stake() == STAKE, "the provider did nothing"


@pytest.mark.parametrize("change", [{}, {"cumulative": 5 * YARD}, {"lane_id": 2, "count": 5}])
def test_vouchers_that_agree_prove_nothing(room: CourtRoom, change: dict[str, Any]) -> None:
    """A later one, one for calls that cost nothing, one of another lane."""
    pair = vouchers_of(room, **change)
    for one, other in (pair, pair[::-1], (pair[0], pair[0])):
        with room.world.proofs.refuses("NoContradiction()"):
            prove(room, "proveTwoVouchers", one, other)


@pytest.mark.parametrize("field", Voucher.__struct_fields__)
def test_voucher_corrupted_in_one_field_proves_nothing(room: CourtRoom, field: str) -> None:
    """Whatever is changed after signing, nobody is slashed."""
    first, second = vouchers_of(room, count=5)
    index = Voucher.__struct_fields__.index(field)
    changed = (*second[:index], corrupted(second[index]), *second[index + 1 :])
    with room.world.proofs.refuses("NotSignedBy"):
        prove(room, "proveTwoVouchers", first, changed)
    with room.world.proofs.refuses("NotSignedBy"):
        prove(room, "proveTwoVouchers", changed, first)


def test_court_obeys_proofs_alone(room: CourtRoom) -> None:
    """Nobody else slashes, holds or takes bonds through the functions that are for Proofs."""
    stranger, provider = room.world.account("stranger"), room.world.account("provider")
    refusal = f"NotProofs(0x{stranger.hex()})"
    for call in (
        ("beginDemand", b"\1" * 32, provider, provider),
        ("endDemand", b"\1" * 32, provider, stranger),
        ("punish", b"\1" * 32, provider, PROVIDER, False, [], stranger),
    ):
        with room.contract.refuses(refusal):
            room.contract.send(*call, sender=stranger)
