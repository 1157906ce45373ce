"""Court: secrets, cases, panels and their votes, seen from Python. Amounts are nano, times Unix seconds.

1. A vote is committed by `cases.vote_commitment` and revealed with its salt; a juror that loses the salt is fined.
2. Whoever draws names the members; the contract refuses any but those whom the tickets fell on (verification.panel).
3. Bonds come from the sender's wallet; the court is approved first where it must be.

Law: contracts/src/Court.sol and its parts; docs/spec/contracts.md, section 8.
"""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.cases import (
    Case,
    CaseKind,
    Claim,
    EpochSecret,
    Panel,
    Phase,
    Round,
    Ruling,
    Seat,
    SecretState,
    Standing,
)
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Log, TxReceipt
from steelyard.chain.registry import Role
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.chain.yard import YardClient
from steelyard.protocol.messages import Outcome


class CourtClient:
    """Reads and sends of the court.

    Args:
        rpc: its life is the caller's. deployment: which court.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self.contract = Contract(rpc, "Court", deployment.court)
        self.yard = YardClient(rpc, deployment)
        self.epoch_s = deployment.epoch_s

    def epoch_at(self, time_s: int) -> int:
        """Return the epoch of a Unix time in seconds, as the contract reckons it."""
        return time_s // self.epoch_s

    async def fetch_terms(self) -> CourtTerms:
        """Return the court's terms, which never change."""
        values = (await self.contract.read("terms"))[0]
        return CourtTerms(**dict(zip(CourtTerms.__dataclass_fields__, values, strict=True)))

    async def fetch_secrets(
        self, validators: Sequence[bytes], epoch: int, block: BlockTag = "latest"
    ) -> list[EpochSecret]:
        """Return validators' secrets for an epoch, in order, in one request."""
        values = await self.contract.read_many([("secretOf", (account, epoch)) for account in validators], block)
        return [EpochSecret(value, weight, end, SecretState(state)) for ((value, weight, end, state),) in values]

    async def fetch_round(self, epoch: int, block: BlockTag = "latest") -> Round:
        """Return an epoch's tally, and who committed for it in the order that draws go by."""
        (tally,), (committed,) = await self.contract.read_many(
            [("roundOf", (epoch,)), ("committedFor", (epoch,))], block
        )
        total, walked, seated, mix = tally
        return Round(total, walked, seated, mix, tuple(committed))

    async def fetch_case_count(self, block: BlockTag = "latest") -> int:
        """Return how many cases were opened; they are numbered from 1."""
        return int((await self.contract.read("caseCount", block=block))[0])

    async def fetch_cases(self, case_ids: Sequence[int], block: BlockTag = "latest") -> list[Case]:
        """Return cases, in order, in one request; `Phase.NONE` for a number that none has."""
        values = await self.contract.read_many([("caseOf", (case_id,)) for case_id in case_ids], block)
        return [Case(case[0], CaseKind(case[1]), Phase(case[2]), Ruling(case[3]), *case[4:]) for (case,) in values]

    async def fetch_panel(self, case_id: int, block: BlockTag = "latest") -> tuple[Panel, tuple[bytes, ...]]:
        """Return a case's present panel, and who sits on it, each once."""
        (panel,), (jurors,) = await self.contract.read_many([("panelOf", (case_id,)), ("jurorsOf", (case_id,))], block)
        return Panel(*panel), tuple(jurors)

    async def fetch_seat(self, case_id: int, epoch: int, juror: bytes, block: BlockTag = "latest") -> Seat:
        """Return a juror's seats on the panel that an epoch's secrets drew; none: `seats` is 0."""
        commitment, seats, state, vote = (await self.contract.read("seatOf", case_id, epoch, juror, block=block))[0]
        return Seat(commitment, seats, state == 2, Outcome(vote))

    async def fetch_standing(
        self, kind: CaseKind, accused: bytes, topic: bytes, block: BlockTag = "latest"
    ) -> Standing:
        """Return what is open against an account on a topic, and until when it stands convicted."""
        return Standing(*await self.contract.read("standingOf", int(kind), accused, topic, block=block))

    async def fetch_at_stake(self, account: bytes, role: Role, block: BlockTag = "latest") -> int:
        """Return all of an account's stake in a role that can be slashed, the unbonding part too."""
        return int((await self.contract.read("atStake", account, int(role), block=block))[0])

    async def fetch_compensated(self, lane_key: bytes, block: BlockTag = "latest") -> int:
        """Return what a gateway got back so far of what it paid on a lane."""
        return int((await self.contract.read("compensatedOn", lane_key, block=block))[0])

    async def fetch_harms(self, case_id: int, block: BlockTag = "latest") -> list[tuple[bytes, bytes, int]]:
        """Return (lane key, gateway, nano) of what a case claims that gateways paid."""
        harms = (await self.contract.read("harmsOf", case_id, block=block))[0]
        return [(lane, gateway, int(amount)) for lane, gateway, amount in harms]

    async def commit_secret(self, sender: Sender, epoch: int, commitment: bytes) -> TxReceipt:
        """Commit the sender, an active validator, to keccak(secret) for an epoch that has not begun."""
        return await self.contract.send(sender, "commitSecret", epoch, commitment)

    async def reveal_secret(self, sender: Sender, epoch: int, secret: bytes) -> TxReceipt:
        """Reveal the sender's secret (32 bytes) of an epoch that is over."""
        return await self.contract.send(sender, "revealSecret", epoch, secret)

    async def tally(self, sender: Sender, epoch: int, most: int = 100) -> TxReceipt:
        """Tally the next validators of an epoch, and fine the silent among them."""
        return await self.contract.send(sender, "tally", epoch, most)

    async def open_case(
        self,
        sender: Sender,
        kind: CaseKind,
        accused: bytes,
        topic: bytes,
        evidence: bytes,
        claims: Sequence[Claim] = (),
    ) -> int:
        """Open a case with the sender's bond and return its number.

        Args:
            topic: the service of a cheat, the proposal of a wrong root, else zero. evidence: sha256 digest of the blob.
            claims: in any order; each lane once, of the accused and the service; for a cheat alone.
        """
        terms = await self.fetch_terms()
        await self.yard.ensure_allowance(sender, self.contract.address, terms.bond_nano)
        ordered = sorted(claims, key=lambda claim: claim.lane.key)
        given = [(claim.lane.gateway, claim.lane.lane_id, claim.amount_nano) for claim in ordered]
        receipt = await self.contract.send(sender, "open", int(kind), accused, topic, evidence, given)
        return int(self.contract.find_event(receipt.logs, "CaseOpened").values["caseId"])

    async def draw(self, sender: Sender, case_id: int, members: Sequence[bytes]) -> TxReceipt:
        """Seat a case's panel, one member a seat; none where too few validators revealed, and the case then waits."""
        return await self.contract.send(sender, "draw", case_id, list(members))

    async def commit_vote(self, sender: Sender, case_id: int, commitment: bytes) -> TxReceipt:
        """Commit the sender's vote."""
        return await self.contract.send(sender, "commitVote", case_id, commitment)

    async def reveal_vote(self, sender: Sender, case_id: int, vote: Outcome, salt: bytes) -> TxReceipt:
        """Reveal the sender's vote."""
        return await self.contract.send(sender, "revealVote", case_id, int(vote), salt)

    async def resolve(self, sender: Sender, case_id: int) -> TxReceipt:
        """Count a case's votes, or close a conviction whose time to appeal is over."""
        return await self.contract.send(sender, "resolve", case_id)

    async def appeal(self, sender: Sender, case_id: int) -> TxReceipt:
        """Appeal against the sender's conviction, with its bond."""
        terms = await self.fetch_terms()
        await self.yard.ensure_allowance(sender, self.contract.address, terms.appeal_bond_nano)
        return await self.contract.send(sender, "appeal", case_id)

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return the court's events among logs: CaseOpened, PanelDrawn, CaseClosed, BondPosted, Punished, …"""
        return self.contract.decode_events(logs)
