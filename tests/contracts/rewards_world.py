"""The pot of rewards under test: a court with validators, redemptions that fill the pot, roots and claims.

    room = RewardRoom(world)
    room.earn(1_000 * YARD)                      # redemptions whose protocol's cut is that much
    room.end_epoch()
    root = room.propose({room.account("provider"): 900 * YARD})
    room.finish(root)
    room.claim(root, "provider")

1. What was proposed is remembered by its number, so that claims can be proven.
2. Time moves only where a step needs it to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.contracts.contract import Contract, Receipt
from tests.contracts.court_world import WRONG_ROOT, CourtRoom
from tests.contracts.world import EPOCH_S, MAX_UINT256, YARD, World

from steelyard.protocol.hashing import keccak
from steelyard.protocol.rewards_blob import Shares, build_share_proof, shares_root

CHALLENGE_S, PURSE_S = 2 * 3_600, 10 * 86_400
BOND = 50 * YARD
TERMS = (CHALLENGE_S, PURSE_S, BOND)
NONE, PENDING, FINAL, VOID, LAPSED = range(5)
BLOB = keccak(b"blob of rewards")
ALL_TO_PROTOCOL = (0, 0, 0, 10_000)
FIELDS = ("proposer", "ready_at", "final_at", "state", "epoch", "base", "total", "purse", "root", "cid")


@dataclass
class RewardRoom:
    """A pot with its court.

    Args:
        world: a fresh deployment. count: how many validators stake.
    """

    world: World
    count: int = 5
    shares: dict[int, Shares] = field(default_factory=dict)
    earned: int = 0

    def __post_init__(self) -> None:
        self.court = CourtRoom(self.world, self.count)
        self.pot = create_rewards(self.world)
        self.world.escrow.send("setProtocolPot", self.pot.address, sender=self.world.admin)
        self.free_work = self.world.register("all-to-protocol", ALL_TO_PROTOCOL, data_pot=None)
        for name in self.court.validators:
            self.endow(name)

    @property
    def epoch(self) -> int:
        """The running epoch, of the next transaction."""
        return self.court.epoch

    def account(self, name: str) -> bytes:
        """Return a named actor's account."""
        return self.world.account(name)

    def endow(self, name: str, amount: int = 20 * BOND) -> None:
        """Give an actor money for bonds, which the pot may take."""
        self.world.fund(self.account(name), amount)
        self.world.yard.send("approve", self.pot.address, MAX_UINT256, sender=self.account(name))

    def earn(self, cut: int, gateway: str = "gateway") -> None:
        """Redeem work of which the protocol gets all: `cut` nano come into the escrow for the pot."""
        self.earned += cut
        self.world.deposit(self.account(gateway), cut)
        self.world.redeem([self.world.pay(gateway, "provider", self.free_work, self.earned)])

    def end_epoch(self) -> int:
        """Let the running epoch end, and return it."""
        epoch = self.epoch
        self.court.advance_to((epoch + 1) * EPOCH_S)
        return epoch

    def propose(self, shares: Shares, **details: Any) -> int:
        """Propose a root over shares, as `send_propose` does, and return its number."""
        return int(self.send_propose(shares, **details).only("Proposed")["id"])

    def send_propose(
        self,
        shares: Shares,
        *,
        epoch: int | None = None,
        total: int | None = None,
        by: str = "validator 0",
        root: bytes | None = None,
        cid: bytes = BLOB,
    ) -> Receipt:
        """Propose a root over shares: of the epoch before, with their sum for total, unless told otherwise."""
        args = (
            self.epoch - 1 if epoch is None else epoch,
            shares_root(shares) if root is None else root,
            cid,
            sum(shares.values()) if total is None else total,
        )
        receipt = self.pot.send("propose", *args, sender=self.account(by))
        self.shares[receipt.only("Proposed")["id"]] = dict(shares)
        return receipt

    def settle(self, proposal: int) -> Receipt:
        """Settle a proposal, as anyone."""
        return self.pot.send("settle", proposal, sender=self.account("anyone"))

    def finish(self, proposal: int) -> Receipt:
        """Wait until a proposal may be settled, and settle it."""
        self.court.advance_to(self.proposal(proposal)["ready_at"])
        return self.settle(proposal)

    def reward(self, shares: Shares) -> int:
        """End the epoch, propose shares and make them final; return the root's number."""
        self.end_epoch()
        proposal = self.propose(shares)
        self.finish(proposal)
        return proposal

    def proposal(self, proposal: int) -> dict[str, Any]:
        """Return a proposal's fields."""
        return dict(zip(FIELDS, self.pot.call("proposalOf", proposal), strict=True))

    def claim(self, proposal: int, account: bytes, cumulative: int | None = None) -> Receipt:
        """Claim for an account by its leaf under a root, as anyone."""
        shares = self.shares[proposal]
        amount = shares[account] if cumulative is None else cumulative
        proof = build_share_proof(shares, account)
        return self.pot.send("claim", proposal, account, amount, proof, sender=self.account("anyone"))

    def challenge(self, proposal: int) -> int:
        """Open a case against the validator that proposed a root, and return the case's number."""
        proposer = self.proposal(proposal)["proposer"]
        name = next(name for name in self.court.validators if self.account(name) == proposer)
        return self.court.open(name, kind=WRONG_ROOT, topic=proposal.to_bytes(32, "big"))

    def held(self) -> int:
        """Return what the contract holds, in nano."""
        return self.world.balance(self.pot.address)


def create_rewards(world: World, terms: tuple[int, int, int] = TERMS) -> Contract:
    """Deploy a pot beside a world's court."""
    return world.create("Rewards", world.court.address, *terms)
