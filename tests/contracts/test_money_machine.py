"""Money is conserved, no voucher is paid twice, totals never fall, and no withdrawal outruns a voucher in time.

Gateways, providers and the slasher do anything in any order, half of it against the rules. After every step the chain
is compared with the rules' twin in Python (model.py); at the end, with what the events alone say (from_events.py).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.contracts.contract import Event, Receipt
from tests.contracts.from_events import Balances
from tests.contracts.model import Claim, Gateway, Lane, Money, Service, Split
from tests.contracts.world import (
    GATEWAY,
    UNBOND_DELAY_S,
    WITHDRAW_DELAY_S,
    ZERO_ADDRESS,
    SignedVoucher,
    World,
    skips,
)

from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Voucher

GATEWAYS = ("one", "two")
PAYEES = ("provider", "one", "builder", "data pot", "pot two")
SPLITS: dict[str, Split] = {
    "usual": (8_000, 1_000, 500, 500),
    "odd": (1, 3_333, 3_333, 3_333),
}
PURSE = 10_000
DAY_S = WITHDRAW_DELAY_S
gateways = st.sampled_from(GATEWAYS)
amounts = st.integers(0, 400)
percents = st.integers(0, 105)
lanes = st.tuples(gateways, st.sampled_from(PAYEES[:2]), st.sampled_from([*SPLITS, *SPLITS, "unknown"]))
lanes_and_totals = st.tuples(lanes, st.integers(-20, 250), st.integers(0, 15))


class MoneyMachine(RuleBasedStateMachine):
    """Everyone who handles money, on one deployment."""

    def __init__(self, world: World) -> None:
        super().__init__()
        world.reset()
        self.world = world
        self.money = Money(pot=world.protocol_pot)
        self.events: list[Event] = []
        self.touched: set[bytes] = set()
        self.issued: list[tuple[Claim, SignedVoucher]] = []
        self.signed: Counter[tuple[str, str, str]] = Counter()  # the highest total signed on each lane
        self.cover: dict[bytes, int] = {}  # what an announced withdrawal leaves for vouchers until it is ready
        for name, split in SPLITS.items():
            args = (name, "echo", keccak(b"manifest"), split, world.account("data pot"))
            self.record(world.registry.send("registerService", *args, sender=world.account("builder")))
            service = Service(split, world.account("builder"), world.account("data pot"))
            self.money.services[keccak(name.encode())] = service
        for name in GATEWAYS:
            account = world.account(name)
            self.money.gateways[account] = Gateway()
            self.money.mint(account, PURSE)
            self.record(world.yard.send("mint", account, PURSE, sender=world.minter))
            for spender in (world.registry, world.escrow):
                world.yard.send("approve", spender.address, 2**256 - 1, sender=account)
        self.deposit("one", 300)
        self.stake("one", 100)

    # --- what gateways do with their money

    @rule(name=gateways, amount=amounts)
    def deposit(self, name: str, amount: int) -> None:
        """Put money in."""
        account = self.world.account(name)
        expected = self.money.deposit(account, amount)
        self.act(expected, self.world.escrow, "deposit", account, amount, sender=account)
        if expected is None and account in self.cover:
            self.cover[account] += amount

    @rule(name=gateways, percent=percents)
    def announce(self, name: str, percent: int) -> None:
        """Announce a withdrawal, mostly of a part that is there."""
        account = self.world.account(name)
        amount = self.money.gateways[account].deposit * percent // 100
        expected = self.money.announce(account, amount, self.next_second())
        self.act(expected, self.world.escrow, "announceWithdrawal", amount, sender=account)
        if expected is None:
            self.cover[account] = self.money.gateways[account].deposit

    @precondition(lambda self: any(gateway.announced for gateway in self.money.gateways.values()))
    @rule(name=gateways)
    def cancel(self, name: str) -> None:
        """Take the announcement back."""
        account = self.world.account(name)
        self.act(self.money.cancel(account), self.world.escrow, "cancelWithdrawal", sender=account)

    @precondition(lambda self: any(gateway.announced for gateway in self.money.gateways.values()))
    @rule(name=gateways, seconds=st.sampled_from([0, DAY_S]))
    def withdraw(self, name: str, seconds: int) -> None:
        """Take out what was announced, mostly in time."""
        if seconds:
            self.world.evm.advance(seconds)
        account = self.world.account(name)
        expected = self.money.withdraw(account, self.next_second())
        self.act(expected, self.world.escrow, "withdraw", sender=account)
        if expected is None:
            self.cover.pop(account, None)

    # --- vouchers

    @rule(wanted=st.lists(lanes_and_totals, min_size=1, max_size=4))
    def redeem(self, wanted: list[tuple[tuple[str, str, str], int, int]]) -> None:
        """Redeem fresh vouchers: mostly higher ones, some lower, some forged."""
        batch = [self.sign(lane, added, is_genuine=forged != 0) for lane, added, forged in wanted]
        self.submit(batch)

    @precondition(lambda self: self.issued)
    @rule(data=st.data())
    def redeem_again(self, data: st.DataObject) -> None:
        """Redeem vouchers of any age again, in any order, some of them twice: the debts of lanes are collected so."""
        indices = st.integers(0, len(self.issued) - 1).map(lambda back: len(self.issued) - 1 - back)
        self.submit([self.issued[index] for index in data.draw(st.lists(indices, min_size=1, max_size=4))])

    @precondition(lambda self: self.debts())
    @rule(data=st.data(), added=st.integers(0, 150))
    def collect(self, data: st.DataObject, added: int) -> None:
        """A gateway in debt may add to its deposit, and the very voucher that was not paid whole is redeemed again."""
        claim, signed = data.draw(st.sampled_from(self.debts()))
        if added:
            name = next(name for name in GATEWAYS if self.world.account(name) == claim.gateway)
            self.deposit(name, added)
        self.submit([(claim, signed)])

    def debts(self) -> list[tuple[Claim, SignedVoucher]]:
        """Return the vouchers whose lanes are owed something on exactly their total."""
        owing = {key: lane.accepted for key, lane in self.money.lanes.items() if lane.accepted > lane.paid}
        return [(claim, signed) for claim, signed in self.issued if owing.get(claim.lane) == claim.cumulative]

    @rule(name=gateways, percent=st.integers(1, 100), lane=lanes, total=st.integers(1, 300), seconds=st.integers(0, 9))
    def race(self, name: str, percent: int, lane: tuple[str, str, str], total: int, seconds: int) -> None:
        """A provider redeems in the last seconds before a withdrawal that was announced a delay ago."""
        account = self.world.account(name)
        self.announce_first(account, percent)
        self.world.evm.advance(DAY_S - 10 + seconds)
        self.submit([self.sign((name, *lane[1:]), total, is_genuine=True)])
        self.withdraw(name, DAY_S)

    def announce_first(self, account: bytes, percent: int) -> None:
        """Have something in the deposit, and announce a part of it."""
        self.act(self.money.deposit(account, 100), self.world.escrow, "deposit", account, 100, sender=account)
        amount = max(1, self.money.gateways[account].deposit * percent // 100)
        self.act(
            self.money.announce(account, amount, self.next_second()),
            self.world.escrow,
            "announceWithdrawal",
            amount,
            sender=account,
        )
        self.cover[account] = self.money.gateways[account].deposit

    def sign(self, lane: tuple[str, str, str], added: int, *, is_genuine: bool) -> tuple[Claim, SignedVoucher]:
        """Sign a lane's next total as its gateway; a forged one is changed afterwards."""
        gateway, provider, service = lane
        total = max(0, self.signed[lane] + added)
        self.signed[lane] = max(total, self.signed[lane])
        signed: tuple[Any, ...] = self.world.pay(gateway, provider, keccak(service.encode()), total)
        if not is_genuine:
            signed = (*signed[:4], total + 1, *signed[5:])
        claim = Claim(Voucher(*signed[:7]).lane.key, *signed[:3], signed[4], is_genuine)
        self.issued.append((claim, signed))
        return claim, signed

    def submit(self, batch: list[tuple[Claim, SignedVoucher]]) -> None:
        """Redeem a batch, and compare each voucher's outcome with the twin's."""
        now = self.next_second()
        before = dict(self.money.lanes)
        results = []
        for claim, _ in batch:
            due = claim.cumulative - self.money.lanes.get(claim.lane, Lane()).paid
            result = self.money.redeem(claim, now)
            results.append(result)
            self.touched |= {claim.gateway, claim.provider, *self.payees()}
            self.check_cover(claim, due, result, now)
        receipt = self.record(self.world.redeem(signed for _, signed in batch))
        assert [event["paid"] for event in receipt.all("LaneRedeemed")] == [r for r in results if isinstance(r, int)]
        assert skips(receipt) == [(n, r) for n, r in enumerate(results) if isinstance(r, str)]
        for lane in {claim.lane for claim, _ in batch}:
            accepted, paid = self.world.escrow.call("laneOf", lane)
            if lane in before:
                assert accepted >= before[lane].accepted, "a total never falls"
                assert paid >= before[lane].paid
            assert paid <= accepted, "no voucher is paid twice"

    def check_cover(self, claim: Claim, due: int, result: int | str, now: int) -> None:
        """Until a withdrawal is ready, vouchers within the deposit that stood at its announcement are paid whole."""
        if claim.gateway not in self.cover or not isinstance(result, int):
            return
        if now < self.money.gateways[claim.gateway].withdraw_at and due <= self.cover[claim.gateway]:
            assert result == due, "a withdrawal outran a voucher"
        self.cover[claim.gateway] = max(0, self.cover[claim.gateway] - due)

    @rule(names=st.lists(st.sampled_from(PAYEES), max_size=4))
    def sweep(self, names: list[str]) -> None:
        """Send credits to their owners."""
        accounts = [self.world.account(name) for name in names] + [self.world.protocol_pot]
        self.money.sweep(accounts)
        self.record(self.world.escrow.send("sweep", accounts, sender=self.world.account("anyone")))

    # --- stakes

    @rule(name=gateways, amount=amounts)
    def stake(self, name: str, amount: int) -> None:
        """Stake as a gateway."""
        account = self.world.account(name)
        self.act(self.money.stake(account, amount), self.world.registry, "stake", GATEWAY, amount, sender=account)

    @rule(name=gateways, percent=percents)
    def start_unbond(self, name: str, percent: int) -> None:
        """Begin to leave."""
        account = self.world.account(name)
        amount = self.money.gateways[account].stake * percent // 100
        expected = self.money.start_unbond(account, amount, self.next_second())
        self.act(expected, self.world.registry, "startUnbond", GATEWAY, amount, sender=account)

    @precondition(lambda self: any(gateway.unbonding for gateway in self.money.gateways.values()))
    @rule(name=gateways, seconds=st.sampled_from([0, UNBOND_DELAY_S]))
    def finish_unbond(self, name: str, seconds: int) -> None:
        """Leave, mostly in time."""
        if seconds:
            self.world.evm.advance(seconds)
        account = self.world.account(name)
        expected = self.money.finish_unbond(account, self.next_second())
        self.act(expected, self.world.registry, "finishUnbond", GATEWAY, sender=account)

    @rule(name=gateways, seconds=st.sampled_from([0, DAY_S, 2 * UNBOND_DELAY_S]), overdraft=st.integers(0, 2))
    def lock(self, name: str, seconds: int, overdraft: int) -> None:
        """Lock a stake, or free it; often the gateway at once signs more than its deposit holds."""
        account = self.world.account(name)
        until = self.next_second() + seconds if seconds else 0
        gateway = self.money.gateways[account]
        gateway.locked_until = until
        self.act(None, self.world.registry, "lock", account, GATEWAY, until, sender=self.world.slasher)
        if overdraft:
            lane = (name, "provider", "usual")
            self.submit([self.sign(lane, gateway.deposit + 50 * overdraft, is_genuine=True)])

    @rule(name=gateways, amount=amounts, is_burned=st.booleans())
    def slash(self, name: str, amount: int, is_burned: bool) -> None:
        """Slash a stake."""
        account, harmed = self.world.account(name), self.world.account("provider")
        self.money.slash(account, amount, None if is_burned else harmed)
        to = ZERO_ADDRESS if is_burned else harmed
        self.act(None, self.world.registry, "slash", account, GATEWAY, amount, to, sender=self.world.slasher)

    # --- the one power there is

    @rule(name=st.sampled_from(["pot two", "protocol pot"]))
    def move_pot(self, name: str) -> None:
        """Send later protocol shares elsewhere."""
        self.money.pot = self.world.account(name)
        self.act(None, self.world.escrow, "setProtocolPot", self.money.pot, sender=self.world.admin)

    # --- what holds after every step

    @invariant()
    def money_is_where_the_rules_say_and_none_is_lost(self) -> None:
        """Whom the last step touched has what the twin says; minted less burned is in wallets, escrow and registry."""
        for account in self.touched:
            self.check_account(account)
        if self.touched:
            self.check_totals()
        self.touched.clear()

    def check_account(self, account: bytes) -> None:
        """Compare one account with the twin."""
        assert self.world.unswept(account) == self.money.unswept[account]
        assert self.world.balance(account) == self.money.wallets[account]
        gateway = self.money.gateways.get(account)
        if gateway is not None:
            found = self.world.escrow.call("accountOf", account)
            assert found == (gateway.deposit, gateway.owed, gateway.announced, gateway.withdraw_at)
            assert self.world.registry.call("stakeOf", account, GATEWAY) == gateway.stake
            assert self.world.registry.call("unbondingOf", account, GATEWAY)[0] == gateway.unbonding

    def check_totals(self) -> None:
        """Compare the sums, which the twin's accounts make up, with what the contracts hold."""
        gateways = self.money.gateways.values()
        deposits = sum(gateway.deposit for gateway in gateways)
        stakes = sum(gateway.stake + gateway.unbonding for gateway in gateways)
        unswept, wallets = self.money.unswept.total(), self.money.wallets.total()
        assert self.world.balance(self.world.escrow.address) == deposits + unswept
        assert self.world.balance(self.world.registry.address) == stakes
        supply = self.world.yard.call("totalSupply")
        assert supply == self.money.supply == wallets + deposits + unswept + stakes

    @invariant()
    def debts_are_those_of_lanes(self) -> None:
        """What a gateway owes is what its lanes were not paid."""
        owed: Counter[bytes] = Counter()
        for claim, _ in {claim.lane: (claim, 0) for claim, _ in self.issued}.values():
            lane = self.money.lanes.get(claim.lane)
            owed[claim.gateway] += lane.accepted - lane.paid if lane else 0
        assert all(owed[account] == gateway.owed for account, gateway in self.money.gateways.items())

    def teardown(self) -> None:
        """Compare everyone once more, and with an auditor who saw nothing but the events."""
        for account in self.people():
            self.check_account(account)
        self.check_totals()
        audit = Balances(self.world.protocol_pot)
        audit.replay(self.events)
        assert audit.supply == self.money.supply
        for account in self.people():
            assert audit.wallets[account] == self.money.wallets[account]
            assert audit.unswept[account] == self.money.unswept[account]
        for account, gateway in self.money.gateways.items():
            assert (audit.deposits[account], audit.owed[account]) == (gateway.deposit, gateway.owed)
            assert audit.stakes[account, GATEWAY] == gateway.stake
            assert audit.unbonding[account, GATEWAY] == gateway.unbonding
        for key, lane in self.money.lanes.items():
            assert (audit.accepted[key], audit.paid[key]) == (lane.accepted, lane.paid)
            assert self.world.escrow.call("laneOf", key) == (lane.accepted, lane.paid)

    # --- how a step is done

    def act(self, expected: str | None, contract: Any, name: str, *args: Any, sender: bytes) -> None:
        """Send a transaction that must succeed, or be refused for the expected reason."""
        if expected is None:
            self.record(contract.send(name, *args, sender=sender))
            return
        with contract.refuses(expected):
            contract.send(name, *args, sender=sender)

    def record(self, receipt: Receipt) -> Receipt:
        """Remember a transaction's events, and whom of us they name."""
        named = {value for event in receipt.events for value in event.args.values() if isinstance(value, bytes)}
        self.touched |= named & set(self.people())
        self.events.extend(receipt.events)
        return receipt

    def next_second(self) -> int:
        """Return the time that the next transaction runs at."""
        return self.world.evm.now() + 1

    def payees(self) -> list[bytes]:
        """Return who shares in what any provider is paid."""
        return [self.world.account("builder"), self.world.account("data pot"), self.money.pot]

    def people(self) -> list[bytes]:
        """Return everyone who may hold money."""
        names = {*GATEWAYS, *PAYEES}
        return [*(self.world.account(name) for name in sorted(names)), self.world.protocol_pot]


@pytest.mark.timeout(300)  # a failing example takes long to shrink
def test_money_is_conserved_whatever_anyone_does(deployed: World) -> None:
    """The contracts do what the rules say, step by step, and the events alone tell all of it."""
    run_state_machine_as_test(lambda: MoneyMachine(deployed))
