"""Stakes: staking, leaving, locks and slashes, each success beside its refusal."""

from __future__ import annotations

import pytest
from tests.contracts.contract import Receipt
from tests.contracts.world import (
    GATEWAY,
    MIN_STAKES,
    PROVIDER,
    UNBOND_DELAY_S,
    VALIDATOR,
    YARD,
    ZERO_ADDRESS,
    World,
)

ROLES = (PROVIDER, GATEWAY, VALIDATOR)


def unbonding(world: World, account: bytes, role: int = PROVIDER) -> int:
    """Return what an account has on its way out."""
    return int(world.registry.call("unbondingOf", account, role)[0])


def lock(world: World, account: bytes, until: int, role: int = PROVIDER) -> Receipt:
    """Lock a stake as the slasher."""
    return world.registry.send("lock", account, role, until, sender=world.slasher)


def slash(world: World, account: bytes, amount: int, to: bytes = ZERO_ADDRESS, role: int = PROVIDER) -> Receipt:
    """Slash a stake as the slasher."""
    return world.registry.send("slash", account, role, amount, to, sender=world.slasher)


@pytest.mark.parametrize("role", ROLES)
def test_stake_at_minimum_makes_active(world: World, role: int) -> None:
    """One nano less than the role's minimum is not enough; each role has its own stake."""
    alice, least = world.account("alice"), MIN_STAKES[role - 1]
    assert world.registry.call("minStakeOf", role) == least
    world.stake(alice, role, least - 1)
    assert world.registry.call("isActive", alice, role) is False
    receipt = world.stake(alice, role, 1)
    assert receipt.only("Staked") == {"account": alice, "role": role, "payer": alice, "amount": 1}
    assert world.registry.call("isActive", alice, role) is True
    assert [world.registry.call("stakeOf", alice, r) for r in ROLES] == [least if r == role else 0 for r in ROLES]


@pytest.mark.parametrize("role", [0, 4, 255])
def test_stake_for_unknown_role_refused(world: World, role: int) -> None:
    """There are three roles, for every function that names one."""
    alice = world.account("alice")
    world.fund(alice, 10)
    refusal = f"UnknownRole({role})"
    for call in (("stake", role, 1), ("stakeFor", alice, role, 1), ("startUnbond", role, 1), ("finishUnbond", role)):
        with world.registry.refuses(refusal):
            world.registry.send(*call, sender=alice)
    for call in (("lock", alice, role, 1), ("slash", alice, role, 1, alice)):
        with world.registry.refuses(refusal):
            world.registry.send(*call, sender=world.slasher)
    with world.registry.refuses(refusal):
        world.registry.call("minStakeOf", role)


def test_stake_of_nothing_or_beyond_wallet_refused(world: World) -> None:
    """Zero is no stake, and the wallet must hold it."""
    alice = world.account("alice")
    world.fund(alice, 5)
    with world.registry.refuses("ZeroAmount()"):
        world.registry.send("stake", PROVIDER, 0, sender=alice)
    with world.yard.refuses("ERC20InsufficientBalance"):
        world.registry.send("stake", PROVIDER, 6, sender=alice)


def test_stake_for_another_belongs_to_it(world: World) -> None:
    """Anyone may pay a stake in; only the account takes it out."""
    alice, bob = world.account("alice"), world.account("bob")
    world.fund(alice, 10)
    receipt = world.registry.send("stakeFor", bob, VALIDATOR, 10, sender=alice)
    assert receipt.only("Staked") == {"account": bob, "role": VALIDATOR, "payer": alice, "amount": 10}
    with world.registry.refuses("InsufficientStake(0,10)"):
        world.registry.send("startUnbond", VALIDATOR, 10, sender=alice)
    world.registry.send("startUnbond", VALIDATOR, 10, sender=bob)


def test_stake_for_nobody_refused(world: World) -> None:
    """The zero address could never take it out."""
    alice = world.account("alice")
    world.fund(alice, 10)
    with world.registry.refuses("ZeroAddress()"):
        world.registry.send("stakeFor", ZERO_ADDRESS, PROVIDER, 10, sender=alice)


def test_unbond_after_delay_returns_stake(world: World) -> None:
    """Leaving stake counts no more at once, and is back in the wallet after the delay."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    started = world.registry.send("startUnbond", PROVIDER, 4, sender=alice).only("UnbondStarted")
    assert started["readyAt"] == world.evm.now() + UNBOND_DELAY_S
    assert world.registry.call("stakeOf", alice, PROVIDER) == 6
    assert world.registry.call("unbondingOf", alice, PROVIDER) == (4, started["readyAt"])
    world.evm.advance(UNBOND_DELAY_S - 1)
    receipt = world.registry.send("finishUnbond", PROVIDER, sender=alice)
    assert receipt.only("UnbondFinished") == {"account": alice, "role": PROVIDER, "amount": 4}
    assert world.balance(alice) == 4
    assert world.registry.call("unbondingOf", alice, PROVIDER) == (0, 0)


def test_unbond_before_delay_refused(world: World) -> None:
    """One second early is too early."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    ready = world.registry.send("startUnbond", PROVIDER, 4, sender=alice).only("UnbondStarted")["readyAt"]
    world.evm.advance(UNBOND_DELAY_S - 2)
    with world.registry.refuses(f"StillUnbonding({ready})"):
        world.registry.send("finishUnbond", PROVIDER, sender=alice)


def test_unbond_started_again_waits_again_for_all(world: World) -> None:
    """There is one date per account and role, and a second start moves it."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    world.registry.send("startUnbond", PROVIDER, 4, sender=alice)
    world.evm.advance(UNBOND_DELAY_S - 10)
    ready = world.registry.send("startUnbond", PROVIDER, 5, sender=alice).only("UnbondStarted")["readyAt"]
    world.evm.advance(20)
    with world.registry.refuses(f"StillUnbonding({ready})"):
        world.registry.send("finishUnbond", PROVIDER, sender=alice)
    world.evm.advance(UNBOND_DELAY_S)
    world.registry.send("finishUnbond", PROVIDER, sender=alice)
    assert world.balance(alice) == 9


def test_unbond_of_nothing_or_too_much_refused(world: World) -> None:
    """Zero, more than the stake, and finishing what never began."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    with world.registry.refuses("ZeroAmount()"):
        world.registry.send("startUnbond", PROVIDER, 0, sender=alice)
    with world.registry.refuses("InsufficientStake(10,11)"):
        world.registry.send("startUnbond", PROVIDER, 11, sender=alice)
    with world.registry.refuses("NothingUnbonding()"):
        world.registry.send("finishUnbond", PROVIDER, sender=alice)


def test_lock_holds_unbonding_until_it_ends(world: World) -> None:
    """While a challenge runs the stake can't leave, though its delay be over."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    world.registry.send("startUnbond", PROVIDER, 10, sender=alice)
    until = world.evm.now() + 2 * UNBOND_DELAY_S
    assert lock(world, alice, until).only("Locked") == {"account": alice, "role": PROVIDER, "until": until}
    assert world.registry.call("lockedUntil", alice, PROVIDER) == until
    world.evm.advance(UNBOND_DELAY_S)
    with world.registry.refuses(f"StillLocked({until})"):
        world.registry.send("finishUnbond", PROVIDER, sender=alice)
    world.evm.advance(UNBOND_DELAY_S)
    world.registry.send("finishUnbond", PROVIDER, sender=alice)
    assert world.balance(alice) == 10


def test_lock_lifted_frees_at_once(world: World) -> None:
    """A dismissed challenge sets the lock to zero."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    world.registry.send("startUnbond", PROVIDER, 10, sender=alice)
    lock(world, alice, 2**48 - 1)
    world.evm.advance(UNBOND_DELAY_S)
    lock(world, alice, 0)
    world.registry.send("finishUnbond", PROVIDER, sender=alice)
    assert world.balance(alice) == 10


def test_lock_of_one_role_leaves_the_others(world: World) -> None:
    """A provider on trial may still leave as a gateway."""
    alice = world.account("alice")
    world.stake(alice, GATEWAY, 10)
    world.registry.send("startUnbond", GATEWAY, 10, sender=alice)
    lock(world, alice, 2**48 - 1, PROVIDER)
    world.evm.advance(UNBOND_DELAY_S)
    world.registry.send("finishUnbond", GATEWAY, sender=alice)
    assert world.balance(alice) == 10


def test_slash_to_nobody_burns(world: World) -> None:
    """A burned slash lowers the supply, and the account's weight with it."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    receipt = slash(world, alice, 3)
    assert receipt.only("Slashed") == {"account": alice, "role": PROVIDER, "amount": 3, "to": ZERO_ADDRESS}
    assert world.registry.call("stakeOf", alice, PROVIDER) == 7
    assert world.yard.call("totalSupply") == 7


def test_slash_to_harmed_pays_it(world: World) -> None:
    """A slash may go to who was harmed."""
    alice, harmed = world.account("alice"), world.account("harmed")
    world.stake(alice, PROVIDER, 10)
    slash(world, alice, 3, harmed)
    assert world.balance(harmed) == 3
    assert world.yard.call("totalSupply") == 10


def test_slash_takes_what_is_leaving_first(world: World) -> None:
    """Unbonding stake is still at risk, and goes before the stake that stays."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    world.registry.send("startUnbond", PROVIDER, 6, sender=alice)
    slash(world, alice, 4)
    assert (unbonding(world, alice), world.registry.call("stakeOf", alice, PROVIDER)) == (2, 4)
    slash(world, alice, 5)
    assert (unbonding(world, alice), world.registry.call("stakeOf", alice, PROVIDER)) == (0, 1)


def test_slash_above_all_takes_all(world: World) -> None:
    """A slash never fails for want of stake; it says what it took, and nothing where there is nothing."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    assert slash(world, alice, 11).only("Slashed")["amount"] == 10
    assert slash(world, alice, 11).all("Slashed") == []


def test_slash_into_the_registry_refused(world: World) -> None:
    """Slashed stake may not be left lying in the contract."""
    alice = world.account("alice")
    world.stake(alice, PROVIDER, 10)
    with world.registry.refuses("InvalidRecipient"):
        slash(world, alice, 1, world.registry.address)


@pytest.mark.parametrize("call", [("lock", 1), ("slash", 1, ZERO_ADDRESS)])
@pytest.mark.parametrize("who", ["alice", "admin", "minter"])
def test_lock_and_slash_by_others_refused(world: World, call: tuple[object, ...], who: str) -> None:
    """Only the slasher's role touches a stake; not the account, not the admin itself."""
    alice, caller = world.account("alice"), world.account(who)
    world.stake(alice, PROVIDER, 10)
    with world.registry.refuses(f"AccessManagedUnauthorized(0x{caller.hex()})"):
        world.registry.send(call[0], alice, PROVIDER, *call[1:], sender=caller)


@pytest.mark.parametrize("who", ["gateway", "admin", "slasher"])
def test_draw_by_others_refused(world: World, who: str) -> None:
    """Only the escrow draws on a gateway's stake."""
    gateway, caller = world.account("gateway"), world.account(who)
    world.stake(gateway, GATEWAY, 10)
    with world.registry.refuses(f"AccessManagedUnauthorized(0x{caller.hex()})"):
        world.registry.send("drawStake", gateway, 1, sender=caller)


def test_stake_at_past_second_is_what_stood_then(world: World) -> None:
    """Weights are read as of a past second, per account and in total, whatever happened since."""
    alice, bob = world.account("alice"), world.account("bob")
    start = world.evm.now()
    world.stake(alice, VALIDATOR, 10)
    first = world.evm.now()
    world.evm.advance(100)
    world.stake(bob, VALIDATOR, 5)
    slash(world, alice, 4, role=VALIDATOR)
    second = world.evm.now()
    world.evm.advance(100)
    for t, of_alice, of_all in ((start, 0, 0), (first, 10, 10), (first + 50, 10, 10), (second, 6, 11)):
        assert world.registry.call("stakeAt", alice, VALIDATOR, t) == of_alice
        assert world.registry.call("totalStakeAt", VALIDATOR, t) == of_all
    assert world.registry.call("totalStakeOf", VALIDATOR) == 11
    assert world.registry.call("totalStakeAt", PROVIDER, second) == 0


def test_stake_at_present_or_future_refused(world: World) -> None:
    """What may still change within the second is not told."""
    now = world.evm.now()
    for t in (now, now + 1):
        with world.registry.refuses(f"FutureLookup({t},{now})"):
            world.registry.call("stakeAt", world.account("alice"), PROVIDER, t)
        with world.registry.refuses(f"FutureLookup({t},{now})"):
            world.registry.call("totalStakeAt", PROVIDER, t)


def test_is_active_without_stake_is_false_even_at_zero_minimum(world: World) -> None:
    """A deployment without minimums still asks for a stake."""
    args = (world.yard.address, world.manager.address, b"\1" * 32, 1, (0, 0, 0))
    registry = world.create("Registry", *args)
    alice = world.account("alice")
    assert registry.call("isActive", alice, PROVIDER) is False
    world.fund(alice, 1)
    world.yard.send("approve", registry.address, 1, sender=alice)
    registry.send("stake", PROVIDER, 1, sender=alice)
    assert registry.call("isActive", alice, PROVIDER) is True


def test_registry_without_delay_or_token_refused(world: World) -> None:
    """A delay of zero would let stake flee a challenge."""
    salt = b"\1" * 32
    with world.registry.refuses("ZeroDelay()"):
        world.create("Registry", world.yard.address, world.manager.address, salt, 0, MIN_STAKES)
    with world.registry.refuses("ZeroAddress()"):
        world.create("Registry", ZERO_ADDRESS, world.manager.address, salt, 1, MIN_STAKES)


def test_stakes_are_all_held_by_the_registry(world: World) -> None:
    """What the registry holds is what it owes: stakes and what is leaving."""
    for name, role in (("alice", PROVIDER), ("bob", GATEWAY)):
        world.stake(world.account(name), role, 1_000 * YARD)
        world.registry.send("startUnbond", role, 400 * YARD, sender=world.account(name))
    slash(world, world.account("alice"), 500 * YARD)
    assert world.balance(world.registry.address) == 1_500 * YARD
