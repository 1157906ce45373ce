"""Opening cases: when a validator's own evidence would convict, by the very judgement that a juror gives.

1. A bond is put up only for a case that this validator, as a juror, would find guilty, over the run that it shows.
2. What was done before the last conviction is settled. After a case that ended otherwise, the next one needs
   `retry_answers` answers that no earlier one had.
3. Where a case is open already, the validator waits for its end.

Law: docs/spec/validator.md, section 7; docs/spec/checking.md, section 9.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from steelyard.chain.cases import Case, CaseKind, Claim, Ruling
from steelyard.chain.court import CourtClient
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.sender import Sender
from steelyard.errors import Reverted
from steelyard.protocol.messages import Lane, Outcome
from steelyard.protocol.signing import Domain
from steelyard.storage.blobs import BlobStore
from steelyard.storage.verdicts import VerdictRow
from steelyard.validator.backroom import Backroom
from steelyard.validator.book import Book, was_weighed
from steelyard.validator.case_file import MAX_ANSWERS, decode_case, decode_material, encode_case
from steelyard.validator.checker import Checkable
from steelyard.validator.juror import is_settled, judge_case
from steelyard.verification.parameters import SHIPPED, CheckParameters
from steelyard.verification.standing import Pair

MAX_CLAIMS = 16
_log = structlog.get_logger("steelyard.validator")


class Draft(msgspec.Struct, frozen=True):
    """A case that could be opened: its file, what it claims for gateways, and what its own author votes."""

    blob: bytes
    claims: tuple[Claim, ...]
    vote: Outcome


class Challenges:
    """Opens one validator's cases.

    Args:
        sender: the validator's. checkables: how a service is checked here, by its id. backroom: where drafts
            are judged.
    """

    def __init__(
        self,
        book: Book,
        blobs: BlobStore,
        court: CourtClient,
        escrow: EscrowClient,
        sender: Sender,
        domain: Domain,
        checkables: Callable[[bytes], Awaitable[Checkable | None]],
        backroom: Backroom,
        parameters: CheckParameters = SHIPPED,
    ) -> None:
        self._book = book
        self._blobs = blobs
        self._court = court
        self._escrow = escrow
        self._sender = sender
        self._domain = domain
        self._checkables = checkables
        self._backroom = backroom
        self._parameters = parameters
        self._lost_s: dict[Pair, int] = {}
        self._judged: dict[Pair, int] = {}

    def learn(self, case: Case) -> None:
        """Take note of a case that closed: one that didn't convict holds off the next."""
        if case.kind is CaseKind.CHEAT and case.ruling in (Ruling.ACQUITTED, Ruling.LAPSED):
            pair = (case.accused, case.topic)
            self._lost_s[pair] = max(self._lost_s.get(pair, 0), case.opened_at_s)

    async def beat(self) -> None:
        """Open what is due; raises ChainError."""
        for pair in self._book.due():
            await self._challenge(pair)

    async def _challenge(self, pair: Pair) -> None:
        provider, service_id = pair
        standing = await self._court.fetch_standing(CaseKind.CHEAT, provider, service_id)
        rows = [row for row in await self._book.verdicts_on(pair) if was_weighed(row)]
        run = self._run(pair, rows, standing.settled_until_s)
        if standing.open_cases or not run or self._judged.get(pair) == run[-1].number:
            return
        if await self._court.fetch_at_stake(provider, CaseKind.CHEAT.role) == 0:
            return
        first, since_s = rows.index(run[0]) + 1, standing.settled_until_s
        draft = self._backroom.take((pair, run[-1].number), lambda: self._draft(pair, first, run, since_s))
        if draft is None:
            return
        self._judged[pair] = run[-1].number
        if draft.vote is not Outcome.FAIL:
            _log.info("case_not_proven", provider=provider.hex(), answers=len(run), vote=draft.vote.name)
            return
        cid = await self._blobs.put(draft.blob)
        try:
            case_id = await self._court.open_case(
                self._sender, CaseKind.CHEAT, provider, service_id, cid.digest, draft.claims
            )
        except Reverted as error:
            _log.warning("case_not_opened", provider=provider.hex(), reason=error.message)
            return
        failed = sum(row.outcome == Outcome.FAIL for row in run)
        _log.info("case_opened", case=case_id, provider=provider.hex(), answers=len(run), failed=failed)

    def _run(self, pair: Pair, rows: Sequence[VerdictRow], settled_until_s: int) -> list[VerdictRow]:
        """The answers that a case would show now; none where there is nothing new to show."""
        fresh = [row for row in rows if row.created_ms // 1000 > settled_until_s]
        lost_s = self._lost_s.get(pair, 0)
        unseen = sum(row.created_ms // 1000 >= lost_s for row in fresh)
        if lost_s > settled_until_s and unseen < self._parameters.retry_answers:
            return []
        run = _unbroken(fresh, settled_until_s)
        return run if any(row.outcome == Outcome.FAIL for row in run) else []

    async def _draft(self, pair: Pair, first: int, run: Sequence[VerdictRow], since_s: int) -> Draft:
        blob = encode_case(*pair, first, [row.material or b"" for row in run])
        claims = await self._claims(run, blob)
        asked = [(claim.lane.key, claim.amount_nano) for claim in claims]
        checkable = await self._checkables(pair[1])
        vote = await judge_case(blob, *pair, asked, checkable, self._domain, self._parameters, since_s=since_s)
        return Draft(blob, tuple(claims), vote)

    async def _claims(self, run: Sequence[VerdictRow], blob: bytes) -> list[Claim]:
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


def _unbroken(rows: Sequence[VerdictRow], settled_until_s: int) -> list[VerdictRow]:
    """The longest run up to the newest verdict whose material is still kept, and of which nothing was punished yet."""
    run: list[VerdictRow] = []
    for row in reversed(rows):
        if (
            row.material is None
            or len(run) == MAX_ANSWERS
            or is_settled(decode_material(row.material), settled_until_s)
        ):
            break
        run.append(row)
    return run[::-1]
