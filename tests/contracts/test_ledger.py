"""Ledger: roots are posted once, under one's own name, and prove what is in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contracts.contract import Receipt
from tests.contracts.world import EPOCH_S, World

from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.merkle import build_proof, merkle_root

KIND = keccak(b"verdicts")
CID = keccak(b"blob")


def epoch(world: World) -> int:
    """Return the running epoch."""
    return world.evm.now() // EPOCH_S


def post(world: World, items: list[bytes], at: int, publisher: str = "validator") -> Receipt:
    """Post the root of some items."""
    args = (KIND, at, merkle_root(items), CID, len(items))
    return world.ledger.send("post", *args, sender=world.account(publisher))


def test_root_posted_is_told(world: World) -> None:
    """What was posted can be read by publisher, kind and epoch."""
    items = [keccak(b"one"), keccak(b"two")]
    publisher, now = world.account("validator"), epoch(world)
    event = post(world, items, now).only("Posted")
    root = merkle_root(items)
    assert event == {"publisher": publisher, "kind": KIND, "epoch": now, "root": root, "cid": CID, "count": 2}
    assert world.ledger.call("rootOf", publisher, KIND, now) == (root, CID, 2, world.evm.now())
    assert world.ledger.call("rootOf", publisher, KIND, now + 1) == (ZERO32, ZERO32, 0, 0)


def test_root_posted_twice_refused(world: World) -> None:
    """The record only grows; others' names and other kinds are other records."""
    now = epoch(world)
    post(world, [keccak(b"one")], now)
    with world.ledger.refuses("AlreadyPosted"):
        post(world, [keccak(b"two")], now)
    post(world, [keccak(b"two")], now, "validator two")
    post(world, [keccak(b"two")], now - 1)


def test_root_of_future_epoch_refused(world: World) -> None:
    """The running epoch may be posted, the next may not."""
    now = epoch(world)
    with world.ledger.refuses(f"FutureEpoch({now + 1},{now})"):
        post(world, [keccak(b"one")], now + 1)


def test_root_empty_refused(world: World) -> None:
    """A root or a count of zero records nothing."""
    publisher = world.account("validator")
    for root, count in ((ZERO32, 1), (CID, 0)):
        with world.ledger.refuses("EmptyRoot()"):
            world.ledger.send("post", KIND, 1, root, CID, count, sender=publisher)


@given(items=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=9, unique=True), data=st.data())
def test_included_item_is_proven_and_others_are_not(deployed: World, items: list[bytes], data: st.DataObject) -> None:
    """Python's tree and OpenZeppelin's verifier agree, for trees of any shape."""
    world = deployed
    world.reset()
    now, publisher = epoch(world), world.account("validator")
    post(world, items, now)
    place = data.draw(st.integers(0, len(items) - 1))
    proof = build_proof(items, place)
    key = (publisher, KIND, now)
    assert world.ledger.call("included", *key, items[place], proof) is True
    assert world.ledger.call("included", *key, keccak(items[place]), proof) is False
    assert world.ledger.call("included", *key, items[place], [*proof, CID]) is False
    assert world.ledger.call("included", world.account("other"), KIND, now, items[place], proof) is False


def test_included_inner_node_is_no_item(world: World) -> None:
    """A node of the tree can't be passed off as an item, since leaves are hashed twice from the item."""
    items = [keccak(bytes([n])) for n in range(4)]
    now, publisher = epoch(world), world.account("validator")
    post(world, items, now)
    leaf = keccak(keccak(items[0]))
    assert world.ledger.call("included", publisher, KIND, now, leaf, build_proof(items, 0)) is False
    assert world.ledger.call("included", publisher, KIND, now, merkle_root(items), []) is False


def test_included_where_nothing_was_posted_is_false(world: World) -> None:
    """No root proves nothing, not even the empty one."""
    assert world.ledger.call("included", world.account("nobody"), KIND, 0, ZERO32, []) is False


def test_epochs_are_spans_of_unix_time(world: World) -> None:
    """Epoch n begins at n times its length."""
    assert world.ledger.call("epochSeconds") == EPOCH_S
    for t in (0, EPOCH_S - 1, EPOCH_S, world.evm.now(), 2**48 - 1):
        assert world.ledger.call("epochAt", t) == t // EPOCH_S


def test_ledger_without_epoch_length_refused(world: World) -> None:
    """An epoch lasts at least a second."""
    with world.ledger.refuses("ZeroEpochLength()"):
        world.create("Ledger", 0)


@pytest.mark.parametrize("count", [1, 2**64 - 1])
def test_count_fills_its_width(world: World, count: int) -> None:
    """The number of items may be any that fits."""
    world.ledger.send("post", KIND, 0, CID, CID, count, sender=world.account("validator"))
    assert world.ledger.call("rootOf", world.account("validator"), KIND, 0)[2] == count
