"""Blobs of rewards: canonical, bounded, believed only under the root and total that were proposed."""

from __future__ import annotations

import msgspec
import pytest
from eth_abi import encode
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import BadMessage, BadTotal, PeerError
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.merkle import verify_proof
from steelyard.protocol.rewards_blob import (
    MAX_REWARDS_BLOB_BYTES,
    MAX_SHARE_NANO,
    add_earnings,
    build_share_proof,
    decode_rewards,
    encode_rewards,
    share_item,
    shares_root,
)
from steelyard.protocol.signing import Domain

DOMAIN = Domain(31415, b"\x07" * 32)
ALICE, BOB, CAROL = (bytes([n]) * 20 for n in (1, 2, 3))
shares = st.dictionaries(st.binary(min_size=20, max_size=20), st.integers(1, 10**18), max_size=20)


def rebuild(**changes: object) -> bytes:
    """Return a blob of two shares, some of its fields replaced."""
    content: dict[str, object] = {"version": 1, "chain": 31415, "salt": b"\x07" * 32, "epoch": 3}
    content["shares"] = [[ALICE, 5], [BOB, 7]]
    return msgspec.msgpack.encode(list((content | changes).values()))


def test_share_item_is_what_the_contract_hashes() -> None:
    """The item is keccak of the ABI encoding of account and amount."""
    assert share_item(ALICE, 123) == keccak(encode(["address", "uint256"], [ALICE, 123]))


@given(shares, st.integers(0, 2**40))
def test_rewards_blob_decoded_gives_what_was_encoded(before: dict[bytes, int], epoch: int) -> None:
    """Any shares come back, whatever order they were given in, under their own root and total alone."""
    blob = encode_rewards(DOMAIN, epoch, before)
    root, total = shares_root(before), sum(before.values())
    decoded = decode_rewards(blob, DOMAIN, root=root, total=total)
    assert (decoded.as_shares(), decoded.epoch) == (before, epoch)
    assert list(decoded.as_shares()) == sorted(before)
    assert blob == encode_rewards(DOMAIN, epoch, dict(reversed(before.items())))
    with pytest.raises(BadTotal, match="add up to"):
        decode_rewards(blob, DOMAIN, root=root, total=total + 1)
    with pytest.raises(BadTotal, match="root"):
        decode_rewards(blob, DOMAIN, root=keccak(root), total=total)
    for account, cumulative in before.items():
        assert verify_proof(root, share_item(account, cumulative), build_share_proof(before, account))


@given(shares, shares)
def test_earnings_added_never_lower_a_share(before: dict[bytes, int], earned: dict[bytes, int]) -> None:
    """Each account has what it had and what it earned, and nobody else has anything."""
    after = add_earnings(before, earned)
    assert all(after.get(account, 0) >= amount for account, amount in before.items())
    assert sum(after.values()) == sum(before.values()) + sum(earned.values())
    assert list(after) == sorted({*before, *earned})


def test_earnings_of_nothing_leave_no_share() -> None:
    """A leaf of zero would only cost gas."""
    assert add_earnings({}, {ALICE: 0, BOB: 4}) == {BOB: 4}
    assert shares_root({}) == ZERO32


@pytest.mark.parametrize(
    ("before", "earned"),
    [({ALICE: 5}, {ALICE: -1}), ({}, {b"\x01" * 19: 5}), ({ALICE: MAX_SHARE_NANO}, {ALICE: 1})],
)
def test_earnings_that_are_none_refused(before: dict[bytes, int], earned: dict[bytes, int]) -> None:
    """Nothing is taken back, accounts have 20 bytes, amounts fit."""
    with pytest.raises(BadMessage):
        add_earnings(before, earned)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x93\x01",
        rebuild(version=2),
        rebuild(chain=1),
        rebuild(salt=b"\x08" * 32),
        rebuild(epoch=-1),
        rebuild(shares=[[BOB, 7], [ALICE, 5]]),
        rebuild(shares=[[ALICE, 5], [ALICE, 7]]),
        rebuild(shares=[[ALICE, 0], [BOB, 12]]),
        rebuild(shares=[[ALICE, -5], [BOB, 17]]),
        rebuild(shares=[[ALICE, 5.0], [BOB, 7]]),
        rebuild(shares=[[ALICE[:19], 5], [BOB, 7]]),
        rebuild(shares=[[ALICE, 5, 1], [BOB, 7]]),
        rebuild() + b"\x00",
    ],
)
def test_rewards_blob_malformed_refused(blob: bytes) -> None:
    """Whatever isn't exactly the form is refused before any of it counts."""
    with pytest.raises(BadMessage):
        decode_rewards(blob, DOMAIN, root=shares_root({ALICE: 5, BOB: 7}), total=12)


def test_rewards_blob_too_large_refused_unread() -> None:
    """Its size is looked at first."""
    with pytest.raises(BadMessage, match="at most"):
        decode_rewards(bytes(MAX_REWARDS_BLOB_BYTES + 1), DOMAIN, root=ZERO32, total=0)


@given(st.binary(max_size=200))
def test_rewards_blob_of_any_bytes_refused_not_crashed(blob: bytes) -> None:
    """Strangers' bytes end in a refusal with a code."""
    with pytest.raises(PeerError):
        decode_rewards(blob, DOMAIN, root=b"\x01" * 32, total=1)


def test_share_proof_of_a_stranger_refused() -> None:
    """Who has no share has no proof."""
    with pytest.raises(KeyError):
        build_share_proof({ALICE: 1}, CAROL)
