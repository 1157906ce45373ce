"""The EIP-712 domain: contracts, Python and eth-account agree on it; other deployments and chains sign nothing here."""

from __future__ import annotations

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from tests.contracts.contract import Contract
from tests.contracts.evm import CHAIN_ID
from tests.contracts.world import SALT, YARD, World, fields, skips

from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Message, Offer, Voucher
from steelyard.protocol.signing import Domain, compact_signature

DOMAIN = {"name": "Steelyard", "version": "1", "chainId": CHAIN_ID, "salt": SALT}


def typed_data(message: Message) -> tuple[dict[str, list[dict[str, str]]], dict[str, object]]:
    """Return a message as the generic encoder wants it: its types and its values by their Solidity names."""
    inside = message.TYPE[message.TYPE.index("(") + 1 : -1]
    parts = [part.split(" ") for part in inside.split(",")]
    types = {type(message).__name__: [{"name": name, "type": kind} for kind, name in parts]}
    return types, dict(zip((name for _, name in parts), fields(message), strict=True))


def sign_as_wallet(message: Message, secret: bytes) -> tuple[bytes, bytes]:
    """Return the compact signature that eth-account makes of a message, with none of our hashing."""
    signable = encode_typed_data(DOMAIN, *typed_data(message))
    return compact_signature(bytes(Account.sign_message(signable, secret).signature))


def registries(world: World) -> list[Contract]:
    """The contracts that verify signatures."""
    return [world.registry, world.escrow]


def test_domain_separator_on_chain_equals_python_and_eth_account(world: World) -> None:
    """Three independent encoders agree on the domain."""
    generic = encode_typed_data(DOMAIN, *typed_data(Voucher(b"\1" * 20, b"\2" * 20, b"\3" * 32, 4, 5, 6, b"\7" * 32)))
    for contract in registries(world):
        assert contract.call("domainSeparator") == world.domain.separator == generic.header


def test_domain_fields_on_chain_are_those_of_erc5267(world: World) -> None:
    """A wallet can ask a contract what it signs under: name, version, chain id and salt, no contract."""
    for contract in registries(world):
        found = contract.call("eip712Domain")
        assert found == (b"\x17", "Steelyard", "1", CHAIN_ID, b"\x00" * 20, SALT, ())


def test_domain_after_fork_is_that_of_the_new_chain(world: World) -> None:
    """The cached separator is rebuilt when the chain id changes, so a fork can't replay signatures."""
    service = world.register("echo")
    world.deposit(world.account("gateway"), 10 * YARD)
    old = world.pay("gateway", "provider", service, YARD)
    world.evm.set_chain_id(777)
    assert world.escrow.call("domainSeparator") == Domain(777, SALT).separator
    assert skips(world.redeem([old])) == [(0, "BadSignature")]


def test_voucher_signed_by_stock_wallet_is_paid(world: World) -> None:
    """eth-account's generic EIP-712 signature of a voucher is as good as ours."""
    service = world.register("echo")
    gateway = world.actor("gateway")
    world.deposit(gateway.account, 10 * YARD)
    voucher = world.voucher("gateway", "provider", service, YARD)
    receipt = world.redeem([(*fields(voucher), *sign_as_wallet(voucher, gateway.secret))])
    assert receipt.only("LaneRedeemed")["paid"] == YARD


def test_offer_signed_by_stock_wallet_is_set(world: World) -> None:
    """The same of an offer."""
    service = world.register("echo")
    key = world.actor("provider")
    world.stake(key.account, 1, 1_000 * YARD)
    offer = Offer(key.account, service, 1, 2, 3, keccak(b"manifest"), 1)
    args = (fields(offer), *sign_as_wallet(offer, key.secret))
    world.registry.send("setOffer", *args, sender=world.account("anyone"))
    assert world.registry.call("offerOf", key.account, service)[2] == 1


@pytest.mark.parametrize("domain", [Domain(CHAIN_ID, keccak(b"another deployment")), Domain(1, SALT)])
def test_voucher_of_other_deployment_or_chain_skipped(world: World, domain: Domain) -> None:
    """A signature under another salt or chain id pays nothing here."""
    service = world.register("echo")
    gateway = world.actor("gateway")
    world.deposit(gateway.account, 10 * YARD)
    voucher = world.voucher("gateway", "provider", service, YARD)
    foreign = compact_signature(gateway.sign(domain.digest(voucher.struct_hash())))
    assert skips(world.redeem([(*fields(voucher), *foreign)])) == [(0, "BadSignature")]


def test_lane_key_on_chain_equals_python(world: World) -> None:
    """Both sides file a lane under the same key."""
    voucher = world.voucher("gateway", "provider", keccak(b"echo"), 1, lane_id=2**64 - 1)
    assert world.escrow.call("laneKey", *fields(voucher)[:4]) == voucher.lane.key
