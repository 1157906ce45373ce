"""Yard: the token's own rules, and that OpenZeppelin's parts are wired as wallets and x402 expect them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from tests.contracts.evm import CHAIN_ID
from tests.contracts.world import YARD, World

from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import MAX_UINT64
from steelyard.protocol.signing import SigningKey

TRANSFER = ["from", "to", "value", "validAfter", "validBefore", "nonce"]
TYPES: dict[str, list[tuple[str, str]]] = {
    "Permit": [
        ("owner", "address"),
        ("spender", "address"),
        ("value", "uint256"),
        ("nonce", "uint256"),
        ("deadline", "uint256"),
    ],
    "TransferWithAuthorization": list(zip(TRANSFER, ["address"] * 2 + ["uint256"] * 3 + ["bytes32"], strict=True)),
    "ReceiveWithAuthorization": list(zip(TRANSFER, ["address"] * 2 + ["uint256"] * 3 + ["bytes32"], strict=True)),
    "CancelAuthorization": [("authorizer", "address"), ("nonce", "bytes32")],
    "Delegation": [("delegatee", "address"), ("nonce", "uint256"), ("expiry", "uint256")],
}
NONCE = keccak(b"nonce")


def sign(world: World, key: SigningKey, kind: str, values: Sequence[Any]) -> tuple[int, bytes, bytes]:
    """Return (v, r, s) under the token's own domain, hashed by eth-account as any wallet would."""
    message = {name: value for (name, _), value in zip(TYPES[kind], values, strict=True)}
    domain = {"name": "Yard", "version": "1", "chainId": CHAIN_ID, "verifyingContract": world.yard.address}
    types = {kind: [{"name": name, "type": solidity} for name, solidity in TYPES[kind]]}
    signable = encode_typed_data(domain, types, message)
    signature = key.sign(keccak(b"\x19" + signable.version + signable.header + signable.body))
    return signature[64], signature[:32], signature[32:64]


def test_yard_deployed_has_nine_decimals_and_no_supply(world: World) -> None:
    """One YARD is 10^9 nano, and nothing exists before it is minted."""
    assert world.yard.call("name") == "Yard"
    assert world.yard.call("symbol") == "YARD"
    assert world.yard.call("decimals") == 9
    assert world.yard.call("totalSupply") == 0


def test_mint_by_minter_adds_to_supply(world: World) -> None:
    """The role that the manager named creates YARD."""
    alice = world.account("alice")
    world.yard.send("mint", alice, 5 * YARD, sender=world.minter)
    assert world.balance(alice) == world.yard.call("totalSupply") == 5 * YARD


@pytest.mark.parametrize("who", ["admin", "slasher", "alice"])
def test_mint_by_others_refused(world: World, who: str) -> None:
    """Not even the manager's admin mints without the role."""
    caller = world.account(who)
    with world.yard.refuses(f"AccessManagedUnauthorized(0x{caller.hex()})"):
        world.yard.send("mint", caller, 1, sender=caller)


def test_burn_by_holder_lowers_supply(world: World) -> None:
    """A holder may destroy its own YARD."""
    alice = world.account("alice")
    world.fund(alice, 5 * YARD)
    world.yard.send("burn", 2 * YARD, sender=alice)
    assert world.balance(alice) == world.yard.call("totalSupply") == 3 * YARD


def test_burn_above_balance_refused(world: World) -> None:
    """Nobody burns what it does not hold."""
    alice = world.account("alice")
    world.fund(alice, 5)
    with world.yard.refuses("ERC20InsufficientBalance"):
        world.yard.send("burn", 6, sender=alice)


def test_permit_signed_by_owner_sets_allowance(world: World) -> None:
    """EIP-2612: anyone may submit the owner's signature."""
    key, spender = world.actor("alice"), world.account("bob")
    values = (key.account, spender, 7, 0, MAX_UINT64)
    signature = sign(world, key, "Permit", values)
    world.yard.send("permit", *values[:3], values[4], *signature, sender=spender)
    assert world.yard.call("allowance", key.account, spender) == 7
    assert world.yard.call("nonces", key.account) == 1


def test_permit_replayed_expired_or_of_another_refused(world: World) -> None:
    """A permit holds once, until its deadline, for who signed it."""
    key, spender = world.actor("alice"), world.account("bob")
    values = (key.account, spender, 7, 0, MAX_UINT64)
    signature = sign(world, key, "Permit", values)
    world.yard.send("permit", *values[:3], values[4], *signature, sender=spender)
    with world.yard.refuses("ERC2612InvalidSigner"):
        world.yard.send("permit", *values[:3], values[4], *signature, sender=spender)
    with world.yard.refuses("ERC2612InvalidSigner"):
        world.yard.send("permit", spender, *values[1:3], values[4], *signature, sender=spender)
    with world.yard.refuses(f"ERC2612ExpiredSignature({world.evm.now() - 1})"):
        world.yard.send("permit", *values[:3], world.evm.now() - 1, *signature, sender=spender)


def test_transfer_authorization_by_holder_pays_once(world: World) -> None:
    """EIP-3009 with a random nonce, as x402 uses it: anyone may submit, once."""
    key, bob = world.actor("alice"), world.account("bob")
    world.fund(key.account, 10)
    values = (key.account, bob, 4, 0, MAX_UINT64, NONCE)
    signature = sign(world, key, "TransferWithAuthorization", values)
    world.yard.send("transferWithAuthorization", *values, *signature, sender=world.account("relayer"))
    assert (world.balance(key.account), world.balance(bob)) == (6, 4)
    assert world.yard.call("authorizationState", key.account, NONCE) is True
    with world.yard.refuses("ERC3009UsedAuthorization"):
        world.yard.send("transferWithAuthorization", *values, *signature, sender=world.account("relayer"))


def test_transfer_authorization_out_of_time_refused(world: World) -> None:
    """It holds strictly between its two times."""
    key, bob = world.actor("alice"), world.account("bob")
    world.fund(key.account, 10)
    now = world.evm.now()
    for after, before in ((0, now), (now + 1_000, MAX_UINT64)):
        values = (key.account, bob, 4, after, before, NONCE)
        signature = sign(world, key, "TransferWithAuthorization", values)
        with world.yard.refuses(f"ERC3009InvalidAuthorizationTime({after},{before})"):
            world.yard.send("transferWithAuthorization", *values, *signature, sender=bob)


@pytest.mark.parametrize("field", range(len(TRANSFER)))
def test_transfer_authorization_corrupted_refused(world: World, field: int) -> None:
    """Whatever field is changed after signing, the signature is no longer the holder's."""
    key, bob = world.actor("alice"), world.account("bob")
    world.fund(key.account, 10)
    values = [key.account, bob, 4, 0, MAX_UINT64, NONCE]
    signature = sign(world, key, "TransferWithAuthorization", values)
    values[field] = [bob, key.account, 5, 1, MAX_UINT64 - 1, keccak(b"other")][field]
    with world.yard.refuses("ERC3009InvalidSignature()"):
        world.yard.send("transferWithAuthorization", *values, *signature, sender=bob)


def test_receive_authorization_by_payee_pays_and_by_others_refused(world: World) -> None:
    """Only the payee may submit one, so that nobody front-runs a contract that reacts to being paid."""
    key, bob = world.actor("alice"), world.account("bob")
    world.fund(key.account, 10)
    values = (key.account, bob, 4, 0, MAX_UINT64, NONCE)
    signature = sign(world, key, "ReceiveWithAuthorization", values)
    with world.yard.refuses("ERC20InvalidReceiver"):
        world.yard.send("receiveWithAuthorization", *values, *signature, sender=world.account("relayer"))
    world.yard.send("receiveWithAuthorization", *values, *signature, sender=bob)
    assert world.balance(bob) == 4


def test_authorization_cancelled_by_holder_is_worthless(world: World) -> None:
    """A cancelled nonce pays nobody, and only its holder cancels it."""
    key, bob = world.actor("alice"), world.account("bob")
    world.fund(key.account, 10)
    cancel = (key.account, NONCE)
    forged = sign(world, world.actor("bob"), "CancelAuthorization", cancel)
    with world.yard.refuses("ERC3009InvalidSignature()"):
        world.yard.send("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)", *cancel, *forged, sender=bob)
    genuine = sign(world, key, "CancelAuthorization", cancel)
    world.yard.send("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)", *cancel, *genuine, sender=bob)
    values = (key.account, bob, 4, 0, MAX_UINT64, NONCE)
    signature = sign(world, key, "TransferWithAuthorization", values)
    with world.yard.refuses("ERC3009UsedAuthorization"):
        world.yard.send("transferWithAuthorization", *values, *signature, sender=bob)


def test_votes_delegated_count_by_time(world: World) -> None:
    """Votes follow delegated balances and are read as of a past second, the clock that stakes use too."""
    alice, bob = world.account("alice"), world.account("bob")
    world.fund(alice, 10)
    before = world.evm.now()
    world.yard.send("delegate", bob, sender=alice)
    world.evm.advance(10)
    world.yard.send("transfer", world.account("carol"), 4, sender=alice)
    assert world.yard.call("CLOCK_MODE") == "mode=timestamp"
    assert world.yard.call("clock") == world.evm.now()
    assert world.yard.call("getVotes", bob) == 6
    assert world.yard.call("getPastVotes", bob, world.evm.now() - 1) == 10
    assert world.yard.call("getPastVotes", bob, before) == 0
    assert world.yard.call("getPastTotalSupply", before) == 10


def test_votes_of_the_present_refused(world: World) -> None:
    """What may still change within the second is not told."""
    now = world.evm.now()
    with world.yard.refuses(f"ERC5805FutureLookup({now},{now})"):
        world.yard.call("getPastVotes", world.account("bob"), now)


def test_delegation_signed_by_another_gives_no_votes_of_holder(world: World) -> None:
    """`delegateBySig` moves the votes of who signed, of nobody else."""
    alice, bob = world.account("alice"), world.actor("bob")
    world.fund(alice, 10)
    values = (bob.account, 0, MAX_UINT64)
    signature = sign(world, bob, "Delegation", values)
    world.yard.send("delegateBySig", *values, *signature, sender=alice)
    assert world.yard.call("getVotes", bob.account) == 0
    assert world.yard.call("delegates", bob.account) == bob.account
