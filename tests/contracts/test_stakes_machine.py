"""Stakes of every role: any past second is remembered as it was, locks hold, and the registry holds what it owes.

Two accounts stake, leave and are slashed in all three roles at random; the chain is compared with a list of numbers.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.contracts.world import MIN_STAKES, UNBOND_DELAY_S, ZERO_ADDRESS, World

NAMES = ("alice", "bob")
ROLES = (1, 2, 3)
Pair = tuple[str, int]
pairs = st.tuples(st.sampled_from(NAMES), st.sampled_from(ROLES))
amounts = st.integers(0, 3_000).map(lambda yard: yard * 10**9)


class StakesMachine(RuleBasedStateMachine):
    """Everyone who touches a stake."""

    def __init__(self, world: World) -> None:
        super().__init__()
        world.reset()
        self.world = world
        self.stakes: Counter[Pair] = Counter()
        self.unbonding: Counter[Pair] = Counter()
        self.ready: dict[Pair, int] = {}
        self.locked: Counter[Pair] = Counter()
        self.wallets: Counter[str] = Counter()
        self.burned = 0
        self.touched: Pair | None = None
        self.history: list[tuple[int, Counter[Pair]]] = [(world.evm.now(), Counter())]
        for name in (*NAMES, "payer"):
            world.fund(world.account(name), 20_000 * 10**9)
            self.wallets[name] = 20_000 * 10**9
        self.supply = sum(self.wallets.values())

    @rule(pair=pairs, amount=amounts, payer=st.sampled_from([*NAMES, "payer"]))
    def stake(self, pair: Pair, amount: int, payer: str) -> None:
        """Stake for oneself or for another."""
        name, role = self.touched = pair
        args = ("stakeFor", self.world.account(name), role, amount)
        reason = "ZeroAmount()" if amount == 0 else None
        if amount > self.wallets[payer]:
            reason = "ERC20InsufficientBalance"
        if self.act(reason, payer, *args):
            self.wallets[payer] -= amount
            self.stakes[pair] += amount

    @rule(pair=pairs, amount=amounts)
    def start_unbond(self, pair: Pair, amount: int) -> None:
        """Begin to leave."""
        name, role = self.touched = pair
        reason = None
        if amount > self.stakes[pair]:
            reason = f"InsufficientStake({self.stakes[pair]},{amount})"
        if amount == 0:
            reason = "ZeroAmount()"
        if self.act(reason, name, "startUnbond", role, amount):
            self.stakes[pair] -= amount
            self.unbonding[pair] += amount
            self.ready[pair] = self.world.evm.now() + UNBOND_DELAY_S

    @precondition(lambda self: any(self.unbonding.values()))
    @rule(data=st.data(), seconds=st.sampled_from([0, UNBOND_DELAY_S]))
    def finish_unbond(self, data: st.DataObject, seconds: int) -> None:
        """Leave, mostly after the delay, if no lock holds it."""
        leaving = [pair for pair, amount in self.unbonding.items() if amount]
        pair = data.draw(st.one_of(st.sampled_from(leaving), st.sampled_from(leaving), pairs))
        self.wait(seconds)
        self.leave(pair)

    def leave(self, pair: Pair) -> None:
        """Take out what is unbonding, if neither the delay nor a lock holds it."""
        name, role = self.touched = pair
        now = self.world.evm.now() + 1
        reason = None
        if not self.unbonding[pair]:
            reason = "NothingUnbonding()"
        elif now < self.ready[pair]:
            reason = f"StillUnbonding({self.ready[pair]})"
        elif now < self.locked[pair]:
            reason = f"StillLocked({self.locked[pair]})"
        if self.act(reason, name, "finishUnbond", role):
            self.wallets[name] += self.unbonding.pop(pair)

    @rule(data=st.data(), seconds=st.sampled_from([0, 10, 3 * UNBOND_DELAY_S]), is_tried=st.booleans())
    def lock(self, data: st.DataObject, seconds: int, is_tried: bool) -> None:
        """Lock, or free; mostly who is leaving, and who may try to leave all the same."""
        leaving = [pair for pair, amount in self.unbonding.items() if amount]
        pair = data.draw(st.one_of(st.sampled_from(leaving), pairs) if leaving else pairs)
        name, role = self.touched = pair
        until = self.world.evm.now() + seconds if seconds else 0
        assert self.act(None, "slasher", "lock", self.world.account(name), role, until)
        self.locked[pair] = until
        if is_tried:
            self.wait(UNBOND_DELAY_S)
            self.leave(pair)

    @rule(pair=pairs, amount=amounts, harmed=st.sampled_from([None, "payer"]))
    def slash(self, pair: Pair, amount: int, harmed: str | None) -> None:
        """Slash, locked or not, staying or leaving."""
        name, role = self.touched = pair
        to = ZERO_ADDRESS if harmed is None else self.world.account(harmed)
        assert self.act(None, "slasher", "slash", self.world.account(name), role, amount, to)
        taken = min(amount, self.unbonding[pair] + self.stakes[pair])
        leaving = min(taken, self.unbonding[pair])
        self.unbonding[pair] -= leaving
        self.stakes[pair] -= taken - leaving
        if harmed is None:
            self.burned += taken
        else:
            self.wallets[harmed] += taken

    @rule(seconds=st.sampled_from([1, 60, UNBOND_DELAY_S]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        if seconds:
            self.world.evm.advance(seconds)

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        """Ask for any past second, and find what stood at its end."""
        last = self.world.evm.now() - 1
        if last < self.history[0][0]:
            return
        changes = [second for second, _ in self.history if second <= last]
        t = data.draw(st.one_of(st.integers(self.history[0][0], last), st.sampled_from(changes)))
        then = max((entry for entry in self.history if entry[0] <= t), key=lambda entry: entry[0])[1]
        name, role = data.draw(pairs)
        assert self.world.registry.call("stakeAt", self.world.account(name), role, t) == then[name, role]
        assert self.world.registry.call("totalStakeAt", role, t) == sum(then[one, role] for one in NAMES)

    @invariant()
    def registry_holds_what_it_owes(self) -> None:
        """Stakes and what is leaving are all there; nothing came from nowhere."""
        if self.history[-1][1] != self.stakes:
            self.history.append((self.world.evm.now(), self.stakes.copy()))
        world = self.world
        if self.touched is not None:
            self.check_stake(self.touched)
        held = sum(self.stakes.values()) + sum(self.unbonding.values())
        assert world.balance(world.registry.address) == held
        assert world.yard.call("totalSupply") == self.supply - self.burned == held + sum(self.wallets.values())

    def check_stake(self, pair: Pair) -> None:
        """Compare one stake with the list."""
        (name, role), account = pair, self.world.account(pair[0])
        assert self.world.registry.call("stakeOf", account, role) == self.stakes[pair]
        assert self.world.registry.call("unbondingOf", account, role)[0] == self.unbonding[pair]
        assert self.world.registry.call("isActive", account, role) is (self.stakes[pair] >= MIN_STAKES[role - 1])
        assert self.world.balance(account) == self.wallets[name]

    def teardown(self) -> None:
        """Compare every stake and wallet once more."""
        for pair in ((name, role) for name in NAMES for role in ROLES):
            self.check_stake(pair)

    def act(self, reason: str | None, sender: str, name: str, *args: Any) -> bool:
        """Send a transaction that must succeed, or be refused for the reason."""
        account = self.world.account(sender)
        if reason is not None:
            with self.world.registry.refuses(reason):
                self.world.registry.send(name, *args, sender=account)
            return False
        self.world.registry.send(name, *args, sender=account)
        return True


@pytest.mark.timeout(300)  # a failing example takes long to shrink
def test_stakes_of_any_past_second_are_remembered(deployed: World) -> None:
    """Whatever is done to stakes, the past stays as it was, and money is conserved."""
    run_state_machine_as_test(lambda: StakesMachine(deployed))
