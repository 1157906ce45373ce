"""The court's clerk: opens cases where the evidence suffices, and does what each open case waits for.

phase        who acts                      what
-----------  ----------------------------  -----------------------------------------------------------------------
-            whoever has the evidence      opens the case (`challenges`)
drawing      anyone, once secrets are out  tallies the epoch, then seats the panel that its tickets name
voting       each juror                    judges by itself, commits; reveals once the time to commit is over
voting       anyone, when all are in       counts
convicted    anyone, after the appeal      closes: the stake is slashed

1. A vote and its salt are on disk before the commitment leaves; a juror that died in between commits the same again.
2. A vote is made up beside the beat; secrets and other cases don't wait for it.
3. Several clerks race for the same step; whoever comes second is told so by the chain, and nothing is lost.

Law: docs/spec/validator.md, section 7.
"""

from __future__ import annotations

import secrets as random_source
from collections.abc import Awaitable, Callable, Mapping

import structlog

from steelyard.chain.cases import Case, CaseKind, Phase, SecretState, vote_commitment
from steelyard.chain.court import CourtClient
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.errors import NotProvable, Reverted
from steelyard.protocol.cid import Cid
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Outcome
from steelyard.protocol.signing import Domain
from steelyard.storage.blobs import BlobStore
from steelyard.storage.database import Database
from steelyard.storage.verdicts import load_vote, save_vote
from steelyard.validator.backroom import Backroom
from steelyard.validator.challenges import Challenges
from steelyard.validator.checker import Checkable
from steelyard.validator.juror import judge_case
from steelyard.verification.panel import Revealer, draw_panel

Judge = Callable[[Case], Awaitable[Outcome]]
"""Returns this juror's vote on a case of one kind."""

_log = structlog.get_logger("steelyard.validator")


class Clerk:
    """Does a validator's part in court.

    Args:
        sender: the validator's. terms: the court's. checkables: how a service is checked here, by its id.
        challenges: opens cases; None: this validator opens none. backroom: where votes are made up.
        judges: of cases that are not about cheating; of a kind that has none this validator abstains.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        court: CourtClient,
        sender: Sender,
        domain: Domain,
        terms: CourtTerms,
        checkables: Callable[[bytes], Awaitable[Checkable | None]],
        challenges: Challenges | None,
        backroom: Backroom,
        judges: Mapping[CaseKind, Judge] | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._court = court
        self._sender = sender
        self._domain = domain
        self._terms = terms
        self._checkables = checkables
        self._challenges = challenges
        self._backroom = backroom
        self._judges = judges or {}
        self._closed: set[int] = set()
        self._votes: dict[int, Outcome] = {}

    async def beat(self, now_s: int) -> None:
        """Do what is due at a time of the chain's clock; raises ChainError if the chain is silent."""
        await self._work_on_cases(now_s)
        if self._challenges is not None:
            await self._challenges.beat()

    # what cases wait for

    async def _work_on_cases(self, now_s: int) -> None:
        count = await self._court.fetch_case_count()
        numbers = [number for number in range(1, count + 1) if number not in self._closed]
        cases = await self._court.fetch_cases(numbers) if numbers else []
        for number, case in zip(numbers, cases, strict=True):
            try:
                await self._step(number, case, now_s)
            except Reverted as error:  # another clerk was first, or it is a second too early
                _log.info("case_step_refused", case=number, phase=case.phase.name, reason=error.message)

    async def _step(self, number: int, case: Case, now_s: int) -> None:
        if case.phase is Phase.CLOSED:
            self._closed.add(number)
            if self._challenges is not None:
                self._challenges.learn(case)
        elif case.phase is Phase.DRAWING:
            await self._prepare(number, case)
            await self._draw(number, case, now_s)
        elif case.phase is Phase.VOTING:
            await self._vote(number, case, now_s)
        elif case.phase is Phase.CONVICTED and now_s >= case.appeal_until_s:
            await self._court.resolve(self._sender, number)

    async def _prepare(self, number: int, case: Case) -> None:
        """Judge while the panel is not drawn yet, where validators are so few that a seat is likely."""
        me = self._sender.account
        if number in self._votes or me in (case.accused, case.challenger):
            return
        committed = (await self._court.fetch_round(case.epoch)).committed
        if me in committed and len(committed) <= self._terms.panel_size:
            self._keep(number, self._backroom.take(number, lambda: self._judge(number, case)))

    async def _draw(self, number: int, case: Case, now_s: int) -> None:
        if now_s < (case.epoch + 1) * self._court.epoch_s + self._terms.reveal_s:
            return
        tally = await self._court.fetch_round(case.epoch)
        while not tally.is_tallied:
            await self._court.tally(self._sender, case.epoch)
            tally = await self._court.fetch_round(case.epoch)
        found = await self._court.fetch_secrets(tally.committed, case.epoch) if tally.committed else []
        revealers = [
            Revealer(account, secret.value, secret.weight_nano)
            for account, secret in zip(tally.committed, found, strict=True)
            if secret.state is SecretState.REVEALED
        ]
        size = self._terms.appeal_size if case.is_appealed else self._terms.panel_size
        barred = {case.accused, case.challenger}
        members = draw_panel(number, revealers, size, barred=barred, least=self._terms.min_validators)
        await self._court.draw(self._sender, number, members)

    async def _vote(self, number: int, case: Case, now_s: int) -> None:
        panel, jurors = await self._court.fetch_panel(number)
        size = self._terms.appeal_size if case.is_appealed else self._terms.panel_size
        if panel.revealed == size or now_s >= panel.reveal_until_s:
            await self._court.resolve(self._sender, number)
            return
        if self._sender.account not in jurors:
            return
        seat = await self._court.fetch_seat(number, panel.epoch, self._sender.account)
        if seat.commitment == ZERO32 and now_s < panel.commit_until_s:
            decided = await self._decide(number, case, panel.epoch)
            if decided is not None:
                commitment = vote_commitment(number, panel.epoch, self._sender.account, *decided)
                await self._court.commit_vote(self._sender, number, commitment)
        elif seat.commitment != ZERO32 and not seat.is_revealed and now_s >= panel.commit_until_s:
            kept = await load_vote(self._database, number, panel.epoch)
            if kept is None:
                _log.error("vote_lost", case=number)
                return
            await self._court.reveal_vote(self._sender, number, Outcome(kept[0]), kept[1])

    async def _decide(self, number: int, case: Case, epoch: int) -> tuple[Outcome, bytes] | None:
        """The vote and its salt, kept on disk; None while it is being made up."""
        kept = await load_vote(self._database, number, epoch)
        if kept is not None:
            return Outcome(kept[0]), kept[1]
        vote = self._votes.get(number)
        if vote is None:
            vote = self._backroom.take(number, lambda: self._judge(number, case))
        if vote is None:
            return None
        self._keep(number, vote)
        salt = random_source.token_bytes(32)
        await save_vote(self._database, number, epoch, int(vote), salt)
        _log.info("vote_decided", case=number, vote=vote.name)
        return vote, salt

    def _keep(self, number: int, vote: Outcome | None) -> None:
        """What was replayed once for a case needs no replay on its next panel; an abstention is thought over."""
        if vote is not None and vote is not Outcome.ABSTAIN:
            self._votes[number] = vote

    async def _judge(self, number: int, case: Case) -> Outcome:
        if case.kind is not CaseKind.CHEAT:
            judge = self._judges.get(case.kind)
            return Outcome.ABSTAIN if judge is None else await judge(case)
        try:
            blob = await self._blobs.get(Cid(case.evidence))
        except NotProvable:
            return Outcome.ABSTAIN
        claims = [(lane_key, nano) for lane_key, _, nano in await self._court.fetch_harms(number)]
        checkable = await self._checkables(case.topic)
        return await judge_case(blob, case.accused, case.topic, claims, checkable, self._domain, since_s=case.since_s)
