"""Demands: evidence that was not served is asked for on chain; served keeps the bond, silence is slashed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contracts.contract import Receipt as Sent
from tests.contracts.court_world import STAKE, CourtRoom
from tests.contracts.proof_world import CHUNKS, EVIDENCE, ITEMS, Signer, corrupted
from tests.contracts.world import PROVIDER, TERMS, YARD, World

from steelyard.protocol.evidence import chunk_items, evidence_root, split_chunks
from steelyard.protocol.hashing import ZERO32, keccak

SLASH = STAKE * TERMS.slash_bps // 10_000
OPEN, SERVED, SILENT = 1, 2, 3


class Desk:
    """A court with a gateway that can pay bonds, and one call whose evidence is wanted."""

    def __init__(self, world: World, **changes: Any) -> None:
        self.room, self.world, self.contract = CourtRoom(world, validators=0), world, world.proofs
        self.signer = Signer(world)
        world.fund(world.account("gateway"), 10 * YARD)
        self.receipt = self.signer.receipt(**changes)
        self.given = self.signer.batched(self.room.service, [self.receipt, self.signer.receipt(part=9)])
        self.provider = world.account("provider")

    def demand(self, who: str = "gateway", signature: tuple[bytes, bytes] = (ZERO32, ZERO32)) -> Sent:
        """Demand the call's evidence."""
        return self.contract.send("demandEvidence", self.given, *signature, sender=self.world.account(who))

    def opened(self) -> bytes:
        """Demand, and return the demand's id."""
        return bytes(self.demand().only("EvidenceDemanded")["id"])

    def serve(self, id_: bytes, first: int, chunks: list[bytes], items: list[bytes] = ITEMS) -> Sent:
        """Serve chunks, as the provider."""
        return self.contract.send("serveEvidence", id_, items, first, chunks, sender=self.provider)

    def close(self, id_: bytes) -> Sent:
        """Close a demand, as anyone."""
        return self.contract.send("closeDemand", id_, sender=self.world.account("anyone"))

    def state(self, id_: bytes) -> int:
        """Return how far a demand is."""
        return int(self.contract.call("demandOf", id_)[3])


@pytest.fixture
def desk(world: World) -> Desk:
    """A gateway, a provider, and a call that ended now."""
    return Desk(world)


def test_demand_by_gateway_is_told_and_holds_the_stake(desk: Desk) -> None:
    """The bond goes in, the provider's stake can't leave."""
    receipt = desk.demand()
    id_ = keccak(bytes(12) + desk.provider + desk.receipt.struct_hash())
    assert receipt.only("EvidenceDemanded") == {
        "id": id_,
        "provider": desk.provider,
        "receipt": desk.receipt.struct_hash(),
        "lane": desk.room.lane(desk.world.account("gateway"), 1),
        "evidenceHash": evidence_root(EVIDENCE),
        "demander": desk.world.account("gateway"),
        "until": desk.world.evm.now() + TERMS.evidence_s,
    }
    told = {"matter": id_, "payer": desk.world.account("gateway"), "amount": TERMS.demand_bond_nano}
    assert receipt.only("BondPosted") == told
    assert desk.room.bonds() == TERMS.demand_bond_nano
    assert desk.room.is_locked()
    assert desk.state(id_) == OPEN


def test_evidence_served_whole_earns_the_bond(desk: Desk) -> None:
    """All chunks are told, the bond goes to the provider, the stake is free."""
    id_ = desk.opened()
    receipt = desk.serve(id_, 0, CHUNKS)
    assert receipt.only("EvidenceServed") == {"id": id_, "first": 0, "chunks": tuple(CHUNKS)}
    assert b"".join(receipt.only("EvidenceServed")["chunks"]) == EVIDENCE
    assert receipt.only("DemandClosed") == {"id": id_, "isServed": True}
    assert desk.world.balance(desk.provider) == TERMS.demand_bond_nano
    assert (desk.room.bonds(), desk.room.is_locked(), desk.room.at_stake()) == (0, False, STAKE)
    desk.world.evm.advance(TERMS.evidence_s)
    for call in (lambda: desk.close(id_), lambda: desk.serve(id_, 3, []), lambda: desk.serve(id_, 0, CHUNKS)):
        with desk.contract.refuses("NotDemanded"):
            call()


def test_evidence_served_in_parts_closes_with_the_last(desk: Desk) -> None:
    """Each part goes on where the one before stopped; anyone may carry it."""
    id_ = desk.opened()
    assert not desk.serve(id_, 0, CHUNKS[:1]).all("DemandClosed")
    for first, chunks in ((0, CHUNKS[:1]), (2, CHUNKS[2:]), (1, [*CHUNKS[1:], CHUNKS[2]])):
        with desk.contract.refuses("WrongPlace(1)"):
            desk.serve(id_, first, chunks)
    carried = desk.contract.send("serveEvidence", id_, ITEMS, 1, CHUNKS[1:], sender=desk.world.account("anyone"))
    assert carried.only("DemandClosed")["isServed"] is True
    assert desk.world.balance(desk.provider) == TERMS.demand_bond_nano


@pytest.mark.parametrize("length", [1, 1023, 1024, 1025, 2048])
def test_evidence_of_any_length_can_be_served(world: World, length: int) -> None:
    """The contract cuts and hashes as the protocol does."""
    blob = bytes(n % 251 for n in range(length))
    desk = Desk(world, evidence_hash=evidence_root(blob))
    id_ = desk.opened()
    assert desk.serve(id_, 0, split_chunks(blob), chunk_items(blob)).only("DemandClosed")["isServed"] is True


@pytest.mark.parametrize("count", range(1, 12))
def test_evidence_of_any_number_of_chunks_can_be_served(world: World, count: int) -> None:
    """Odd levels of the tree are the protocol's too."""
    blob = bytes(1024 * (count - 1)) + b"end"
    desk = Desk(world, evidence_hash=evidence_root(blob))
    id_ = desk.opened()
    assert desk.serve(id_, 0, split_chunks(blob), chunk_items(blob)).only("DemandClosed")["isServed"] is True


def test_evidence_that_is_not_the_receipts_refused(desk: Desk) -> None:
    """Other items, and chunks that are cut, changed, swapped or of another length."""
    id_ = desk.opened()
    for items in ([], ITEMS[:2], [*ITEMS, ITEMS[0]], [corrupted(ITEMS[0]), *ITEMS[1:]]):
        with desk.contract.refuses("WrongItems"):
            desk.serve(id_, 0, CHUNKS, items)
    with desk.contract.refuses("WrongChunk(0)"):
        desk.serve(id_, 0, [CHUNKS[0][:-1]])
    with desk.contract.refuses("WrongChunk(1)"):
        desk.serve(id_, 0, [CHUNKS[0], corrupted(CHUNKS[1]), CHUNKS[2]])
    swapped = [ITEMS[1], ITEMS[0], ITEMS[2]]
    with desk.contract.refuses("WrongChunk(0)"):  # a sorted pair has the same root either way round
        desk.serve(id_, 0, [CHUNKS[1], CHUNKS[0], CHUNKS[2]], swapped)
    assert desk.state(id_) == OPEN


def test_evidence_served_too_late_refused(desk: Desk) -> None:
    """The last second counts."""
    id_ = desk.opened()
    until = desk.contract.call("demandOf", id_)[1]
    desk.room.advance_to(until - 1)
    desk.serve(id_, 0, CHUNKS[:1])
    with desk.contract.refuses(f"TooLate({until})"):
        desk.serve(id_, 1, CHUNKS[1:])


def test_silence_is_slashed(desk: Desk) -> None:
    """The gateway gets back what the call cost, the demander a tenth and its bond; half a serving is silence too."""
    desk.room.pay("gateway", 5 * YARD)
    id_ = desk.opened()
    desk.serve(id_, 0, CHUNKS[:2])
    until = desk.contract.call("demandOf", id_)[1]
    with desk.contract.refuses(f"TooEarly({until})"):
        desk.close(id_)
    desk.room.advance_to(until)
    wallet = desk.world.balance(desk.world.account("gateway"))
    receipt = desk.close(id_)
    assert receipt.only("DemandClosed") == {"id": id_, "isServed": False}
    punished = receipt.only("Punished")
    assert (punished["taken"], punished["toHarmed"], punished["toInformer"]) == (SLASH, YARD, SLASH // 10)
    assert desk.world.balance(desk.world.account("gateway")) == wallet + YARD + SLASH // 10 + TERMS.demand_bond_nano
    assert (desk.room.bonds(), desk.room.is_locked(), desk.room.at_stake()) == (0, False, STAKE - SLASH)
    assert desk.state(id_) == SILENT
    with desk.contract.refuses("NotDemanded"):
        desk.close(id_)


def test_demand_with_the_gateways_consent_accepted(desk: Desk) -> None:
    """A validator demands what the gateway let it; without that, or with another's, it is refused."""
    world, key = desk.world, desk.world.actor("gateway")
    validator, receipt = world.account("validator"), desk.receipt.struct_hash()
    world.fund(validator, YARD)
    gateway = world.account("gateway")
    wrong = [
        (ZERO32, ZERO32),
        desk.signer.consent(world.actor("validator"), validator, receipt),
        desk.signer.consent(key, world.account("other"), receipt),
        desk.signer.consent(key, validator, corrupted(receipt)),
    ]
    for signature in wrong:
        with desk.contract.refuses(f"NotSignedBy(0x{gateway.hex()})"):
            desk.demand("validator", signature)
    receipt_ = desk.demand("validator", desk.signer.consent(key, validator, receipt))
    assert receipt_.only("EvidenceDemanded")["demander"] == validator
    assert receipt_.only("BondPosted")["payer"] == validator


def test_demand_twice_refused(desk: Desk) -> None:
    """What was served is there for everybody; a silent provider is slashed once."""
    id_ = desk.opened()
    with desk.contract.refuses(f"AlreadyDemanded(0x{id_.hex()})"):
        desk.demand()
    desk.serve(id_, 0, CHUNKS)
    with desk.contract.refuses(f"AlreadyDemanded(0x{id_.hex()})"):
        desk.demand()


def test_demand_after_the_time_to_keep_refused(desk: Desk) -> None:
    """A provider may forget."""
    until = desk.receipt.finished_ms // 1_000 + TERMS.keep_s
    desk.room.advance_to(until)
    with desk.contract.refuses(f"TooLate({until})"):
        desk.demand()


def test_demand_for_a_call_without_evidence_refused(world: World) -> None:
    """There is nothing to serve where the response's hash is enough."""
    desk = Desk(world, evidence_hash=ZERO32)
    with desk.contract.refuses(f"NothingKept(0x{desk.receipt.struct_hash().hex()})"):
        desk.demand()


def test_demand_without_bond_or_stake_refused(desk: Desk) -> None:
    """The demander must pay, and the provider have something to lose."""
    desk.world.yard.send("burn", 10 * YARD, sender=desk.world.account("gateway"))
    with desk.world.yard.refuses("ERC20InsufficientBalance"):
        desk.demand()
    desk.world.fund(desk.world.account("gateway"), YARD)
    desk.world.registry.send("slash", desk.provider, PROVIDER, STAKE, desk.provider, sender=desk.world.slasher)
    with desk.world.court.refuses("NothingAtStake"):
        desk.demand()


def test_demand_of_a_stranger_with_the_same_receipt_does_not_stand_in_the_way(desk: Desk) -> None:
    """Who signs a batch over another's receipt is asked for its evidence himself."""
    world, mallory = desk.world, desk.world.account("mallory")
    world.stake(mallory, PROVIDER, YARD)
    forged = desk.signer.batch(desk.room.service, [desk.receipt], provider=mallory, gateway=mallory)
    given = (desk.signer.signed(forged, "mallory"), desk.given[1], [])
    world.fund(mallory, YARD)
    desk.contract.send("demandEvidence", given, ZERO32, ZERO32, sender=mallory)
    assert desk.state(desk.opened()) == OPEN


def test_two_demands_hold_the_stake_until_both_end(desk: Desk) -> None:
    """The first one served frees nothing."""
    first = desk.opened()
    other = desk.signer.receipt(part=5)
    desk.given = desk.signer.batched(desk.room.service, [other])
    second = desk.opened()
    desk.serve(first, 0, CHUNKS)
    assert desk.room.is_locked()
    desk.serve(second, 0, CHUNKS)
    assert not desk.room.is_locked()
