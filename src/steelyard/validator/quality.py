"""The quality of every provider at every service, epoch by epoch, from what stands on the ledger and at the court.

1. What is read is folded by verification/published.py: whoever reads the same chain and blobs gets the same numbers.
2. While a blob that counts is missing, the epoch can't be computed: that is told, not guessed.

Law: docs/spec/checking.md, section 8.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from steelyard.chain.cases import CaseKind, Ruling, SecretState
from steelyard.chain.court import CourtClient
from steelyard.chain.indexer import fetch_events
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import ChainError, NotProvable
from steelyard.validator.record import LedgerRecord
from steelyard.validator.stakes import ValidatorStakes
from steelyard.verification.published import CaseSpan, Draw, PublishedQuality
from steelyard.verification.quality import Record
from steelyard.verification.standing import Pair, PostedVerdicts


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
        self._published = PublishedQuality()

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
            self._folded, self._used, self._published = -1, 0, PublishedQuality()
        first = min(by_epoch, default=epoch)
        for at in range(max(self._folded + 1, first), epoch + 1):
            await self._fold(at, by_epoch.get(at, []))
        self._folded = epoch
        return dict(sorted(self._published.records.items()))

    async def _fold(self, epoch: int, posts: list[PostedVerdicts]) -> None:
        items = []
        for post in posts:
            draw = await self._draw(post.blob.validator, post.blob.epoch)
            items += [(post.blob.validator, item, draw) for item in post.blob.verdicts]
        self._published.fold((epoch + 1) * self._court.epoch_s, items, self._cases.values())
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
                    closed = {"closed_s": block.timestamp_s, "is_upheld": values["ruling"] == Ruling.CONVICTED}
                    self._cases[number] = msgspec.structs.replace(self._cases[number], **closed)
        self._next_block = head + 1
