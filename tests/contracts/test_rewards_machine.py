"""Money in the pot is conserved, claims never exceed what is final, void roots pay nothing, promises stay payable.

Gateways redeem, validators propose right and wrong roots, courts void some of them, anyone claims, burns and rolls, in
any order. After every step the pot is compared with a few sums in Python; at the end every account is paid all that it
earned.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.contracts.contract import Receipt
from tests.contracts.court_world import PASS, STAKE
from tests.contracts.rewards_world import FINAL, LAPSED, PENDING, PURSE_S, VOID, RewardRoom
from tests.contracts.world import EPOCH_S, VALIDATOR, World

from steelyard.protocol.rewards_blob import add_earnings

NAMES = ("one", "two", "three")
names = st.sampled_from(NAMES)
cuts = st.integers(0, 5_000)


class RewardsMachine(RuleBasedStateMachine):
    """Everyone who touches the pot."""

    def __init__(self, world: World) -> None:
        super().__init__()
        world.reset()
        self.room = RewardRoom(world, count=4)
        self.came_in = self.paid = self.burned = 0
        self.promised: Counter[bytes] = Counter()  # by the final roots, all of them right
        self.received: Counter[bytes] = Counter()
        self.unpaid: Counter[bytes] = Counter()  # earned, and in no proposal yet
        self.pending: dict[int, bool] = {}  # whether it is right
        self.final: list[int] = []
        self.dead: list[int] = []
        self.supply = self.total_supply()

    def total_supply(self) -> int:
        """Return the token's supply."""
        return int(self.room.world.yard.call("totalSupply"))

    @rule(name=names, cut=cuts, percent=st.integers(0, 100))
    def redeem(self, name: str, cut: int, percent: int) -> None:
        """The protocol's cut of a redemption comes in; a part of nine tenths of it, by quality, is earned."""
        if cut == 0:
            return
        self.room.earn(cut)
        self.came_in += cut
        self.supply += cut  # the gateway's money was minted for it
        self.unpaid[self.room.account(name)] += cut * 9 * percent // 1_000

    @rule()
    def collect(self) -> None:
        """Take in what the escrow holds."""
        self.send("collect")

    @rule(is_right=st.booleans(), thief=names, proposer=st.integers(0, 3))
    def propose(self, is_right: bool, thief: str, proposer: int) -> None:
        """Propose the right shares, or all there could be for one."""
        epoch = self.room.end_epoch()
        self.send("collect")
        cap = self.room.pot.call("capOf", epoch)
        right = add_earnings(self.promised, self.unpaid)
        wrong = {self.room.account(thief): cap}
        shares = right if is_right else wrong
        if not sum(shares.values()):
            return
        proposal = self.room.propose(shares, by=f"validator {proposer}", epoch=epoch)
        self.pending[proposal] = shares == right

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Let the time pass; a wrong root is challenged first, and convicted."""
        proposal = data.draw(st.sampled_from(sorted(self.pending)))
        is_right = self.pending.pop(proposal)
        stands = self.room.proposal(proposal)
        ready_in = stands["ready_at"] - self.room.world.evm.now()
        if not is_right:
            case_id = self.room.challenge(proposal)
            self.room.court.convict(case_id)
            self.room.world.stake(stands["proposer"], VALIDATOR, STAKE)  # or it could soon propose nothing more
            self.supply = self.total_supply()  # the court's slash burned some
        elif ready_in > EPOCH_S and data.draw(st.booleans()):
            case_id = self.room.challenge(proposal)  # a friend of nobody's challenges a right one
            self.room.court.draw(case_id)
            with self.room.pot.refuses("Disputed" if self.room.world.evm.now() >= stands["ready_at"] else "TooEarly"):
                self.room.settle(proposal)
            self.room.court.vote(case_id, PASS)
            self.room.court.resolve(case_id)
            self.supply = self.total_supply()
        state = self.room.finish(proposal).only("Settled")["state"]
        if not is_right:
            assert state == VOID
            self.supply -= self.room.pot.call("bond")
            self.dead.append(proposal)
        elif stands["base"] != (self.final[-1] if self.final else 0):
            assert state == LAPSED
            self.dead.append(proposal)
        else:
            assert state == FINAL
            self.final.append(proposal)
            self.unpaid = Counter(add_earnings(self.promised, self.unpaid))
            shares = self.room.shares[proposal]
            self.unpaid.subtract(shares)
            self.promised = Counter(shares)

    @precondition(lambda self: self.final)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        """Anyone claims any leaf of any final root."""
        root = data.draw(st.sampled_from(self.final))
        account = data.draw(st.sampled_from(sorted(self.room.shares[root])))
        self.try_claim(root, account)

    def try_claim(self, root: int, account: bytes) -> None:
        """Claim a leaf; what is paid is what is new, as far as the root's purse reaches."""
        due = self.room.shares[root][account] - self.received[account]
        expected = min(max(due, 0), self.room.proposal(root)["purse"])
        if expected == 0:
            with self.room.pot.refuses("NothingDue"):
                self.room.claim(root, account)
            return
        assert self.room.claim(root, account).only("Claimed")["amount"] == expected
        self.received[account] += expected
        self.paid += expected

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def claim_dead(self, data: st.DataObject) -> None:
        """A void or lapsed root pays nothing, whatever proof there is."""
        root = data.draw(st.sampled_from(self.dead))
        with self.room.pot.refuses("WrongState"):
            self.room.claim(root, next(iter(self.room.shares[root])))

    @rule()
    def burn(self) -> None:
        """Burn the tenth."""
        if (self.came_in // 10) == self.burned:
            with self.room.pot.refuses("NothingLeft()"):
                self.send("burnRest")
            return
        amount = self.send("burnRest").only("RestBurned")["amount"]
        self.burned += amount
        self.supply -= amount
        assert self.burned == self.came_in // 10

    @precondition(lambda self: len(self.final) > 1)
    @rule(data=st.data())
    def roll(self, data: st.DataObject) -> None:
        """Let an old purse go on, once it is old enough."""
        root = data.draw(st.sampled_from(self.final[:-1]))
        self.room.court.advance_to(self.room.proposal(root)["final_at"] + PURSE_S)
        if self.room.proposal(root)["purse"]:
            self.send("roll", root)
        else:
            with self.room.pot.refuses("NothingLeft()"):
                self.send("roll", root)

    def send(self, name: str, *args: int) -> Receipt:
        """Send as anyone."""
        return self.room.pot.send(name, *args, sender=self.room.account("anyone"))

    @invariant()
    def money_is_conserved(self) -> None:
        """What came in is paid, burned, here or still unswept; bonds are apart; no root promises above nine tenths."""
        pot = self.room.pot
        paid, burned, bonds = (pot.call(name) for name in ("paid", "burned", "bonds"))
        unswept = self.room.world.unswept(pot.address)
        assert (paid, burned) == (self.paid, self.burned)
        assert bonds == len(self.pending) * pot.call("bond")
        assert self.room.held() + unswept == self.came_in - paid - burned + bonds
        assert self.total_supply() == self.supply
        last = self.room.proposal(pot.call("lastFinal"))
        assert paid <= last["total"] <= (self.came_in - unswept) * 9 // 10
        assert last["state"] in (FINAL, 0)
        assert all(self.room.proposal(proposal)["state"] == PENDING for proposal in self.pending)

    @invariant()
    def promises_stay_payable(self) -> None:
        """The purses of final roots hold exactly what they promise beyond what was paid."""
        purses = sum(self.room.proposal(root)["purse"] for root in self.final)
        assert purses == sum(self.promised.values()) - self.paid

    def teardown(self) -> None:
        """However it went, every account comes to all it was promised, and nobody to more."""
        if self.final:
            for root in self.final:
                for account in self.room.shares[root]:
                    self.try_claim(root, account)
            self.room.world.evm.advance(PURSE_S)
            for root in self.final[:-1]:
                if self.room.proposal(root)["purse"]:
                    self.send("roll", root)
            for account in self.promised:
                if self.promised[account] != self.received[account]:
                    self.try_claim(self.final[-1], account)
        assert +self.received == +self.promised
        for account, amount in self.received.items():
            assert self.room.world.balance(account) == amount


@pytest.mark.timeout(300)
def test_rewards_in_any_order_conserve_money(deployed: World) -> None:
    """On both EVMs the pot never owes what it hasn't got, whoever does what."""
    run_state_machine_as_test(lambda: RewardsMachine(deployed))
