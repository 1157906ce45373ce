"""The reward roots: computed by everyone from the same chain, proposed by one, checked by all.

1. A root adds to the last final one what the epochs since then earned: the cut of each redemption of checked work,
   times the provider's quality after that epoch. Nobody's choice enters it.
2. While a blob that counts is missing there is no root: nothing is proposed, challenged or voted on, and that is told.
3. A proposal that differs in root, total or blob from what is computed here is challenged, however late this validator
   comes to it, and not settled before the court found it wrong. A right one is not proposed again beside it.

Law: docs/spec/checking.md, section 8; docs/spec/contracts.md, section 9; docs/spec/validator.md, section 7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import structlog

from steelyard.chain.cases import Case, CaseKind
from steelyard.chain.court import CourtClient
from steelyard.chain.rewards import Proposal, ProposalState, RewardsClient, topic_of
from steelyard.chain.sender import Sender
from steelyard.errors import NotProvable, PeerError, Reverted
from steelyard.protocol.cid import Cid, cid_of
from steelyard.protocol.messages import Outcome
from steelyard.protocol.rewards_blob import add_earnings, decode_rewards, encode_rewards, shares_root
from steelyard.protocol.signing import Domain
from steelyard.storage.blobs import BlobStore
from steelyard.validator.cuts import Cuts
from steelyard.validator.quality import NetworkQuality
from steelyard.verification.quality import Record, Redeemed, quality_ppm, reward_weights

PROPOSE_TURN_S = 20
"""Validators propose one after the other, so that a right root is bonded once."""

_log = structlog.get_logger("steelyard.validator")


class Computed(msgspec.Struct, frozen=True):
    """A root as it has to be, with the blob of its leaves."""

    root: bytes
    total: int
    blob: bytes


class RootCase(msgspec.Struct, frozen=True, array_like=True):
    """The file behind a case against a root: what the challenger computed; a juror believes none of it."""

    proposal: int
    epoch: int
    root: bytes
    total: int


class RewardRoots:
    """Computes roots.

    Args:
        quality: of its own: it is asked for epochs in the order of a root's.
    """

    def __init__(
        self, rewards: RewardsClient, quality: NetworkQuality, cuts: Cuts, blobs: BlobStore, domain: Domain
    ) -> None:
        self._rewards = rewards
        self._quality = quality
        self._cuts = cuts
        self._blobs = blobs
        self._domain = domain
        self._known: dict[tuple[int, int], Computed] = {}

    async def compute(self, base: int, epoch: int) -> Computed:
        """Return the root for all epochs up to one that is over, on top of a final root's number (0: the first).

        Raises:
            NotProvable: a blob that counts is missing, or the base's is not what was proposed. ChainError.
        """
        known = self._known.get((base, epoch))
        if known is not None:
            return known
        await self._cuts.refresh()
        shares: dict[bytes, int] = {}
        first = 0
        if base:
            [final] = await self._rewards.fetch_proposals([base])
            first = final.epoch + 1
            try:
                blob = decode_rewards(
                    await self._blobs.get(Cid(final.cid)), self._domain, root=final.root, total=final.total_nano
                )
            except PeerError as error:
                raise NotProvable(
                    f"the leaves of the final root {base} are not what it names: {error.message}"
                ) from error
            shares = blob.as_shares()
        for at in self._cuts.epochs(first, epoch):
            records = await self._quality.compute(at)
            redeemed = [
                Redeemed(
                    provider=pair[0],
                    service_id=pair[1],
                    cut_nano=cut,
                    quality_ppm=quality_ppm(records.get(pair, Record())),
                )
                for pair, cut in sorted(self._cuts.of_epoch(at).items())
            ]
            shares = add_earnings(shares, reward_weights(redeemed))
        computed = Computed(shares_root(shares), sum(shares.values()), encode_rewards(self._domain, epoch, shares))
        self._known = {key: value for key, value in self._known.items() if key[0] == base} | {(base, epoch): computed}
        return computed

    async def judge_case(self, case: Case) -> Outcome:
        """Return this juror's vote on a case against a proposal, which its topic names."""
        return await self.judge(int.from_bytes(case.topic, "big"))

    async def judge(self, number: int) -> Outcome:
        """Return whether a proposal is wrong (FAIL), right (PASS), or can't be computed here (ABSTAIN)."""
        [proposal] = await self._rewards.fetch_proposals([number])
        if proposal.state is ProposalState.NONE:
            return Outcome.PASS
        try:
            computed = await self.compute(proposal.base, proposal.epoch)
        except NotProvable as error:
            _log.warning("root_not_provable", proposal=number, reason=error.message)
            return Outcome.ABSTAIN
        return Outcome.PASS if _agrees(proposal, computed) else Outcome.FAIL


class RewardDesk:
    """Does a validator's part: proposes, settles, and challenges what is wrong.

    Args:
        sender: the validator's. validators: everyone who ever staked as one. is_challenging: open cases.
    """

    def __init__(
        self,
        roots: RewardRoots,
        rewards: RewardsClient,
        court: CourtClient,
        blobs: BlobStore,
        sender: Sender,
        validators: Callable[[], Awaitable[list[bytes]]],
        *,
        is_challenging: bool,
    ) -> None:
        self._roots = roots
        self._rewards = rewards
        self._court = court
        self._blobs = blobs
        self._sender = sender
        self._validators = validators
        self._is_challenging = is_challenging
        self._settled: set[int] = set()
        self._judged: dict[int, Outcome] = {}

    async def beat(self, now_s: int) -> None:
        """Do what is due at a time of the chain's clock; raises ChainError."""
        count = await self._rewards.fetch_proposal_count()
        numbers = [number for number in range(1, count + 1) if number not in self._settled]
        proposals = await self._rewards.fetch_proposals(numbers) if numbers else []
        base = await self._rewards.fetch_last_final()
        is_covered = False
        for number, proposal in zip(numbers, proposals, strict=True):
            if proposal.state is not ProposalState.PENDING:
                self._settled.add(number)
                continue
            outcome = self._judged.get(number, Outcome.ABSTAIN)
            if outcome is Outcome.ABSTAIN:
                outcome = self._judged[number] = await self._roots.judge(number)
                if outcome is Outcome.FAIL:
                    await self._challenge(number, proposal)
            if now_s >= proposal.ready_at_s and (outcome is not Outcome.FAIL or await self._is_void(number, proposal)):
                await self._settle(number)
            is_covered |= proposal.base == base and outcome is not Outcome.FAIL
        if not is_covered:
            await self._propose(base, now_s)

    async def _propose(self, base: int, now_s: int) -> None:
        epoch = self._rewards.epoch_at(now_s) - 1
        before: Proposal | None = (await self._rewards.fetch_proposals([base]))[0] if base else None
        if before is not None and epoch <= before.epoch:
            return
        order = sorted(await self._validators())
        me = self._sender.account
        rank = (order.index(me) - epoch) % len(order) if me in order else len(order)
        if now_s < (epoch + 1) * self._rewards.epoch_s + rank * PROPOSE_TURN_S % self._rewards.epoch_s:
            return
        try:
            computed = await self._roots.compute(base, epoch)
        except NotProvable as error:
            _log.warning("root_not_provable", epoch=epoch, reason=error.message)
            return
        if computed.total <= (before.total_nano if before else 0):
            return
        cid = await self._blobs.put(computed.blob)
        try:
            number = await self._rewards.propose(self._sender, epoch, computed.root, cid.digest, computed.total)
            _log.info("root_proposed", proposal=number, epoch=epoch, total_nano=computed.total, cid=str(cid))
        except Reverted as error:
            _log.warning("root_not_proposed", epoch=epoch, reason=error.message)

    async def _settle(self, number: int) -> None:
        try:
            state = await self._rewards.settle(self._sender, number)
            _log.info("root_settled", proposal=number, state=state.name)
        except Reverted as error:  # disputed, or somebody else was first
            _log.info("root_not_settled", proposal=number, reason=error.message)

    async def _is_void(self, number: int, proposal: Proposal) -> bool:
        """Say whether the court found a root wrong after it was proposed: to settle it then burns its bond."""
        standing = await self._court.fetch_standing(CaseKind.WRONG_ROOT, proposal.proposer, topic_of(number))
        proposed_s = proposal.ready_at_s - (await self._rewards.fetch_terms()).challenge_s
        return not standing.open_cases and standing.settled_until_s >= proposed_s

    async def _challenge(self, number: int, proposal: Proposal) -> None:
        if not self._is_challenging or proposal.proposer == self._sender.account:
            return
        topic = topic_of(number)
        if (await self._court.fetch_standing(CaseKind.WRONG_ROOT, proposal.proposer, topic)).open_cases:
            return
        computed = await self._roots.compute(proposal.base, proposal.epoch)
        case = msgspec.msgpack.encode(RootCase(number, proposal.epoch, computed.root, computed.total))
        cid = await self._blobs.put(case)
        try:
            opened = await self._court.open_case(
                self._sender, CaseKind.WRONG_ROOT, proposal.proposer, topic, cid.digest
            )
            _log.warning("wrong_root_challenged", proposal=number, case=opened)
        except Reverted as error:
            _log.warning("wrong_root_not_challenged", proposal=number, reason=error.message)


def _agrees(proposal: Proposal, computed: Computed) -> bool:
    digest = cid_of(computed.blob).digest
    return (proposal.root, proposal.total_nano, proposal.cid) == (computed.root, computed.total, digest)
