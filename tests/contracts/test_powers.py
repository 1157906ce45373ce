"""Powers: no role, not the manager's admin and not a hostile authority, reaches a deposit or what was earned."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contracts.contract import canonical
from tests.contracts.evm import CallReverted
from tests.contracts.test_deposits import account_of
from tests.contracts.world import GATEWAY, SPLIT, YARD, ZERO_ADDRESS, World

from steelyard.protocol.hashing import ZERO32, keccak

HOSTILE = b"\xee" * 20
RESTRICTED = {
    "yard": {"mint", "setAuthority"},
    "registry": {"lock", "slash", "drawStake", "setAuthority"},
    "escrow": {"setProtocolPot", "setAuthority"},
    "ledger": set(),
    "court": set(),
    "proofs": set(),
}


def hostile_authority(world: World, payload: bytes) -> bytes:
    """Return code that answers `canCall` with "after a delay of one second", and then calls the escrow back.

    A contract under such an authority asks it to consume the scheduled operation: the one moment in which strange code
    runs inside a redemption.
    """
    selector = keccak(b"canCall(address,address,bytes4)")[:4]
    size, escrow = len(payload).to_bytes(2, "big"), world.escrow.address
    choose = b"\x5f\x35\x60\xe0\x1c\x63" + selector + b"\x14\x60"  # is it canCall? then jump to the answer
    copy = b"\x61" + size + b"\x61%b\x5f\x39"  # codecopy(0, where the payload begins, its size)
    call = b"\x5f\x5f\x61" + size + b"\x5f\x5f\x73" + escrow + b"\x5a\xf1"  # call(gas, escrow, 0, 0, size, 0, 0)
    tell = b"\x5f\x52\x60\x20\x5f\xa0\x00"  # log whether it succeeded, and stop
    answer = b"\x5b\x60\x01\x60\x20\x52\x60\x40\x5f\xf3"  # return (false, 1)
    at = len(choose) + 2 + len(copy) + len(call) + len(tell)
    payload_at = (at + len(answer)).to_bytes(2, "big")
    return choose + bytes([at]) + b"\x57" + copy % payload_at + call + tell + answer + payload


def zero_of(part: dict[str, Any]) -> Any:
    """Return the zero value of an ABI parameter."""
    kind = part["type"]
    if kind.endswith("[]"):
        return ()
    if kind.endswith("[4]"):
        return (0,) * 4
    if kind == "bool":
        return False
    if kind == "tuple":
        return tuple(map(zero_of, part["components"]))
    if kind in ("string", "bytes"):
        return "" if kind == "string" else b""
    return ZERO_ADDRESS if kind == "address" else ZERO32[: int(kind[5:])] if kind.startswith("bytes") else 0


def set_authority(world: World, code: bytes) -> None:
    """Let the admin put the registry under a hostile authority, which it may."""
    world.evm.set_code(HOSTILE, code)
    world.manager.send("updateAuthority", world.registry.address, HOSTILE, sender=world.admin)


@pytest.mark.parametrize("name", ["yard", "registry", "escrow", "ledger", "court", "proofs"])
def test_restricted_functions_are_these_alone(world: World, name: str) -> None:
    """Every function that changes anything is tried by a stranger: it is refused these, and none moves a deposit."""
    contract, stranger = getattr(world, name), world.account("stranger")
    refused = set()
    for entry in contract.interface.artifact.abi:
        if entry["type"] != "function" or entry["stateMutability"] in ("view", "pure"):
            continue
        signature = f"{entry['name']}({','.join(map(canonical, entry['inputs']))})"
        try:
            contract.send(signature, *(zero_of(part) for part in entry["inputs"]), sender=stranger)
        except CallReverted as error:
            if contract.reason(error.data).startswith("AccessManagedUnauthorized"):
                refused.add(entry["name"])
    assert refused == RESTRICTED[name]


@pytest.mark.parametrize("who", ["slasher", "minter", "alice"])
def test_protocol_pot_set_by_others_refused(world: World, who: str) -> None:
    """Only the manager's admin, or whom it names, chooses where the protocol's share goes."""
    caller = world.account(who)
    with world.escrow.refuses(f"AccessManagedUnauthorized(0x{caller.hex()})"):
        world.escrow.send("setProtocolPot", caller, sender=caller)


def test_protocol_pot_set_anew_receives_later_shares_only(world: World) -> None:
    """What the old pot was credited stays its own."""
    service = world.register("echo")
    world.deposit(world.account("gateway"), 10 * YARD)
    world.redeem([world.pay("gateway", "provider", service, YARD)])
    pot = world.account("new pot")
    assert world.escrow.send("setProtocolPot", pot, sender=world.admin).only("ProtocolPotSet") == {"pot": pot}
    world.redeem([world.pay("gateway", "provider", service, 3 * YARD)])
    share = SPLIT[3] * YARD // 10_000
    assert (world.unswept(world.protocol_pot), world.unswept(pot)) == (share, 2 * share)
    with world.escrow.refuses("ZeroAddress()"):
        world.escrow.send("setProtocolPot", ZERO_ADDRESS, sender=world.admin)


def test_admin_with_every_role_reaches_no_deposit(world: World) -> None:
    """The admin grants itself everything; the deposit and what was earned stay where they are."""
    service = world.register("echo")
    gateway, provider = world.account("gateway"), world.account("provider")
    world.deposit(gateway, 10 * YARD)
    world.redeem([world.pay("gateway", "provider", service, 4 * YARD)])
    for role in (1, 2, 3):
        world.manager.send("grantRole", role, world.admin, 0, sender=world.admin)
    before = (account_of(world, gateway), world.unswept(provider), world.balance(world.escrow.address))
    world.registry.send("drawStake", gateway, 10 * YARD, sender=world.admin)
    world.registry.send("slash", gateway, GATEWAY, 10 * YARD, world.admin, sender=world.admin)
    for call in (("withdraw",), ("announceWithdrawal", 1), ("cancelWithdrawal",)):
        with world.escrow.refuses("InsufficientDeposit" if len(call) == 2 else "NothingAnnounced"):
            world.escrow.send(*call, sender=world.admin)
    world.escrow.send("sweep", [world.admin], sender=world.admin)
    assert (account_of(world, gateway), world.unswept(provider), world.balance(world.escrow.address)) == before
    assert world.balance(world.admin) == 0


def test_hostile_authority_that_reverts_stops_no_redemption(world: World) -> None:
    """An admin that breaks the registry's authority stops draws, not what deposits pay."""
    service = world.register("echo")
    gateway = world.account("gateway")
    world.deposit(gateway, 10 * YARD)
    world.stake(gateway, GATEWAY, 500 * YARD)
    set_authority(world, b"\x5f\x5f\xfd")
    receipt = world.redeem([world.pay("gateway", "provider", service, 16 * YARD)])
    assert receipt.only("LaneRedeemed")["paid"] == 10 * YARD
    assert account_of(world, gateway)[:2] == (0, 6 * YARD)


@pytest.mark.parametrize("attack", ["same voucher", "sweep"])
def test_hostile_authority_that_reenters_gains_nothing(world: World, attack: str) -> None:
    """Called in the middle of a redemption it calls back, and money is conserved to the nano."""
    service = world.register("echo", (10_000, 0, 0, 0))
    gateway, victim, provider = world.account("gateway"), world.account("victim"), world.account("provider")
    world.deposit(gateway, 10 * YARD)
    world.deposit(victim, 100 * YARD)
    world.stake(gateway, GATEWAY, 500 * YARD)
    voucher = world.pay("gateway", "provider", service, 16 * YARD)
    if attack == "sweep":
        payload = world.escrow.encode("sweep", [provider])
    else:
        payload = world.escrow.encode("redeem", [voucher], ZERO32)
    set_authority(world, hostile_authority(world, payload))
    receipt = world.redeem([voucher])
    assert receipt.only("Unknown") == {"address": HOSTILE, "data": ZERO32}, "it called back, and was refused"
    assert receipt.only("LaneRedeemed")["paid"] == 16 * YARD
    assert world.unswept(provider) == 16 * YARD
    assert account_of(world, gateway)[:2] == (0, 0)
    assert account_of(world, victim)[0] == 100 * YARD
    assert world.balance(world.escrow.address) == 116 * YARD
