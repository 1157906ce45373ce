"""Deposits: putting money in, announcing, waiting and taking it out, each success beside its refusal."""

from __future__ import annotations

import pytest
from tests.contracts.test_yard import sign
from tests.contracts.world import SALT, UNBOND_DELAY_S, WITHDRAW_DELAY_S, YARD, ZERO_ADDRESS, World

from steelyard.protocol.messages import MAX_UINT64


def account_of(world: World, gateway: bytes) -> tuple[int, int, int, int]:
    """Return (deposit, owed, announced, ready at)."""
    values: tuple[int, int, int, int] = world.escrow.call("accountOf", gateway)
    return values


def announce(world: World, gateway: bytes, amount: int) -> int:
    """Announce a withdrawal and return when it is ready."""
    receipt = world.escrow.send("announceWithdrawal", amount, sender=gateway)
    return int(receipt.only("WithdrawalAnnounced")["readyAt"])


def test_deposit_by_gateway_counts(world: World) -> None:
    """What leaves the wallet is in the deposit."""
    gateway = world.account("gateway")
    receipt = world.deposit(gateway, 10)
    assert receipt.only("Deposited") == {"gateway": gateway, "payer": gateway, "amount": 10}
    assert account_of(world, gateway) == (10, 0, 0, 0)
    assert (world.balance(gateway), world.balance(world.escrow.address)) == (0, 10)


def test_deposit_by_stranger_counts_for_gateway(world: World) -> None:
    """Anyone may add to a deposit; only the gateway can take it out."""
    gateway, alice = world.account("gateway"), world.account("alice")
    world.fund(alice, 10)
    receipt = world.escrow.send("deposit", gateway, 10, sender=alice)
    assert receipt.only("Deposited") == {"gateway": gateway, "payer": alice, "amount": 10}
    with world.escrow.refuses("InsufficientDeposit(0,10)"):
        world.escrow.send("announceWithdrawal", 10, sender=alice)
    announce(world, gateway, 10)


def test_deposit_of_nothing_for_nobody_or_without_allowance_refused(world: World) -> None:
    """Zero, the zero account, and a wallet that did not agree."""
    alice = world.account("alice")
    world.yard.send("mint", alice, 10, sender=world.minter)
    with world.yard.refuses("ERC20InsufficientAllowance"):
        world.escrow.send("deposit", alice, 10, sender=alice)
    with world.escrow.refuses("ZeroAmount()"):
        world.escrow.send("deposit", alice, 0, sender=alice)
    with world.escrow.refuses("ZeroAddress()"):
        world.escrow.send("deposit", ZERO_ADDRESS, 10, sender=alice)


def test_deposit_beyond_its_width_refused(world: World) -> None:
    """A deposit that would not fit its 120 bits is refused, never cut."""
    alice = world.account("alice")
    world.fund(alice, 2**120)
    with world.escrow.refuses(f"SafeCastOverflowedUintDowncast(120,{2**120})"):
        world.escrow.send("deposit", alice, 2**120, sender=alice)
    world.escrow.send("deposit", alice, 2**120 - 1, sender=alice)


def test_deposit_with_permit_needs_no_allowance(world: World) -> None:
    """One transaction: the permit, then the deposit."""
    key, gateway = world.actor("alice"), world.account("gateway")
    world.yard.send("mint", key.account, 10, sender=world.minter)
    v, r, s = sign(world, key, "Permit", (key.account, world.escrow.address, 10, 0, MAX_UINT64))
    world.escrow.send("depositWithPermit", gateway, 10, MAX_UINT64, v, r, s, sender=key.account)
    assert account_of(world, gateway)[0] == 10


def test_deposit_with_permit_submitted_by_another_still_works(world: World) -> None:
    """Who sees a permit in flight and submits it first does not stop the deposit."""
    key = world.actor("alice")
    world.yard.send("mint", key.account, 10, sender=world.minter)
    v, r, s = sign(world, key, "Permit", (key.account, world.escrow.address, 10, 0, MAX_UINT64))
    world.yard.send(
        "permit", key.account, world.escrow.address, 10, MAX_UINT64, v, r, s, sender=world.account("mallory")
    )
    world.escrow.send("depositWithPermit", key.account, 10, MAX_UINT64, v, r, s, sender=key.account)
    assert account_of(world, key.account)[0] == 10


def test_deposit_with_permit_of_another_refused(world: World) -> None:
    """Nobody deposits a stranger's money by its permit: the permit must be the caller's."""
    key, mallory = world.actor("alice"), world.account("mallory")
    world.yard.send("mint", key.account, 10, sender=world.minter)
    v, r, s = sign(world, key, "Permit", (key.account, world.escrow.address, 10, 0, MAX_UINT64))
    with world.yard.refuses("ERC20InsufficientAllowance"):
        world.escrow.send("depositWithPermit", mallory, 10, MAX_UINT64, v, r, s, sender=mallory)


def test_withdrawal_after_delay_pays_wallet(world: World) -> None:
    """Announced, waited for, taken."""
    gateway = world.account("gateway")
    world.deposit(gateway, 10)
    ready = announce(world, gateway, 4)
    assert ready == world.evm.now() + WITHDRAW_DELAY_S
    assert account_of(world, gateway) == (10, 0, 4, ready)
    world.evm.advance(WITHDRAW_DELAY_S - 1)
    receipt = world.escrow.send("withdraw", sender=gateway)
    assert receipt.only("Withdrawn") == {"gateway": gateway, "amount": 4}
    assert account_of(world, gateway) == (6, 0, 0, 0)
    assert world.balance(gateway) == 4


def test_withdrawal_before_delay_refused(world: World) -> None:
    """One second early is too early."""
    gateway = world.account("gateway")
    world.deposit(gateway, 10)
    ready = announce(world, gateway, 4)
    world.evm.advance(WITHDRAW_DELAY_S - 2)
    with world.escrow.refuses(f"StillWaiting({ready})"):
        world.escrow.send("withdraw", sender=gateway)


def test_withdrawal_unannounced_or_taken_twice_refused(world: World) -> None:
    """Without an announcement nothing leaves, and one announcement is good for one withdrawal."""
    gateway = world.account("gateway")
    world.deposit(gateway, 10)
    with world.escrow.refuses("NothingAnnounced()"):
        world.escrow.send("withdraw", sender=gateway)
    announce(world, gateway, 4)
    world.evm.advance(WITHDRAW_DELAY_S)
    world.escrow.send("withdraw", sender=gateway)
    with world.escrow.refuses("NothingAnnounced()"):
        world.escrow.send("withdraw", sender=gateway)


def test_withdrawal_announced_above_deposit_or_zero_refused(world: World) -> None:
    """Nothing, and more than there is."""
    gateway = world.account("gateway")
    world.deposit(gateway, 10)
    with world.escrow.refuses("ZeroAmount()"):
        world.escrow.send("announceWithdrawal", 0, sender=gateway)
    with world.escrow.refuses("InsufficientDeposit(10,11)"):
        world.escrow.send("announceWithdrawal", 11, sender=gateway)


def test_withdrawal_announced_anew_waits_anew(world: World) -> None:
    """A larger amount can't ride on an older date."""
    gateway = world.account("gateway")
    world.deposit(gateway, 10)
    announce(world, gateway, 1)
    world.evm.advance(WITHDRAW_DELAY_S)
    ready = announce(world, gateway, 10)
    with world.escrow.refuses(f"StillWaiting({ready})"):
        world.escrow.send("withdraw", sender=gateway)


def test_withdrawal_cancelled_is_gone(world: World) -> None:
    """A gateway that stays takes its announcement back; there is nothing to take back twice."""
    gateway = world.account("gateway")
    world.deposit(gateway, 10)
    announce(world, gateway, 10)
    receipt = world.escrow.send("cancelWithdrawal", sender=gateway)
    assert receipt.only("WithdrawalCancelled") == {"gateway": gateway}
    world.evm.advance(WITHDRAW_DELAY_S)
    with world.escrow.refuses("NothingAnnounced()"):
        world.escrow.send("withdraw", sender=gateway)
    with world.escrow.refuses("NothingAnnounced()"):
        world.escrow.send("cancelWithdrawal", sender=gateway)


def test_withdrawal_of_another_is_untouched(world: World) -> None:
    """One gateway's announcement opens no other's deposit."""
    one, two = world.account("one"), world.account("two")
    world.deposit(one, 10)
    world.deposit(two, 10)
    announce(world, one, 10)
    world.evm.advance(WITHDRAW_DELAY_S)
    with world.escrow.refuses("NothingAnnounced()"):
        world.escrow.send("withdraw", sender=two)


def test_voucher_during_delay_is_paid_before_withdrawal(world: World) -> None:
    """Redeemed in the last second before the withdrawal, a voucher is paid whole and the gateway gets the rest."""
    service = world.register("echo")
    gateway = world.account("gateway")
    world.deposit(gateway, 10 * YARD)
    announce(world, gateway, 10 * YARD)
    world.evm.advance(WITHDRAW_DELAY_S - 2)
    assert world.redeem([world.pay("gateway", "provider", service, 7 * YARD)]).only("LaneRedeemed")["paid"] == 7 * YARD
    receipt = world.escrow.send("withdraw", sender=gateway)
    assert receipt.only("Withdrawn")["amount"] == 3 * YARD


def test_voucher_after_delay_is_paid_while_nothing_was_taken(world: World) -> None:
    """A withdrawal that is ready reserves nothing."""
    service = world.register("echo")
    gateway = world.account("gateway")
    world.deposit(gateway, 10 * YARD)
    announce(world, gateway, 10 * YARD)
    world.evm.advance(2 * WITHDRAW_DELAY_S)
    world.redeem([world.pay("gateway", "provider", service, 10 * YARD)])
    assert world.escrow.send("withdraw", sender=gateway).only("Withdrawn")["amount"] == 0


def test_escrow_without_delay_token_or_pot_refused(world: World) -> None:
    """A delay of zero would leave providers no time, and the protocol's share needs someone to receive it."""
    token, registry, manager = world.yard.address, world.registry.address, world.manager.address
    with world.escrow.refuses("ZeroDelay()"):
        world.create("Escrow", token, registry, manager, SALT, 0, manager)
    with world.escrow.refuses("ZeroAddress()"):
        world.create("Escrow", ZERO_ADDRESS, registry, manager, SALT, 1, manager)
    with world.escrow.refuses("ZeroAddress()"):
        world.create("Escrow", token, registry, manager, SALT, 1, ZERO_ADDRESS)


def test_escrow_with_registry_of_other_deployment_refused(world: World) -> None:
    """Its registry must hold the same token and sign under the same domain."""
    token, registry, manager = world.yard.address, world.registry.address, world.manager.address
    wrong = f"WrongRegistry(0x{registry.hex()})"
    with world.escrow.refuses(wrong):
        world.create("Escrow", token, registry, manager, b"\1" * 32, 1, manager)
    other = world.create("Yard", manager)
    with world.escrow.refuses(wrong):
        world.create("Escrow", other.address, registry, manager, SALT, 1, manager)


@pytest.mark.parametrize("delay", [UNBOND_DELAY_S, UNBOND_DELAY_S + 1])
def test_escrow_that_outlasts_unbonding_refused(world: World, delay: int) -> None:
    """A gateway's stake may not leave before the vouchers that it stands for."""
    parts = (world.yard.address, world.registry.address, world.manager.address, SALT)
    with world.escrow.refuses(f"StakeLeavesFirst({UNBOND_DELAY_S},{delay})"):
        world.create("Escrow", *parts, delay, world.protocol_pot)
