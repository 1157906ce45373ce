"""Debts: what a deposit can't pay stays owed, draws on the stake, and holds withdrawals back."""

from __future__ import annotations

import pytest
from tests.contracts.contract import Receipt
from tests.contracts.test_deposits import account_of, announce
from tests.contracts.world import GATEWAY, WITHDRAW_DELAY_S, YARD, ZERO_ADDRESS, World, skips

LOCKED_FOR_EVER = 2**48 - 1


@pytest.fixture
def service(world: World) -> bytes:
    """A service whose provider gets all, and a gateway with 10 YARD."""
    world.deposit(world.account("gateway"), 10 * YARD)
    return world.register("echo", (10_000, 0, 0, 0))


def pay(world: World, service: bytes, amount: int, provider: str = "provider") -> Receipt:
    """Redeem one voucher of the gateway."""
    return world.redeem([world.pay("gateway", provider, service, amount * YARD)])


def paid(receipt: Receipt) -> int:
    """Return what one voucher was paid, in whole YARD."""
    amount, rest = divmod(receipt.only("LaneRedeemed")["paid"], YARD)
    assert rest == 0
    return int(amount)


def test_voucher_above_deposit_is_paid_in_part_and_owed(world: World, service: bytes) -> None:
    """The total is accepted whole; what was not paid is the lane's, and the gateway's, debt."""
    gateway = world.account("gateway")
    receipt = pay(world, service, 16)
    assert paid(receipt) == 10
    lane = receipt.only("LaneRedeemed")["lane"]
    assert world.escrow.call("laneOf", lane) == (16 * YARD, 10 * YARD)
    assert account_of(world, gateway)[:2] == (0, 6 * YARD)
    assert world.unswept(world.account("provider")) == 10 * YARD


def test_same_voucher_after_deposit_collects_what_is_owed(world: World, service: bytes) -> None:
    """It may be submitted again and again, and collects as much as there is until all is paid."""
    gateway = world.account("gateway")
    voucher = world.pay("gateway", "provider", service, 16 * YARD)
    world.redeem([voucher])
    assert skips(world.redeem([voucher])) == [(0, "NoFunds")]
    world.deposit(gateway, 2 * YARD)
    assert paid(world.redeem([voucher])) == 2
    assert account_of(world, gateway)[:2] == (0, 4 * YARD)
    world.deposit(gateway, 9 * YARD)
    assert paid(world.redeem([voucher])) == 4
    assert account_of(world, gateway)[:2] == (5 * YARD, 0)
    assert skips(world.redeem([voucher])) == [(0, "NothingDue")]
    assert world.unswept(world.account("provider")) == 16 * YARD


def test_higher_voucher_collects_old_debt_too(world: World, service: bytes) -> None:
    """A later total includes what the earlier one left unpaid."""
    pay(world, service, 16)
    world.deposit(world.account("gateway"), 10 * YARD)
    assert paid(pay(world, service, 18)) == 8
    assert account_of(world, world.account("gateway"))[:2] == (2 * YARD, 0)


def test_one_pool_promised_to_many_owes_each_its_rest(world: World, service: bytes) -> None:
    """First come, first paid; everyone's rest is owed, also that of who got nothing."""
    vouchers = [world.pay("gateway", name, service, 6 * YARD) for name in ("one", "two", "three")]
    receipt = world.redeem(vouchers)
    assert [event["paid"] for event in receipt.all("LaneRedeemed")] == [6 * YARD, 4 * YARD, 0]
    assert account_of(world, world.account("gateway"))[:2] == (0, 8 * YARD)
    world.deposit(world.account("gateway"), 8 * YARD)
    assert [event["paid"] for event in world.redeem(vouchers).all("LaneRedeemed")] == [2 * YARD, 6 * YARD]


def test_withdrawal_while_owing_refused(world: World, service: bytes) -> None:
    """Who owes anything takes nothing out, however long it waited."""
    gateway = world.account("gateway")
    pay(world, service, 11)
    world.deposit(gateway, 50 * YARD)
    announce(world, gateway, 50 * YARD)
    world.evm.advance(WITHDRAW_DELAY_S)
    with world.escrow.refuses(f"StillOwing({YARD})"):
        world.escrow.send("withdraw", sender=gateway)
    pay(world, service, 11)
    world.escrow.send("withdraw", sender=gateway)
    assert world.balance(gateway) == 49 * YARD


def test_shortfall_is_drawn_from_gateway_stake(world: World, service: bytes) -> None:
    """What the deposit can't pay comes from the gateway's stake, and is split like the rest."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, 20 * YARD)
    receipt = pay(world, service, 16)
    assert paid(receipt) == 16
    lane = receipt.only("LaneRedeemed")["lane"]
    assert receipt.only("StakeDrawn") == {"gateway": gateway, "lane": lane, "amount": 6 * YARD}
    assert receipt.only("Drawn") == {"gateway": gateway, "drawer": world.escrow.address, "amount": 6 * YARD}
    assert world.registry.call("stakeOf", gateway, GATEWAY) == 14 * YARD
    assert account_of(world, gateway)[:2] == (0, 0)
    assert world.balance(world.escrow.address) == world.unswept(world.account("provider")) == 16 * YARD


def test_shortfall_above_stake_is_owed(world: World, service: bytes) -> None:
    """Deposit and stake together pay what they can."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, 4 * YARD)
    assert paid(pay(world, service, 16)) == 14
    assert account_of(world, gateway)[:2] == (0, 2 * YARD)
    assert world.registry.call("isActive", gateway, GATEWAY) is False


def test_shortfall_reaches_stake_that_is_unbonding(world: World, service: bytes) -> None:
    """A gateway that began to leave still pays, from the leaving part first."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, 20 * YARD)
    world.registry.send("startUnbond", GATEWAY, 5 * YARD, sender=gateway)
    assert paid(pay(world, service, 16)) == 16
    assert world.registry.call("unbondingOf", gateway, GATEWAY)[0] == 0
    assert world.registry.call("stakeOf", gateway, GATEWAY) == 14 * YARD


def test_shortfall_spares_stakes_of_other_roles(world: World, service: bytes) -> None:
    """What an account staked as a provider answers for its work, not for its bills."""
    gateway = world.account("gateway")
    world.stake(gateway, 1, 20 * YARD)
    assert paid(pay(world, service, 16)) == 10
    assert world.registry.call("stakeOf", gateway, 1) == 20 * YARD


def test_shortfall_while_locked_waits_for_the_lock(world: World, service: bytes) -> None:
    """A gateway can't carry a locked stake past its challenge by a voucher to itself; afterwards it pays."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, 20 * YARD)
    world.registry.send("lock", gateway, GATEWAY, LOCKED_FOR_EVER, sender=world.slasher)
    assert paid(pay(world, service, 16)) == 10
    assert world.registry.call("stakeOf", gateway, GATEWAY) == 20 * YARD
    world.registry.send("lock", gateway, GATEWAY, 0, sender=world.slasher)
    assert paid(pay(world, service, 16)) == 6


def test_debt_is_collected_from_stake_that_comes_later(world: World, service: bytes) -> None:
    """The same voucher also reaches a stake that was put in after it."""
    pay(world, service, 16)
    world.stake(world.account("gateway"), GATEWAY, 20 * YARD)
    receipt = pay(world, service, 16)
    assert paid(receipt) == 6
    assert receipt.only("StakeDrawn")["amount"] == 6 * YARD


def test_refusal_by_the_registry_spoils_no_batch(world: World, service: bytes) -> None:
    """Where the escrow has lost its role, deposits still pay and the rest is owed."""
    world.stake(world.account("gateway"), GATEWAY, 20 * YARD)
    world.deposit(world.account("rich"), 10 * YARD)
    world.manager.send("revokeRole", 3, world.escrow.address, sender=world.admin)
    poor = world.pay("gateway", "provider", service, 16 * YARD)
    rich = world.pay("rich", "provider", service, 7 * YARD)
    receipt = world.redeem([poor, rich])
    assert [event["paid"] for event in receipt.all("LaneRedeemed")] == [10 * YARD, 7 * YARD]
    assert account_of(world, world.account("gateway"))[1] == 6 * YARD


def test_slash_before_the_draw_leaves_debt(world: World, service: bytes) -> None:
    """A slashed stake pays nobody twice."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, 20 * YARD)
    world.registry.send("slash", gateway, GATEWAY, 18 * YARD, ZERO_ADDRESS, sender=world.slasher)
    assert paid(pay(world, service, 16)) == 12
    assert account_of(world, gateway)[:2] == (0, 4 * YARD)
