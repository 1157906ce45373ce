"""A validator's book: verdicts in the order in which they were reached, and what they add up to per provider.

1. A verdict is signed when it is reached, and kept with the place in the feed that it came from, in one transaction.
2. Each answer that was weighed moves the suspicion of its (provider, service), whatever it says: leaving out what
   looks good, or bad, would spoil the odds.
3. A breach of a rule, or another result of an exact kind, has no chance under honesty at all; it counts as a fixed,
   large e-value, so that even it takes two gateways to open a challenge.

Law: docs/spec/validator.md, section 5; docs/spec/checking.md, section 6.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Outcome, Verdict
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.storage.database import Database
from steelyard.storage.verdicts import (
    VerdictRow,
    forget_material,
    known_receipts,
    last_number,
    load_feed,
    load_suspicions,
    load_verdicts,
    load_verdicts_on,
    save_read,
    save_waited,
)
from steelyard.storage.waiting import WaitingRow
from steelyard.validator.case_file import Material, encode_material
from steelyard.validator.checker import Checked, micro_nats
from steelyard.validator.feed import FeedState, SeenCall
from steelyard.validator.gateway_client import ShownCall
from steelyard.verification.betting import BETS
from steelyard.verification.eprocess import (
    Suspicion,
    add_answer,
    decode_suspicion,
    encode_suspicion,
    is_challenge_due,
)
from steelyard.verification.standing import Pair

BREACH_LOG_E = math.log(1e12)
"""What a breach counts for: enough at any of the first thousand answers, by the weights of the starts."""

TOO_FEW_TOKENS = "too_few_tokens"
SILENT = "silent"
"""Evidence demanded on chain and not served: the chain has proven and slashed it, a panel could replay nothing."""

DAY_MS = 86_400_000
FORGET_EVERY_MS = 3_600_000

Finding = tuple[SeenCall, str, Checked, bytes | None]
"""A call, why it was selected, what its check came to, and what a challenge would show."""


class Book:
    """Everything that one validator found; `open_book` reads it back.

    Args:
        now_ms: Unix milliseconds.
    """

    def __init__(
        self,
        database: Database,
        key: SigningKey,
        domain: Domain,
        number: int,
        suspicions: dict[Pair, Suspicion],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._key = key
        self._domain = domain
        self._number = number
        self._now_ms = now_ms
        self._turn = asyncio.Lock()  # feeds of two gateways move one suspicion: neither may lose the other's
        self.suspicions = suspicions
        self._forget_ms = 0

    async def load_place(self, gateway: bytes) -> FeedState:
        """Return how far a gateway's feed was read."""
        state = await load_feed(self._database, gateway)
        return FeedState() if state is None else msgspec.msgpack.decode(state, type=FeedState)

    async def unjudged(self, calls: list[SeenCall]) -> list[SeenCall]:
        """Return the calls on which there is no verdict yet."""
        known = await known_receipts(self._database, [call.receipt_hash for call in calls])
        return [call for call in calls if call.receipt_hash not in known]

    async def record(
        self,
        gateway: bytes,
        place: FeedState,
        found: Sequence[Finding],
        waiting: Sequence[WaitingRow] = (),
    ) -> list[VerdictRow]:
        """Sign and keep verdicts with the place in the feed after them.

        Args:
            found: for each call why it was selected, what the check came to, and what a challenge would show
                (None: nothing).
            waiting: checks that wait for evidence (`demands`).
        """
        async with self._turn:
            rows, touched = self._weigh(found)
            await save_read(
                self._database, gateway, msgspec.msgpack.encode(place), rows, _states(touched), waiting=waiting
            )
            self.suspicions |= touched
        return rows

    async def settle(self, call: SeenCall, selected_by: str, checked: Checked, material: bytes | None) -> VerdictRow:
        """Sign and keep the verdict on a call whose check waited for evidence."""
        async with self._turn:
            [row], touched = self._weigh([(call, selected_by, checked, material)])
            await save_waited(self._database, row, _states(touched))
            self.suspicions |= touched
        return row

    def _weigh(self, found: Sequence[Finding]) -> tuple[list[VerdictRow], dict[Pair, Suspicion]]:
        rows: list[VerdictRow] = []
        touched: dict[Pair, Suspicion] = {}
        for call, selected_by, checked, material in found:
            pair = (call.order.provider, call.order.service_id)
            self._number += 1
            rows.append(self._row(call, selected_by, checked, material))
            bets = bets_of(checked)
            if bets is not None:
                before = touched.get(pair) or self.suspicions.get(pair) or Suspicion()
                touched[pair] = add_answer(before, call.gateway, bets)
        return rows, touched

    def due(self) -> list[Pair]:
        """Return those whose evidence is enough for a challenge."""
        return [pair for pair, suspicion in self.suspicions.items() if is_challenge_due(suspicion)]

    async def verdicts(self, epoch: int) -> list[VerdictRow]:
        """Return an epoch's verdicts in their order."""
        return await load_verdicts(self._database, epoch=epoch)

    async def fails_on(self, receipts: Sequence[bytes]) -> list[VerdictRow]:
        """Return the FAILs among the verdicts on some receipts."""
        found = await load_verdicts_on(self._database, receipts)
        return [row for row in found if row.outcome == Outcome.FAIL]

    async def verdicts_on(self, pair: Pair) -> list[VerdictRow]:
        """Return all verdicts on a provider at a service, in their order."""
        return await load_verdicts(self._database, pair=pair)

    async def forget(self, keep_days: int) -> None:
        """Drop what challenges would show of verdicts older than that, once an hour; the verdicts themselves stay."""
        now_ms = self._now_ms()
        if now_ms >= self._forget_ms:
            self._forget_ms = now_ms + FORGET_EVERY_MS
            await forget_material(self._database, now_ms - keep_days * DAY_MS)

    def _row(self, call: SeenCall, selected_by: str, checked: Checked, material: bytes | None) -> VerdictRow:
        evidence_hash = call.receipt.evidence_hash if checked.claimed else ZERO32
        outcome = checked.judgement.outcome
        verdict = Verdict(self._key.account, call.receipt_hash, int(outcome), evidence_hash, call.epoch)
        return VerdictRow(
            self._number,
            call.receipt_hash,
            call.epoch,
            call.order.provider,
            call.order.service_id,
            call.gateway,
            int(outcome),
            checked.judgement.reason,
            selected_by,
            micro_nats(log_e_of(checked)),
            0 if checked.evidence is None else checked.evidence.scored,
            evidence_hash,
            self._key.sign(self._domain.digest(verdict.struct_hash())),
            material,
            self._now_ms(),
        )


async def open_book(database: Database, key: SigningKey, domain: Domain, now_ms: Callable[[], int]) -> Book:
    """Return the book as the last life of this process left it."""
    suspicions = {pair: decode_suspicion(state) for pair, state in (await load_suspicions(database)).items()}
    return Book(database, key, domain, await last_number(database), suspicions, now_ms)


def _states(touched: Mapping[Pair, Suspicion]) -> list[tuple[bytes, bytes, bytes]]:
    return [(*pair, encode_suspicion(suspicion)) for pair, suspicion in touched.items()]


def bets_of(checked: Checked) -> tuple[float, ...] | None:
    """Return the bets with which a check moves a suspicion, or None where nothing was weighed.

    Answers too short for a verdict of their own are weighed all the same: many of them are long.
    """
    if checked.evidence is not None:
        return checked.evidence.log_bets
    if checked.judgement.outcome is Outcome.ABSTAIN or checked.judgement.reason == SILENT:
        return None
    return (BREACH_LOG_E if checked.judgement.outcome is Outcome.FAIL else 0.0,) * BETS


def material_of(call: SeenCall, shown: ShownCall | None, checked: Checked) -> bytes | None:
    """Return what a challenge would show of a call, or None where nothing of it was weighed."""
    if shown is None or bets_of(checked) is None:
        return None
    return encode_material(Material(call.order, call.receipt, call.signed, call.receipts, shown, checked.claimed))


def was_weighed(row: VerdictRow) -> bool:
    """Say whether a verdict's answer moved the suspicion, and so belongs into a case's run."""
    return (row.outcome != Outcome.ABSTAIN and row.reason != SILENT) or row.reason == TOO_FEW_TOKENS


def log_e_of(checked: Checked) -> float:
    """Return the natural logarithm of what a verdict counts for by itself."""
    if checked.evidence is not None:
        return checked.evidence.log_e
    bets = bets_of(checked)
    return 0.0 if bets is None else bets[0]
