"""The court's clerk: opens cases where the evidence suffices, and does what each open case waits for.

phase        who acts                      what
-----------  ----------------------------  -----------------------------------------------------------------------
-            whoever has the evidence      puts the case file into the blob store and opens the case with a bond
drawing      anyone, once secrets are out  tallies the epoch, then seats the panel that its tickets name
voting       each juror                    judges by itself, commits; reveals once the time to commit is over
voting       anyone, when all are in       counts
convicted    anyone, after the appeal      closes: the stake is slashed

1. A vote and its salt are on disk before the commitment leaves; a juror that died in between commits the same again.
2. Several clerks race for the same step; whoever comes second is told so by the chain, and nothing is lost.

Law: docs/spec/validator.md, section 7.
"""

from __future__ import annotations

import secrets as random_source
from collections import defaultdict
from collections.abc import Awaitable, Callable

import structlog

from steelyard.chain.cases import Case, CaseKind, Claim, Phase, SecretState, vote_commitment
from steelyard.chain.court import CourtClient
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.errors import NotProvable, Reverted
from steelyard.protocol.cid import Cid
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Lane, Outcome
from steelyard.protocol.signing import Domain
from steelyard.storage.blobs import BlobStore
from steelyard.storage.database import Database
from steelyard.storage.verdicts import VerdictRow, load_vote, save_vote
from steelyard.validator.book import Book, Pair, was_weighed
from steelyard.validator.case_file import MAX_ANSWERS, decode_case, encode_case
from steelyard.validator.checker import Checkable
from steelyard.validator.juror import judge_case
from steelyard.verification.panel import Revealer, draw_panel

MAX_CLAIMS = 16
_log = structlog.get_logger("steelyard.validator")


class Clerk:
    """Does a validator's part in court.

    Args:
        sender: the validator's. terms: the court's. checkables: how a service is checked here, by its id.
        is_challenging: whether it opens cases itself.
    """

    def __init__(
        self,
        book: Book,
        database: Database,
        blobs: BlobStore,
        court: CourtClient,
        escrow: EscrowClient,
        sender: Sender,
        domain: Domain,
        terms: CourtTerms,
        checkables: Callable[[bytes], Awaitable[Checkable | None]],
        *,
        is_challenging: bool,
    ) -> None:
        self._book = book
        self._database = database
        self._blobs = blobs
        self._court = court
        self._escrow = escrow
        self._sender = sender
        self._domain = domain
        self._terms = terms
        self._checkables = checkables
        self._is_challenging = is_challenging
        self._closed: set[int] = set()
        self._tried: dict[Pair, int] = {}
        self.open_against: set[Pair] = set()

    async def beat(self, now_s: int) -> None:
        """Do what is due at a time of the chain's clock; raises ChainError if the chain is silent."""
        await self._work_on_cases(now_s)
        if self._is_challenging:
            for pair in self._book.due():
                await self._challenge(pair)

    # opening

    async def _challenge(self, pair: Pair) -> None:
        provider, service_id = pair
        standing = await self._court.fetch_standing(CaseKind.CHEAT, provider, service_id)
        rows = [row for row in await self._book.verdicts_on(pair) if was_weighed(row)]
        fresh = [row for row in rows if row.created_ms // 1000 >= standing.settled_until_s]
        failed = sum(row.outcome == Outcome.FAIL for row in fresh)
        if standing.open_cases or not failed or self._tried.get(pair) == failed:
            return
        run = _unbroken(fresh)
        if not run or await self._court.fetch_at_stake(provider, CaseKind.CHEAT.role) == 0:
            return
        self._tried[pair] = failed
        first = rows.index(run[0]) + 1
        blob = encode_case(provider, service_id, first, [row.material or b"" for row in run])
        cid = await self._blobs.put(blob)
        claims = await self._claims(run, blob)
        try:
            case_id = await self._court.open_case(
                self._sender, CaseKind.CHEAT, provider, service_id, cid.digest, claims
            )
        except Reverted as error:
            _log.warning("case_not_opened", provider=provider.hex(), reason=error.message)
            return
        _log.info("case_opened", case=case_id, provider=provider.hex(), answers=len(run), failed=failed)

    async def _claims(self, run: list[VerdictRow], blob: bytes) -> list[Claim]:
        """What gateways paid for the failed answers, on the lanes with most of it, at most what can be paid back."""
        failed = {row.receipt_hash for row in run if row.outcome == Outcome.FAIL}
        costs: dict[Lane, int] = defaultdict(int)
        for answer in decode_case(blob).answers:
            if answer.receipt.struct_hash() in failed:
                costs[answer.order.lane] += answer.receipt.cost
        most = sorted(costs.items(), key=lambda item: -item[1])[:MAX_CLAIMS]
        claims = []
        for lane, nano in most:
            totals = await self._escrow.fetch_lane(lane.key)
            left = min(nano, totals.paid_nano - await self._court.fetch_compensated(lane.key))
            if left > 0:
                claims.append(Claim(lane, left))
        return claims

    # what cases wait for

    async def _work_on_cases(self, now_s: int) -> None:
        count = await self._court.fetch_case_count()
        numbers = [number for number in range(1, count + 1) if number not in self._closed]
        cases = await self._court.fetch_cases(numbers) if numbers else []
        self.open_against = {(c.accused, c.topic) for c in cases if c.phase not in (Phase.NONE, Phase.CLOSED)}
        for number, case in zip(numbers, cases, strict=True):
            try:
                await self._step(number, case, now_s)
            except Reverted as error:  # another clerk was first, or it is a second too early
                _log.info("case_step_refused", case=number, phase=case.phase.name, reason=error.message)

    async def _step(self, number: int, case: Case, now_s: int) -> None:
        if case.phase is Phase.CLOSED:
            self._closed.add(number)
        elif case.phase is Phase.DRAWING:
            await self._draw(number, case, now_s)
        elif case.phase is Phase.VOTING:
            await self._vote(number, case, now_s)
        elif case.phase is Phase.CONVICTED and now_s >= case.appeal_until_s:
            await self._court.resolve(self._sender, number)

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
            vote, salt = await self._decide(number, case, panel.epoch)
            commitment = vote_commitment(number, panel.epoch, self._sender.account, vote, salt)
            await self._court.commit_vote(self._sender, number, commitment)
        elif seat.commitment != ZERO32 and not seat.is_revealed and now_s >= panel.commit_until_s:
            kept = await load_vote(self._database, number, panel.epoch)
            if kept is None:
                _log.error("vote_lost", case=number)
                return
            await self._court.reveal_vote(self._sender, number, Outcome(kept[0]), kept[1])

    async def _decide(self, number: int, case: Case, epoch: int) -> tuple[Outcome, bytes]:
        kept = await load_vote(self._database, number, epoch)
        if kept is not None:
            return Outcome(kept[0]), kept[1]
        vote = await self._judge(number, case)
        salt = random_source.token_bytes(32)
        await save_vote(self._database, number, epoch, int(vote), salt)
        _log.info("vote_decided", case=number, vote=vote.name)
        return vote, salt

    async def _judge(self, number: int, case: Case) -> Outcome:
        if case.kind is not CaseKind.CHEAT:
            return Outcome.ABSTAIN
        try:
            blob = await self._blobs.get(Cid(case.evidence))
        except NotProvable:
            return Outcome.ABSTAIN
        claims = [(lane_key, nano) for lane_key, _, nano in await self._court.fetch_harms(number)]
        checkable = await self._checkables(case.topic)
        return await judge_case(blob, case.accused, case.topic, claims, checkable, self._domain)


def _unbroken(rows: list[VerdictRow]) -> list[VerdictRow]:
    """The longest run up to the newest verdict whose material is still kept."""
    run: list[VerdictRow] = []
    for row in reversed(rows):
        if row.material is None or len(run) == MAX_ANSWERS:
            break
        run.append(row)
    return run[::-1]
