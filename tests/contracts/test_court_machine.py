"""The court played by everybody at once, by the rules and against them: money is conserved, nobody is slashed in vain.

Challengers open cases, jurors vote as they like or stay away, validators keep their secrets to themselves, the accused
try to leave, gateways demand evidence that is served or not. After every step the books are compared: every nano is
somewhere, the court holds the bonds that are open, and stakes lost only what a quorum or silence took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.contracts.contract import Receipt
from tests.contracts.court_world import (
    ABSTAIN,
    CHEAT,
    CLOSED,
    CONVICTED,
    DRAWING,
    FAIL,
    LAZY,
    PASS,
    VOTING,
    CourtRoom,
)
from tests.contracts.evm import CallReverted
from tests.contracts.proof_world import CHUNKS, ITEMS, Signer
from tests.contracts.world import EPOCH_S, PROVIDER, TERMS, UNBOND_DELAY_S, VALIDATOR, YARD, World

from steelyard.protocol.hashing import ZERO32

GATEWAYS = ("gateway", "other gateway")
CHALLENGERS = ("challenger", "gateway", "validator 0")
PAID = 2_000 * YARD
VALIDATORS = 4


class CourtMachine(RuleBasedStateMachine):
    """Everybody who goes to court."""

    def __init__(self, world: World) -> None:
        super().__init__()
        world.reset()
        self.world = world
        self.demands: list[bytes] = []
        self.known: dict[int, dict[str, Any]] = {}  # the cases that are open, after the last step

    @initialize()
    def convene(self) -> None:
        """Stake, pay two lanes, and give everybody the means to sue."""
        self.room = CourtRoom(self.world, VALIDATORS)
        self.signer = Signer(self.world)
        self.people = [*self.room.validators, *GATEWAYS, "provider", "challenger", "anyone"]
        for name in GATEWAYS:
            self.room.pay(name, PAID)
        for name in self.people:
            self.world.fund(self.world.account(name), 500 * YARD)
        self.cases: list[int] = []
        self.bonds: Counter[bytes] = Counter()
        self.back: Counter[bytes] = Counter()
        self.parts = 0
        self.total = self.everything()
        self.burned = 0
        self.stakes = {name: self.stake_of(name) for name in (*self.room.validators, "provider")}

    @precondition(lambda self: len(self.known) < 3)
    @rule(kind=st.sampled_from([CHEAT, CHEAT, LAZY]), who=st.sampled_from(CHALLENGERS), data=st.data())
    def open(self, kind: int, who: str, data: st.DataObject) -> None:
        """Open a case, with claims as high as the lanes allow."""
        claims = []
        if kind == CHEAT:
            for name in data.draw(st.sets(st.sampled_from(GATEWAYS))):
                lane = self.room.lane(self.world.account(name), 1)
                left = PAID - self.back[lane]
                claims.append((name, 1, data.draw(st.integers(0, left))))
        accused = "provider" if kind == CHEAT else "validator 1"
        details = {"kind": kind, "challenger": who, "claims": self.room.claims(*claims)}
        receipt = self.act(lambda: self.room.send_open(accused, **details))
        if receipt is not None:
            self.cases.append(receipt.only("CaseOpened")["caseId"])

    @precondition(lambda self: self.known)
    @rule(data=st.data(), steps=st.integers(1, 6))
    def proceed(self, data: st.DataObject, steps: int) -> None:
        """Take a case some steps on: draw, judge, appeal or let the time pass."""
        case_id = data.draw(st.sampled_from(list(self.known)))
        for _ in range(steps):
            phase = self.room.case(case_id)["phase"]
            if phase == CLOSED:
                return
            {DRAWING: self.draw, VOTING: self.judge, CONVICTED: self.go_on}[phase](case_id, data)

    def draw(self, case_id: int, data: st.DataObject) -> None:
        """Wait for the secrets, of which some are withheld, and seat whom the tickets name."""
        silent = data.draw(st.one_of(st.just(set()), st.sets(st.sampled_from(self.room.validators), max_size=2)))
        epoch = self.room.case(case_id)["epoch"]
        while self.room.epoch <= epoch:
            self.room.begin_epoch()
        until = (epoch + 1) * EPOCH_S + TERMS.reveal_s
        for name in self.room.validators:
            if name not in silent and self.room.state(name, epoch) == 1 and self.world.evm.now() + 1 < until:
                self.room.reveal(name, epoch)
        self.room.advance_to(until)
        owing = [name for name in self.room.validators if self.room.state(name, epoch) == 1]
        receipt = self.act(lambda: self.room.contract.send("tally", epoch, 9, sender=self.world.account("anyone")))
        assert receipt is not None
        fined = Counter({told["validator"]: told["amount"] for told in receipt.all("Fined")})
        assert set(fined) == {self.world.account(name) for name in owing}, (
            "a withheld secret costs its fine, nothing else"
        )
        self.lose(fined)
        receipt = self.act(lambda: self.room.seat(case_id, self.room.members(case_id)))
        if receipt is not None and receipt.all("PanelDrawn"):
            size = TERMS.appeal_size if self.room.case(case_id)["is_appealed"] else TERMS.panel_size
            assert sum(self.room.panel(case_id).values()) == size

    def judge(self, case_id: int, data: st.DataObject) -> None:
        """Vote at random, commit and stay away, or vote twice; then count."""
        panel = self.room.panel(case_id)
        tendency = data.draw(st.sampled_from([FAIL, FAIL, PASS, ABSTAIN, None]))
        votes: dict[bytes, int] = {}
        for juror in panel:
            vote = tendency if tendency is not None else data.draw(st.sampled_from([PASS, FAIL, ABSTAIN]))
            if self.act(lambda juror=juror, vote=vote: self.room.commit_vote(case_id, juror, vote)) is not None:
                votes[juror] = vote
        self.room.advance_to(self.room.contract.call("panelOf", case_id)[0])
        absent = data.draw(st.sets(st.sampled_from(sorted(panel)), max_size=1))
        counted: Counter[int] = Counter()
        for juror, vote in votes.items():
            if juror in absent:
                continue
            for _ in range(2):  # the second time it is refused
                if self.act(lambda juror=juror, vote=vote: self.room.reveal_vote(case_id, juror, vote)) is not None:
                    counted[vote] += panel[juror]
        _, until, guilty, innocent, revealed, _ = self.room.contract.call("panelOf", case_id)
        assert (guilty, innocent, revealed) == (counted[FAIL], counted[PASS], counted.total())
        if revealed != sum(panel.values()):
            self.room.advance_to(until)
        self.settle(case_id, guilty)

    def go_on(self, case_id: int, data: st.DataObject) -> None:
        """Appeal against a conviction, or let the time pass."""
        if data.draw(st.booleans()):
            accused = "provider" if self.room.case(case_id)["kind"] == CHEAT else "validator 1"
            self.room.need_secrets()
            self.act(lambda: self.room.contract.send("appeal", case_id, sender=self.world.account(accused)))
            return
        self.room.advance_to(self.room.case(case_id)["appeal_until"])
        self.settle(case_id, None)

    @precondition(lambda self: len(self.demands) < 2)
    @rule(gateway=st.sampled_from(GATEWAYS), is_served=st.booleans())
    def demand(self, gateway: str, is_served: bool) -> None:
        """Demand a call's evidence, which is served or not."""
        self.parts += 1
        receipt = self.signer.receipt(part=self.parts)
        given = self.signer.batched(self.room.service, [receipt], gateway=self.world.account(gateway))
        args = ("demandEvidence", given, ZERO32, ZERO32)
        sent = self.act(lambda: self.world.proofs.send(*args, sender=self.world.account(gateway)))
        if sent is None:
            return
        id_ = sent.only("EvidenceDemanded")["id"]
        if is_served:
            provider = self.world.account("provider")
            self.act(lambda: self.world.proofs.send("serveEvidence", id_, ITEMS, 0, CHUNKS, sender=provider))
        else:
            self.demands.append(id_)

    @precondition(lambda self: self.demands)
    @rule()
    def let_silence_cost(self) -> None:
        """Close the oldest demand that nobody met."""
        id_ = self.demands.pop(0)
        self.room.advance_to(self.world.proofs.call("demandOf", id_)[1])
        before = self.stake_of("provider")
        receipt = self.act(lambda: self.world.proofs.send("closeDemand", id_, sender=self.world.account("anyone")))
        assert receipt is not None
        punished = receipt.only("Punished")
        assert punished["taken"] == before * TERMS.slash_bps // 10_000
        self.check_division(receipt)
        self.lose({self.world.account("provider"): punished["taken"]})

    @precondition(lambda self: self.known)
    @rule(name=st.sampled_from(["provider", "validator 1"]), amount=st.integers(1, 12_000 * YARD))
    def leave(self, name: str, amount: int) -> None:
        """Try to leave with the stake: what is held stays."""
        role = PROVIDER if name == "provider" else VALIDATOR
        account = self.world.account(name)
        self.act(lambda: self.world.registry.send("startUnbond", role, amount, sender=account))
        self.world.evm.advance(UNBOND_DELAY_S)
        held = self.room.contract.call("holdsOn", account, role)
        before = self.stake_of(name)
        gone = self.act(lambda: self.world.registry.send("finishUnbond", role, sender=account))
        assert gone is None or not held
        self.lose({account: before - self.stake_of(name)})

    @rule(seconds=st.sampled_from([60, EPOCH_S]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.world.evm.advance(seconds)

    @invariant()
    def books_agree(self) -> None:
        """Every nano is somewhere, bonds are the court's, stakes lost what they should, locks are where cases are."""
        if not hasattr(self, "room"):
            return
        found = {case_id: self.room.case(case_id) for case_id in self.cases}
        self.known = {case_id: case for case_id, case in found.items() if case["phase"] != CLOSED}
        self.cases = list(self.known)
        assert self.everything() == self.total - self.burned
        assert self.room.bonds() == sum(self.bonds.values())
        assert all(left <= PAID for left in self.back.values())
        for name, expected in self.stakes.items():
            assert self.stake_of(name) == expected, name
        for name, role in (("provider", PROVIDER), ("validator 1", VALIDATOR)):
            account = self.world.account(name)
            holds = self.room.contract.call("holdsOn", account, role)
            kind = CHEAT if role == PROVIDER else LAZY
            opened = [case for case in self.known.values() if case["kind"] == kind]
            assert holds == len(opened) + (len(self.demands) if role == PROVIDER else 0)
            assert self.room.is_locked(name, role) is bool(holds)

    def settle(self, case_id: int, guilty: int | None) -> None:
        """Resolve a case; a slash needs the quorum, of the appeal too where there was one."""
        case, panel = self.room.case(case_id), self.room.panel(case_id)
        before = {name: self.stake_of(name) for name in self.stakes}
        receipt = self.act(lambda: self.room.resolve(case_id))
        assert receipt is not None
        lost: Counter[bytes] = Counter()
        for told in receipt.all("Fined"):
            assert told["validator"] in panel
            lost[told["validator"]] += told["amount"]
        for punished in receipt.all("Punished"):
            quorum = TERMS.appeal_quorum if case["is_appealed"] else TERMS.panel_quorum
            assert guilty is None or guilty >= quorum
            assert guilty is not None or case["phase"] == CONVICTED
            name = "provider" if case["kind"] == CHEAT else "validator 1"
            held = before[name] - lost[case["accused"]]
            assert punished["account"] == case["accused"]
            assert punished["taken"] == held * TERMS.slash_bps // 10_000
            self.check_division(receipt)
            lost[case["accused"]] += punished["taken"]
        self.lose(lost)

    def check_division(self, receipt: Receipt) -> None:
        """Harmed gateways get half at most, who brought it up a tenth; the rest is burned."""
        punished = receipt.only("Punished")
        assert punished["toInformer"] == punished["taken"] // 10
        assert punished["toHarmed"] <= punished["taken"] // 2
        assert punished["toHarmed"] == sum(told["amount"] for told in receipt.all("Compensated"))
        for told in receipt.all("Compensated"):
            self.back[told["lane"]] += told["amount"]

    def act(self, send: Any) -> Receipt | None:
        """Send a transaction, which may be refused, and take up what its events say of bonds and burns."""
        try:
            receipt: Receipt = send()
        except CallReverted as error:
            reason = self.room.contract.reason(error.data)
            assert not reason.startswith("Panic"), reason
            return None
        for told in receipt.all("BondPosted"):
            self.bonds[told["matter"]] += told["amount"]
        for told in receipt.all("BondReleased"):
            self.bonds[told["matter"]] -= told["amount"]
            assert self.bonds[told["matter"]] >= 0
        self.burned += sum(told["value"] for told in receipt.all("Transfer") if not any(told["to"]))
        return receipt

    def lose(self, losses: dict[bytes, int]) -> None:
        """Take what was lost off the stakes that are expected."""
        for name in self.stakes:
            self.stakes[name] -= losses.get(self.world.account(name), 0)

    def stake_of(self, name: str) -> int:
        """Return all that an account has at stake."""
        return self.room.at_stake(name, PROVIDER if name == "provider" else VALIDATOR)

    def everything(self) -> int:
        """Return what all wallets and contracts hold."""
        world = self.world
        accounts: Iterable[bytes] = [world.account(name) for name in self.people]
        held = [contract.address for contract in (world.registry, world.escrow, world.court, world.proofs)]
        total = sum(map(world.balance, [*accounts, *held]))
        assert total == world.yard.call("totalSupply")
        return total


@pytest.mark.timeout(300)  # a failing example takes long to shrink
def test_court_conserves_money_and_slashes_by_its_rules(deployed: World) -> None:
    """Whatever anyone does in court, the books agree after every step."""
    steps = settings.default.stateful_step_count // 2  # one step may take a case from its opening to its end
    run_state_machine_as_test(lambda: CourtMachine(deployed), settings=settings(stateful_step_count=steps))
