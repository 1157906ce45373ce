"""Did validators check what they had to? Every selection recomputed from revealed secrets, over the calls in the blobs.

1. A revealed secret, the stakes and the standings of its epoch say which redeemed calls its validator had to check; its
   blob of verdicts says which it did. A call that it could not see has a verdict too: ABSTAIN.
2. Verdicts on calls that were not drawn are told, unless they are of probes, which a validator chooses itself: how many
   probes it claims is shown. Calls that are not redeemed yet are not known here.
3. A lane that is not proven, or a blob of verdicts that is missing, makes the answer "not provable".
4. None of this says anything about money: it changes no audit's verdict.
5. Nothing here reads a clock, a socket or a file.

Law: docs/spec/audit.md, section 4; docs/spec/checking.md, section 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from steelyard.audit.calls import LaneProof
from steelyard.audit.findings import Finding, show
from steelyard.protocol.messages import Receipt
from steelyard.protocol.verdicts_blob import PublishedVerdict
from steelyard.verification.parameters import SHIPPED, CheckParameters
from steelyard.verification.selection import Standing, is_long, select_calls
from steelyard.verification.standing import PostedVerdicts, standings_at

PROBE = "probe"
State = Literal["kept", "broken", "not due", "not provable"]
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionFacts:
    """What selections are recomputed from.

    Attributes:
        secrets: revealed ones, by (validator, epoch). stakes: validators' nano when an epoch began, by epoch.
        posted: what active validators posted, for the standings. verdicts: what each posted, by (validator, epoch).
        unread: (validator, epoch) → sha256 digest of a blob of verdicts that could not be read.
        epoch_s: how long an epoch is. now_s: the pinned block's Unix time.
    """

    secrets: Mapping[tuple[bytes, int], bytes]
    stakes: Mapping[int, Mapping[bytes, int]]
    posted: Sequence[PostedVerdicts]
    verdicts: Mapping[tuple[bytes, int], Sequence[PublishedVerdict]]
    unread: Mapping[tuple[bytes, int], bytes]
    epoch_s: int
    now_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRow:
    """One validator's epoch: how many redeemed calls it had to check, and where verdicts and selection part.

    Attributes:
        unchecked: selected calls without a verdict. unselected: calls with one that were not drawn; receipts' ids both.
        probes: verdicts that it says are of its own purchases. unknown: verdicts on calls that no proven lane has.
        cid: sha256 digest of the missing blob, or zero bytes.
    """

    validator: bytes
    epoch: int
    state: State
    selected: int = 0
    unchecked: tuple[bytes, ...] = ()
    unselected: tuple[bytes, ...] = ()
    probes: int = 0
    unknown: int = 0
    cid: bytes = b""


@dataclass(slots=True)
class _Run:
    """Calls of one lane and epoch that stand side by side."""

    pair: tuple[bytes, bytes]
    receipts: list[Receipt]
    calls_before: int
    long_before: int


@dataclass(slots=True)
class _Epoch:
    runs: list[_Run] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)


def check_selections(
    lanes: Iterable[LaneProof], facts: SelectionFacts, parameters: CheckParameters = SHIPPED
) -> list[SelectionRow]:
    """Return a row for each validator and epoch with a revealed secret or with verdicts, in their order."""
    proofs = list(lanes)
    is_proven = all(proof.is_proven for proof in proofs)
    epochs = _by_epoch(proofs, facts.epoch_s, parameters)
    current = facts.now_s // facts.epoch_s
    rows = []
    for key in sorted({*facts.secrets, *facts.verdicts, *facts.unread}, key=lambda key: (key[1], key[0])):
        validator, epoch = key
        if key in facts.unread:
            row = SelectionRow(validator=validator, epoch=epoch, state="not provable", cid=facts.unread[key])
        elif key not in facts.verdicts and epoch + 1 >= current:
            row = SelectionRow(validator=validator, epoch=epoch, state="not due")
        elif key not in facts.secrets or facts.unread or not is_proven:
            row = SelectionRow(validator=validator, epoch=epoch, state="not provable")
        else:
            row = _check(key, epochs.get(epoch, _Epoch()), facts, parameters)
        rows.append(row)
    return rows


def selection_findings(rows: Iterable[SelectionRow]) -> Iterator[Finding]:
    """Return a note for each row that is not as it should be."""
    for row in rows:
        whose = f"validator {show(row.validator)}, epoch {row.epoch}"
        if row.cid:
            message = f"{whose}: the blob of its verdicts is not here"
            yield _note("missing_verdicts", message, row.validator, (row.cid,))
        if row.unchecked:
            message = f"{whose}: {len(row.unchecked)} of {row.selected} selected calls have no verdict: "
            yield _note("unchecked_calls", message + _some(row.unchecked), row.validator)
        if row.unselected:
            message = f"{whose}: {len(row.unselected)} verdicts on calls that its secret did not select: "
            yield _note("unselected_verdicts", message + _some(row.unselected), row.validator)


def _check(key: tuple[bytes, int], calls: _Epoch, facts: SelectionFacts, parameters: CheckParameters) -> SelectionRow:
    validator, epoch = key
    standings = standings_at(facts.posted, epoch, facts.epoch_s)
    selected: set[bytes] = set()
    for run in calls.runs:
        found = select_calls(
            facts.secrets[key],
            validator,
            run.receipts,
            standings.get(run.pair, Standing()),
            facts.stakes.get(epoch, {}),
            calls_before=run.calls_before,
            long_calls_before=run.long_before,
            parameters=parameters,
        )
        selected.update(one.receipt for one in found)
    judged: dict[bytes, str] = {v.verdict.receipt: v.selected_by for v in facts.verdicts.get(key, ())}
    unchecked = selected - judged.keys()
    drawn = {receipt for receipt, selected_by in judged.items() if selected_by != PROBE}
    unselected = (drawn & calls.known) - selected
    return SelectionRow(
        validator=validator,
        epoch=epoch,
        state="broken" if unchecked or unselected else "kept",
        selected=len(selected),
        unchecked=tuple(sorted(unchecked)),
        unselected=tuple(sorted(unselected)),
        probes=len(judged) - len(drawn),
        unknown=len(drawn - calls.known),
    )


def _by_epoch(proofs: Iterable[LaneProof], epoch_s: int, parameters: CheckParameters) -> dict[int, _Epoch]:
    """Return each epoch's calls in the runs in which their lanes have them, as a validator reads them."""
    epochs: defaultdict[int, _Epoch] = defaultdict(_Epoch)
    for proof in proofs:
        pair = (proof.lane.provider, proof.lane.service_id)
        calls: defaultdict[int, int] = defaultdict(int)
        long_calls = 0
        for epoch, grouped in groupby(proof.receipts, lambda receipt: receipt.finished_ms // (1000 * epoch_s)):
            receipts = list(grouped)
            epochs[epoch].runs.append(_Run(pair, receipts, calls[epoch], long_calls))
            epochs[epoch].known.update(receipt.struct_hash() for receipt in receipts)
            calls[epoch] += len(receipts)
            long_calls += sum(is_long(receipt, parameters) for receipt in receipts)
    return epochs


def _note(code: str, message: str, account: bytes, cids: tuple[bytes, ...] = ()) -> Finding:
    return Finding(code=code, message=message, severity="note", account=account, cids=cids)


def _some(receipts: Sequence[bytes]) -> str:
    more = len(receipts) - _SHOWN
    return ", ".join(show(receipt) for receipt in receipts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
