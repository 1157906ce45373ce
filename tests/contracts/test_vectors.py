"""The shared vectors against the contracts: what Python and eth-account hash, sign and split, Solidity does too.

The contracts stand under the vectors' own salt, so that signatures in the files count as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.evm import CHAIN_ID
from tests.contracts.proof_world import corrupted
from tests.contracts.world import EPOCH_S, MIN_STAKES, TERMS, UNBOND_DELAY_S, WITHDRAW_DELAY_S, World, skips

from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.signing import compact_signature

FOLDER = Path(__file__).parents[1] / "vectors"
MESSAGES = json.loads((FOLDER / "messages.json").read_text())
TREES = json.loads((FOLDER / "merkle.json").read_text())["trees"]
SPLITS = [case for case in json.loads((FOLDER / "pricing.json").read_text())["splits"] if case["amount"]]
SALT = bytes.fromhex(MESSAGES["domain"]["salt"][2:])


class Twin:
    """Registry, Escrow and Proofs under the vectors' domain, beside a world's token and manager."""

    def __init__(self, world: World) -> None:
        self.world, token, manager = world, world.yard.address, world.manager.address
        self.registry = world.create("Registry", token, manager, SALT, UNBOND_DELAY_S, MIN_STAKES)
        parts = (token, self.registry.address, manager, SALT, WITHDRAW_DELAY_S, world.protocol_pot)
        self.escrow = world.create("Escrow", *parts)
        court = world.create("Court", self.escrow.address, world.ledger.address, SALT, TERMS.as_tuple())
        self.proofs = world.adopt("Proofs", court.call("proofs"))


@pytest.fixture
def twin(world: World) -> Twin:
    """Contracts under the vectors' domain."""
    return Twin(world)


def values(case: dict[str, Any]) -> tuple[Any, ...]:
    """Return a vector's fields in order, bytes as bytes."""
    return tuple(bytes.fromhex(v[2:]) if isinstance(v, str) else v for v in case["values"].values())


def signed(case: dict[str, Any]) -> tuple[Any, ...]:
    """Return a vector's fields and its signature, as the contracts take them."""
    return (*values(case), *signature(case))


def signature(case: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return a vector's signature in the compact form."""
    return compact_signature(bytes.fromhex(case["signature"][2:]))


def cases(message: str) -> list[dict[str, Any]]:
    """Return the usual and the extreme vector of a message."""
    return [case for case in MESSAGES["cases"] if case["message"] == message]


def changed(case: dict[str, Any], place: int) -> tuple[Any, ...]:
    """Return a signed vector with one bit of one field flipped."""
    whole = signed(case)
    return (*whole[:place], corrupted(whole[place]), *whole[place + 1 :])


def test_domain_of_the_vectors_is_the_contracts(twin: Twin) -> None:
    """Chain id and salt of the file give the separator that was signed under."""
    assert MESSAGES["domain"]["chain_id"] == CHAIN_ID
    digest = bytes.fromhex(cases("Voucher")[0]["digest"][2:])
    struct_hash = bytes.fromhex(cases("Voucher")[0]["struct_hash"][2:])
    for contract in (twin.registry, twin.escrow, twin.proofs):
        assert keccak(b"\x19\x01" + contract.call("domainSeparator") + struct_hash) == digest


@pytest.mark.parametrize("case", cases("Voucher"), ids=("usual", "largest"))
def test_voucher_of_the_vectors_is_signed_and_no_field_can_change(twin: Twin, case: dict[str, Any]) -> None:
    """The escrow recovers its signer, and stops only at the service that nobody registered."""
    redeem = [signed(case), *(changed(case, place) for place in range(len(values(case)) + 2))]
    receipt = twin.escrow.send("redeem", redeem, ZERO32, sender=twin.world.account("anyone"))
    reasons = [reason for _, reason in skips(receipt)]
    assert reasons == ["UnknownService"] + ["BadSignature"] * (len(redeem) - 1)


@pytest.mark.parametrize("case", cases("Offer"), ids=("usual", "largest"))
def test_offer_of_the_vectors_is_signed_and_no_field_can_change(twin: Twin, case: dict[str, Any]) -> None:
    """The registry recovers its signer, and stops only at the service that nobody registered."""
    anyone = twin.world.account("anyone")
    with twin.registry.refuses(f"UnknownService({case['values']['serviceId']})"):
        twin.registry.send("setOffer", values(case), *signature(case), sender=anyone)
    for place in range(len(values(case)) + 2):
        *offer, r, vs = changed(case, place)
        with twin.registry.refuses("BadSignature()"):
            twin.registry.send("setOffer", tuple(offer), r, vs, sender=anyone)


@pytest.mark.parametrize("case", cases("Batch"), ids=("usual", "largest"))
def test_batch_of_the_vectors_is_signed_and_no_field_can_change(twin: Twin, case: dict[str, Any]) -> None:
    """The court's Proofs recovers its signer, and finds that a batch doesn't contradict itself."""
    anyone = twin.world.account("anyone")
    with twin.proofs.refuses("NoContradiction()"):
        twin.proofs.send("proveTwoBatches", signed(case), signed(case), sender=anyone)
    for place in range(len(values(case)) + 2):
        with twin.proofs.refuses("NotSignedBy"):
            twin.proofs.send("proveTwoBatches", changed(case, place), signed(case), sender=anyone)


@pytest.mark.parametrize("case", cases("Receipt"), ids=("usual", "largest"))
def test_receipt_of_the_vectors_has_the_same_hash_on_chain(twin: Twin, case: dict[str, Any]) -> None:
    """Proofs names the receipt that it doesn't find in a batch by the hash that the vector has."""
    batched = (signed(cases("Batch")[0]), values(case), [])
    with twin.proofs.refuses(f"NotInBatch({case['struct_hash']})"):
        twin.proofs.send("proveTwoReceipts", batched, batched, sender=twin.world.account("anyone"))


def test_trees_of_the_vectors_are_proven_on_chain(world: World) -> None:
    """The ledger finds every item of every tree under its root, and none under another item's proof."""
    publisher, epoch = world.account("validator"), world.evm.now() // EPOCH_S
    for number, tree in enumerate(TREES):
        kind = keccak(b"tree %d" % number)
        items, root = [bytes.fromhex(item[2:]) for item in tree["items"]], bytes.fromhex(tree["root"][2:])
        world.ledger.send("post", kind, epoch, root, keccak(b"blob"), len(items), sender=publisher)
        proofs = [[bytes.fromhex(step[2:]) for step in proof] for proof in tree["proofs"]]
        for item, proof in zip(items, proofs, strict=True):
            assert world.ledger.call("included", publisher, kind, epoch, item, proof) is True
        if len(items) > 2:
            assert world.ledger.call("included", publisher, kind, epoch, items[0], proofs[-1]) is False


@pytest.mark.parametrize("case", SPLITS, ids=lambda case: str(case["amount"]))
def test_splits_of_the_vectors_are_paid_on_chain(world: World, case: dict[str, Any]) -> None:
    """The escrow credits provider, builder, data pot and protocol what the vector says."""
    service = world.register("echo", case["basis_points"])
    world.deposit(world.account("gateway"), case["amount"])
    world.redeem([world.pay("gateway", "provider", service, case["amount"])])
    payees = (world.account("provider"), world.account("builder"), world.account("data pot"), world.protocol_pot)
    assert [world.unswept(payee) for payee in payees] == case["shares"]
