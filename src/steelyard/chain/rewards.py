"""Rewards: the pot of the protocol's cut, roots and claims, seen from Python. Amounts are nano, times Unix seconds.

1. A proposal's number is the topic of a case against it (`cases.CaseKind.WRONG_ROOT`, see `topic_of`).
2. Whoever has leaves under several final roots claims in their order: each root pays from its own purse.
3. Bonds come from the sender's wallet; the pot is approved first where it must be.

Law: contracts/src/Rewards.sol; docs/spec/contracts.md, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Log, TxReceipt
from steelyard.chain.reward_terms import RewardTerms
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.yard import YardClient
from steelyard.protocol.hashing import word


class ProposalState(IntEnum):
    """Where a proposal stands; NONE is a number that no proposal has."""

    NONE = 0
    PENDING = 1
    FINAL = 2
    VOID = 3
    LAPSED = 4


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed root.

    Attributes:
        ready_at_s: from when it can be settled. final_at_s: when it became final, or 0. epoch: the last that it covers.
        base: number of the final root that it adds to; 0 for the first. total_nano: of all leaves. purse_nano: what
            claims under it may still draw. cid: sha256 digest of the blob with the leaves (`protocol.rewards_blob`).
    """

    proposer: bytes
    ready_at_s: int
    final_at_s: int
    state: ProposalState
    epoch: int
    base: int
    total_nano: int
    purse_nano: int
    root: bytes
    cid: bytes


@dataclass(frozen=True, slots=True)
class PotMoney:
    """What became of all that came in: paid out, burned, or still there beside the bonds of pending proposals."""

    received_nano: int
    paid_nano: int
    burned_nano: int
    bonds_nano: int


class RewardsClient:
    """Reads and sends of the pot.

    Args:
        rpc: its life is the caller's. deployment: which pot.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self.contract = Contract(rpc, "Rewards", deployment.rewards)
        self.yard = YardClient(rpc, deployment)
        self.epoch_s = deployment.epoch_s

    def epoch_at(self, time_s: int) -> int:
        """Return the epoch of a Unix time in seconds, as the contract reckons it."""
        return time_s // self.epoch_s

    async def fetch_terms(self) -> RewardTerms:
        """Return the pot's terms, which never change."""
        names = ("challengeSeconds", "purseSeconds", "bond")
        challenge, purse, bond = await self.contract.read_many([(name, ()) for name in names])
        return RewardTerms(challenge_s=challenge[0], purse_s=purse[0], bond_nano=bond[0])

    async def fetch_money(self, block: BlockTag = "latest") -> PotMoney:
        """Return what came in and what became of it; what the escrow still holds for the pot is not in it."""
        names = ("receivedSoFar", "paid", "burned", "bonds")
        return PotMoney(*[values[0] for values in await self.contract.read_many([(n, ()) for n in names], block)])

    async def fetch_cap(self, epoch: int, block: BlockTag = "latest") -> int:
        """Return the highest total that may be proposed for an epoch; 0 until the pot was read after it (`collect`)."""
        return int((await self.contract.read("capOf", epoch, block=block))[0])

    async def fetch_last_final(self, block: BlockTag = "latest") -> int:
        """Return the number of the newest final root; 0 while there is none."""
        return int((await self.contract.read("lastFinal", block=block))[0])

    async def fetch_proposal_count(self, block: BlockTag = "latest") -> int:
        """Return how many roots were proposed; they are numbered from 1."""
        return int((await self.contract.read("proposalCount", block=block))[0])

    async def fetch_proposals(self, numbers: Sequence[int], block: BlockTag = "latest") -> list[Proposal]:
        """Return proposals, in order, in one request; `ProposalState.NONE` for a number that none has."""
        values = await self.contract.read_many([("proposalOf", (number,)) for number in numbers], block)
        found = [proposal for (proposal,) in values]
        return [Proposal(one[0], one[1], one[2], ProposalState(one[3]), *one[4:]) for one in found]

    async def fetch_claimed(self, accounts: Sequence[bytes], block: BlockTag = "latest") -> list[int]:
        """Return what accounts were paid ever, in order, in one request."""
        return [int(v[0]) for v in await self.contract.read_many([("claimedBy", (a,)) for a in accounts], block)]

    async def collect(self, sender: Sender) -> TxReceipt:
        """Take in what the escrow holds for the pot; the first time in an epoch fixes the cap of the one before."""
        return await self.contract.send(sender, "collect")

    async def propose(self, sender: Sender, epoch: int, root: bytes, cid: bytes, total_nano: int) -> int:
        """Propose a root for an epoch that is over, with the sender's bond, as an active validator; return its number.

        Args:
            cid: sha256 digest of the blob. total_nano: of all leaves.
        """
        terms = await self.fetch_terms()
        await self.yard.ensure_allowance(sender, self.contract.address, terms.bond_nano)
        receipt = await self.contract.send(sender, "propose", epoch, root, cid, total_nano)
        return int(self.contract.find_event(receipt.logs, "Proposed").values["id"])

    async def settle(self, sender: Sender, number: int) -> ProposalState:
        """End a proposal whose time is over, and return what it became."""
        receipt = await self.contract.send(sender, "settle", number)
        return ProposalState(self.contract.find_event(receipt.logs, "Settled").values["state"])

    async def claim(
        self, sender: Sender, number: int, account: bytes, cumulative_nano: int, proof: Sequence[bytes]
    ) -> int:
        """Claim for any account by its leaf under a final root, and return what it was paid."""
        receipt = await self.contract.send(sender, "claim", number, account, cumulative_nano, list(proof))
        return int(self.contract.find_event(receipt.logs, "Claimed").values["amount"])

    async def roll(self, sender: Sender, number: int) -> TxReceipt:
        """Move what is left in an old final root's purse to the newest one's."""
        return await self.contract.send(sender, "roll", number)

    async def burn_rest(self, sender: Sender) -> TxReceipt:
        """Burn what was not burned yet of the tenth that nobody receives."""
        return await self.contract.send(sender, "burnRest")

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return the pot's events among logs: Collected, Proposed, Settled, Claimed, Rolled, RestBurned, …"""
        return self.contract.decode_events(logs)


def topic_of(number: int) -> bytes:
    """Return the topic of a case against a proposal."""
    return word(number)
