"""A court under test: validators with secrets, cases, panels and their votes, step by step or whole.

    court = CourtRoom(world, validators=5)
    case_id = court.open("provider")
    court.draw(case_id)
    court.vote(case_id, FAIL)
    court.resolve(case_id)

1. Validators are the actors `validator 0`, `validator 1`, …; each commits to a secret per epoch, made of its name.
2. Time moves only where a step needs it to; the draw is reckoned by the contract's twin in Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from eth_abi import encode
from tests.contracts.contract import Receipt
from tests.contracts.world import EPOCH_S, PROVIDER, TERMS, VALIDATOR, YARD, World

from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.verification.panel import Revealer, draw_panel

CHEAT, LAZY, WRONG_ROOT = 0, 1, 2
NONE, DRAWING, VOTING, CONVICTED, CLOSED = range(5)
OPEN, GUILTY, ACQUITTED, LAPSED = range(4)  # rulings; none while it is open
PASS, FAIL, ABSTAIN = 0, 1, 2
EVIDENCE = keccak(b"evidence")
STAKE = 10_000 * YARD
Claim = tuple[bytes, int, int]
CASE_FIELDS = (
    "accused",
    "kind",
    "phase",
    "ruling",
    "is_appealed",
    "draws",
    "challenger",
    "opened_at",
    "since",
    "epoch",
    "appeal_until",
    "topic",
    "evidence",
)


def vote_commitment(case_id: int, epoch: int, juror: bytes, vote: int, salt: bytes) -> bytes:
    """Return what a juror commits to."""
    return keccak(encode(["uint256", "uint64", "address", "uint8", "bytes32"], [case_id, epoch, juror, vote, salt]))


class CourtRoom:
    """A court with its validators.

    Args:
        world: a fresh deployment. validators: how many stake, each `STAKE` and a hundred YARD more than the one before.
    """

    def __init__(self, world: World, validators: int = 5) -> None:
        self.world, self.contract = world, world.court
        self.validators = [f"validator {n}" for n in range(validators)]
        for n, name in enumerate(self.validators):
            world.stake(world.account(name), VALIDATOR, STAKE + n * 100 * YARD)
        world.stake(world.account("provider"), PROVIDER, STAKE)
        world.fund(world.account("challenger"), 1_000 * YARD)
        self.service = world.register("echo")
        self.begin_epoch()

    @property
    def epoch(self) -> int:
        """The running epoch, of the next transaction."""
        return (self.world.evm.now() + 1) // EPOCH_S

    def secret(self, name: str, epoch: int) -> bytes:
        """Return a validator's secret."""
        return keccak(f"secret of {name} in {epoch}".encode())

    def commit(self, name: str, epoch: int) -> Receipt:
        """Commit a validator to its secret."""
        commitment = keccak(self.secret(name, epoch))
        return self.contract.send("commitSecret", epoch, commitment, sender=self.world.account(name))

    def reveal(self, name: str, epoch: int) -> Receipt:
        """Reveal a validator's secret."""
        return self.contract.send("revealSecret", epoch, self.secret(name, epoch), sender=self.world.account(name))

    def begin_epoch(self, *, silent: Iterable[str] = ()) -> int:
        """Commit everybody to the next epoch's secret, and let it begin; `silent` ones don't."""
        epoch = self.epoch + 1
        for name in self.validators:
            if name not in set(silent) and not self.state(name, epoch):
                self.commit(name, epoch)
        self.advance_to(epoch * EPOCH_S)
        return epoch

    def advance_to(self, second: int) -> None:
        """Let the next transaction happen at a Unix second, or at once if that is past."""
        gap = second - self.world.evm.now() - 1
        if gap > 0:
            self.world.evm.advance(gap)

    def open(self, accused: str = "provider", **details: Any) -> int:
        """Open a case, as `send_open` does, and return its number."""
        return int(self.send_open(accused, **details).only("CaseOpened")["caseId"])

    def send_open(
        self,
        accused: str = "provider",
        *,
        kind: int = CHEAT,
        topic: bytes | None = None,
        claims: Sequence[Claim] = (),
        challenger: str = "challenger",
        evidence: bytes = EVIDENCE,
    ) -> Receipt:
        """Open a case, in an epoch that everybody committed to a secret for."""
        self.need_secrets()
        topic = (self.service if kind == CHEAT else ZERO32) if topic is None else topic
        who = self.world.account(accused)
        args = (kind, who, topic, evidence, list(claims))
        return self.contract.send("open", *args, sender=self.world.account(challenger))

    def need_secrets(self) -> None:
        """Go on to an epoch that validators committed to, unless this is one."""
        if not all(self.state(name, self.epoch) for name in self.validators):
            self.begin_epoch()

    def claims(self, *paid: tuple[str, int, int]) -> list[Claim]:
        """Return (gateway, lane id, nano) claims against the provider, in the order that the court wants."""
        made = [(self.world.account(gateway), lane_id, amount) for gateway, lane_id, amount in paid]
        return sorted(made, key=lambda claim: self.lane(claim[0], claim[1]))

    def lane(self, gateway: bytes, lane_id: int) -> bytes:
        """Return the key of a gateway's lane with the provider."""
        provider = self.world.account("provider")
        return bytes(self.world.escrow.call("laneKey", gateway, provider, self.service, lane_id))

    def case(self, case_id: int) -> dict[str, Any]:
        """Return a case's fields."""
        return dict(zip(CASE_FIELDS, self.contract.call("caseOf", case_id), strict=True))

    def finish_epoch(self, epoch: int, *, silent: Iterable[str] = ()) -> list[Revealer]:
        """Wait until an epoch is over, reveal everybody's secret but `silent`'s, tally; return who draws, in order.

        Everybody commits to the epochs that begin meanwhile, so that a case that waits finds secrets.
        """
        while self.epoch <= epoch:
            self.begin_epoch()
        until = (epoch + 1) * EPOCH_S + TERMS.reveal_s
        for name in self.validators:
            if name not in set(silent) and self.state(name, epoch) == 1 and self.world.evm.now() + 1 < until:
                self.reveal(name, epoch)
        self.advance_to(until)
        self.contract.send("tally", epoch, 100, sender=self.world.account("anyone"))
        return self.revealers(epoch)

    def revealers(self, epoch: int) -> list[Revealer]:
        """Return who draws in an epoch, from what the court says of each validator."""
        found = []
        for name in self.validators:
            value, weight, _, state = self.contract.call("secretOf", self.world.account(name), epoch)
            if state == 2 and weight:
                found.append(Revealer(self.world.account(name), value, weight))
        return found

    def state(self, name: str, epoch: int) -> int:
        """Return 0 nothing, 1 committed, 2 revealed, 3 fined."""
        return int(self.contract.call("secretOf", self.world.account(name), epoch)[3])

    def members(self, case_id: int) -> list[bytes]:
        """Return who the tickets of a case's next panel fall on."""
        case = self.case(case_id)
        size = TERMS.appeal_size if case["is_appealed"] else TERMS.panel_size
        revealers = self.revealers(case["epoch"])
        return draw_panel(case_id, revealers, size, barred=(case["accused"], case["challenger"]))

    def draw(self, case_id: int, *, silent: Iterable[str] = ()) -> Receipt:
        """Wait for a case's epoch, reveal, tally and seat its panel."""
        self.finish_epoch(self.case(case_id)["epoch"], silent=silent)
        return self.seat(case_id, self.members(case_id))

    def seat(self, case_id: int, members: Sequence[bytes]) -> Receipt:
        """Seat a panel."""
        return self.contract.send("draw", case_id, list(members), sender=self.world.account("anyone"))

    def panel(self, case_id: int) -> Counter[bytes]:
        """Return the seats of each juror of the present panel."""
        epoch = self.contract.call("panelOf", case_id)[5]
        jurors = self.contract.call("jurorsOf", case_id)
        return Counter({juror: self.contract.call("seatOf", case_id, epoch, juror)[1] for juror in jurors})

    def salt(self, juror: bytes) -> bytes:
        """Return a juror's salt."""
        return keccak(b"salt" + juror)

    def commit_vote(self, case_id: int, juror: bytes, vote: int) -> Receipt:
        """Commit a juror's vote."""
        epoch = self.contract.call("panelOf", case_id)[5]
        commitment = vote_commitment(case_id, epoch, juror, vote, self.salt(juror))
        return self.contract.send("commitVote", case_id, commitment, sender=juror)

    def reveal_vote(self, case_id: int, juror: bytes, vote: int) -> Receipt:
        """Reveal a juror's vote."""
        return self.contract.send("revealVote", case_id, vote, self.salt(juror), sender=juror)

    def vote(self, case_id: int, votes: dict[bytes, int] | int) -> None:
        """Let every juror vote: all the same way, or each its own; who is not named stays away."""
        if isinstance(votes, int):
            votes = dict.fromkeys(self.panel(case_id), votes)
        for juror, vote in votes.items():
            self.commit_vote(case_id, juror, vote)
        self.advance_to(self.contract.call("panelOf", case_id)[0])
        for juror, vote in votes.items():
            self.reveal_vote(case_id, juror, vote)

    def resolve(self, case_id: int) -> Receipt:
        """Resolve a case, as anyone."""
        return self.contract.send("resolve", case_id, sender=self.world.account("anyone"))

    def convict(self, case_id: int) -> Receipt:
        """Take a case through a unanimous panel, and past the time to appeal."""
        self.draw(case_id)
        self.vote(case_id, FAIL)
        self.resolve(case_id)
        self.advance_to(self.case(case_id)["appeal_until"])
        return self.resolve(case_id)

    def appeal(self, case_id: int, accused: str = "provider") -> Receipt:
        """Appeal, with the bond, in an epoch that everybody committed to a secret for."""
        self.need_secrets()
        self.world.fund(self.world.account(accused), TERMS.appeal_bond_nano)
        return self.contract.send("appeal", case_id, sender=self.world.account(accused))

    def pay(self, gateway: str, amount: int, lane_id: int = 1) -> None:
        """Let a gateway pay the provider on a lane, from a deposit made for it."""
        self.world.deposit(self.world.account(gateway), amount)
        self.world.redeem([self.world.pay(gateway, "provider", self.service, amount, lane_id=lane_id)])

    def at_stake(self, name: str = "provider", role: int = PROVIDER) -> int:
        """Return stake and unbonding part together."""
        return int(self.contract.call("atStake", self.world.account(name), role))

    def is_locked(self, name: str = "provider", role: int = PROVIDER) -> bool:
        """Whether the account's stake is held."""
        return bool(self.world.registry.call("lockedUntil", self.world.account(name), role))

    def bonds(self) -> int:
        """Return what the court holds."""
        return self.world.balance(self.contract.address)
