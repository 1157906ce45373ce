"""The quality of every provider at every service, epoch by epoch, from what stands on the ledger and at the court.

1. Pure to the last step: whoever reads the same chain and the same blobs gets the same numbers.
2. A verdict counts in the epoch in which it was posted, once per receipt; where validators differ, a FAIL counts. Draws
   are checked against the secrets that their validators revealed; without a revealed secret they count nothing.
3. While a blob that counts is missing, the epoch can't be computed: that is told, not guessed.

Law: docs/spec/checking.md, section 8.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from steelyard.chain.cases import CaseKind, Ruling, SecretState
from steelyard.chain.court import CourtClient
from steelyard.chain.indexer import fetch_events
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import ChainError, NotProvable
from steelyard.protocol.messages import Outcome
from steelyard.protocol.quality_blob import QualityEntry
from steelyard.protocol.verdicts_blob import PublishedVerdict
from steelyard.validator.record import LedgerRecord
from steelyard.validator.stakes import ValidatorStakes
from steelyard.verification.parameters import SHIPPED, CheckParameters
from steelyard.verification.quality import Epoch, Record, next_record, quality_ppm
from steelyard.verification.selection import Standing, check_rate_ppb, is_selected
from steelyard.verification.standing import Pair, PostedVerdicts


class CaseSpan(msgspec.Struct, frozen=True):
    """A case of cheating against a provider at a service: when it was opened, when it closed (or None), and how."""

    pair: Pair
    opened_s: int
    closed_s: int | None = None
    ruling: Ruling = Ruling.NONE

    def bars(self, time_s: int) -> bool:
        """Say whether quality is 0 at a time because of it."""
        if self.opened_s >= time_s:
            return False
        return self.closed_s is None or self.closed_s >= time_s or self.ruling is Ruling.CONVICTED


class Draw(msgspec.Struct, frozen=True):
    """What decides whether a validator's verdicts of an epoch count: its revealed secret, stakes and standings."""

    secret: bytes | None
    stakes: Mapping[bytes, int]
    standings: Mapping[Pair, Standing]


def counts(validator: bytes, item: PublishedVerdict, draw: Draw, parameters: CheckParameters = SHIPPED) -> bool:
    """Say whether a verdict's validator was to check the call, as far as the ledger shows it.

    A newcomer's calls are assigned by their orders, which are not published: they count while it is a newcomer.
    """
    standing = draw.standings.get((item.provider, item.service_id), Standing())
    if item.selected_by == "probe":
        return True
    if item.selected_by == "newcomer":
        return standing.verdicts < parameters.newcomer_verdicts
    if draw.secret is None or (item.selected_by == "boost" and not standing.has_failed):
        return False
    stake, total = draw.stakes.get(validator, 0), sum(draw.stakes.values())
    rate = check_rate_ppb(stake, total, item.selected_by == "boost", parameters)
    return is_selected(draw.secret, item.verdict.receipt, rate)


def count_epoch(posted: Iterable[tuple[bytes, PublishedVerdict, Draw]], seen: set[bytes]) -> dict[Pair, Epoch]:
    """Return what an epoch's posts brought to each provider at each service.

    Args:
        posted: (validator, verdict, how it was drawn) in any order. seen: receipts that counted before; added to.
    """
    found: dict[bytes, tuple[Pair, Outcome, bool]] = {}
    for validator, item, draw in posted:
        receipt, outcome = item.verdict.receipt, Outcome(item.verdict.outcome)
        is_probe = item.selected_by == "probe"
        if receipt in seen or (outcome is Outcome.ABSTAIN and not is_probe) or not counts(validator, item, draw):
            continue
        known = found.get(receipt)
        rank = (Outcome.FAIL, Outcome.PASS, Outcome.ABSTAIN)
        if known is None or rank.index(outcome) < rank.index(known[1]):
            found[receipt] = ((item.provider, item.service_id), outcome, is_probe)
    seen.update(found)
    sums: dict[Pair, Counter[str]] = defaultdict(Counter)
    for pair, outcome, is_probe in found.values():
        if is_probe:  # nobody can tell from outside whether it was one, so its FAIL weighs no more than its PASS
            sums[pair]["probes_failed" if outcome is Outcome.FAIL else "probes_answered"] += 1
        else:
            sums[pair]["passes" if outcome is Outcome.PASS else "fails"] += 1
    return {pair: Epoch(**counted) for pair, counted in sums.items()}


class NetworkQuality:
    """Computes the quality after each epoch.

    Args:
        stakes: of validators. record: the verdicts on the ledger. from_block: of the deployment.
    """

    def __init__(
        self,
        rpc: ChainRpc,
        court: CourtClient,
        stakes: ValidatorStakes,
        record: LedgerRecord,
        from_block: int,
    ) -> None:
        self._rpc = rpc
        self._court = court
        self._stakes = stakes
        self._record = record
        self._next_block = from_block
        self._cases: dict[int, CaseSpan] = {}
        self._folded = -1
        self._used = 0
        self._records: dict[Pair, Record] = {}
        self._seen: set[bytes] = set()

    async def compute(self, epoch: int) -> dict[Pair, Record]:
        """Return the records after an epoch that is over.

        Raises:
            NotProvable: a blob that counts is missing; names it. ChainError.
        """
        await self._record.refresh()
        if self._record.missing:
            publisher, of_epoch, _, cid = self._record.missing[0]
            raise NotProvable(
                f"the verdicts of 0x{publisher.hex()} on epoch {of_epoch} are missing: blob 0x{cid.hex()}"
            )
        await self._follow_court()
        posted = sorted(self._record.posted, key=lambda one: (one.posted_at_s, one.blob.validator, one.blob.epoch))
        by_epoch: dict[int, list[PostedVerdicts]] = defaultdict(list)
        for one in posted:
            by_epoch[one.posted_at_s // self._court.epoch_s].append(one)
        known = sum(len(posts) for at, posts in by_epoch.items() if at <= self._folded)
        if epoch < self._folded or known != self._used:  # an older epoch, or a blob that came late: from the beginning
            self._folded, self._used, self._records, self._seen = -1, 0, {}, set()
        first = min(by_epoch, default=epoch)
        for at in range(max(self._folded + 1, first), epoch + 1):
            await self._fold(at, by_epoch.get(at, []))
        self._folded = epoch
        return dict(sorted(self._records.items()))

    async def _fold(self, epoch: int, posts: list[PostedVerdicts]) -> None:
        items = []
        for post in posts:
            draw = await self._draw(post.blob.validator, post.blob.epoch)
            items += [(post.blob.validator, item, draw) for item in post.blob.verdicts]
        brought = count_epoch(items, self._seen)
        end_s = (epoch + 1) * self._court.epoch_s
        barred = {case.pair for case in self._cases.values() if case.bars(end_s)}
        for pair in {*self._records, *brought, *barred}:
            before = self._records.get(pair, Record())
            self._records[pair] = next_record(before, brought.get(pair, Epoch()), is_barred=pair in barred)
        self._folded, self._used = epoch, self._used + len(posts)

    async def _draw(self, validator: bytes, epoch: int) -> Draw:
        [known] = await self._court.fetch_secrets([validator], epoch)
        secret = known.value if known.state is SecretState.REVEALED else None
        return Draw(secret, await self._stakes.at_start(epoch), self._record.standings(epoch))

    async def _follow_court(self) -> None:
        head = await self._rpc.block_number()
        async for logs in fetch_events(self._rpc, [self._court.contract.address], self._next_block, head):
            for event in self._court.decode_events(logs):
                if event.name not in ("CaseOpened", "CaseClosed"):
                    continue
                block = await self._rpc.block(event.log.block_number)
                if block is None:
                    raise ChainError(f"the endpoint lost block {event.log.block_number}", code="block_unknown")
                number, values = event.values["caseId"], event.values
                if event.name == "CaseOpened" and values["kind"] == CaseKind.CHEAT:
                    self._cases[number] = CaseSpan((values["accused"], values["topic"]), block.timestamp_s)
                elif event.name == "CaseClosed" and number in self._cases:
                    closed = {"closed_s": block.timestamp_s, "ruling": Ruling(values["ruling"])}
                    self._cases[number] = msgspec.structs.replace(self._cases[number], **closed)
        self._next_block = head + 1


def quality_entries(records: Mapping[Pair, Record]) -> list[QualityEntry]:
    """Return records as they are published, in ascending order."""
    return [
        QualityEntry(
            provider="0x" + provider.hex(),
            service_id="0x" + service_id.hex(),
            passes_ppm=record.passes_ppm,
            fails_ppm=record.fails_ppm,
            is_barred=record.is_barred,
            quality_ppm=quality_ppm(record),
        )
        for (provider, service_id), record in sorted(records.items())
    ]
