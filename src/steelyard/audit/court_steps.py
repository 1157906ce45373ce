"""The court's side of the books: bonds, and what a slash was divided into; and what was posted on the ledger.

1. What the court says that it took is the sum of what the registry slashed beside it, in the same transaction.
2. No gateway ever gets back more than was paid on its lane; who brought a wrong up gets a tenth at most.

Law: docs/spec/audit.md, section 2.  The contract's twin: contracts/src/Sanctions.sol.
"""

from __future__ import annotations

from collections.abc import Iterable

from steelyard.audit.books import Books, CourtCase, Entry, PostedRoot
from steelyard.audit.findings import Finding, finding_at, show

_VALIDATOR = 3


def bond_posted(books: Books, entry: Entry) -> Iterable[Finding]:
    """Enter a bond; the pot of rewards counts what comes in by its transfers."""
    books.bonds[entry.contract, entry.values["matter"]] += entry.values["amount"]
    if entry.contract == "Court":
        books.owes["court"] += entry.values["amount"]
    return ()


def bond_released(books: Books, entry: Entry) -> Iterable[Finding]:
    """Take a bond, or a part of it, out again."""
    key, amount = (entry.contract, entry.values["matter"]), entry.values["amount"]
    books.bonds[key] -= amount
    books.owes[entry.contract.lower()] -= amount
    if books.bonds[key] < 0:
        message = (
            f"{entry.contract} gave {amount} nano of the bond of {show(key[1])}, which held {books.bonds[key] + amount}"
        )
        yield finding_at(entry, "bond_overdrawn", message, account=entry.values["to"])


def _punished(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    key, taken = (values["account"], values["role"]), values["taken"]
    yield from _match(books, entry, key, taken)
    if 2 * values["toHarmed"] > taken or 10 * values["toInformer"] > taken:
        message = (
            f"of {taken} nano slashed {values['toHarmed']} went to gateways, {values['toInformer']} to the informer"
        )
        yield finding_at(entry, "slash_differs", message, account=key[0])


def _fined(books: Books, entry: Entry) -> Iterable[Finding]:
    return _match(books, entry, (entry.values["validator"], _VALIDATOR), entry.values["amount"])


def _match(books: Books, entry: Entry, key: tuple[bytes, int], taken: int) -> Iterable[Finding]:
    slashed = books.slashed.pop(key, 0)
    if slashed != taken:
        message = f"{entry.name}: the court took {taken} nano from {show(key[0])}, the registry slashed {slashed}"
        yield finding_at(entry, "slash_differs", message, account=key[0])


def _compensated(books: Books, entry: Entry) -> Iterable[Finding]:
    key = entry.values["lane"]
    books.compensated[key] += entry.values["amount"]
    paid = books.lanes[key].paid if key in books.lanes else 0
    if books.compensated[key] > paid:
        message = f"lane {show(key)} got back {books.compensated[key]} nano and had paid {paid}"
        yield finding_at(entry, "overcompensated", message, lane=key, account=entry.values["gateway"])


def _secret_revealed(books: Books, entry: Entry) -> Iterable[Finding]:
    books.secrets[entry.values["validator"], entry.values["epoch"]] = entry.values["secret"]
    return ()


def _case_opened(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    books.cases[values["caseId"]] = CourtCase(values["kind"], values["accused"], values["topic"], entry.block)
    return ()


def _case_closed(books: Books, entry: Entry) -> Iterable[Finding]:
    case = books.cases[entry.values["caseId"]]
    case.closed, case.ruling = entry.block, entry.values["ruling"]
    return ()


def _posted(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    names = ("publisher", "kind", "epoch", "root", "cid")
    books.posted.append(PostedRoot(**{name: values[name] for name in names}))
    return ()


COURT_STEPS = {
    "BondPosted": bond_posted,
    "BondReleased": bond_released,
    "Punished": _punished,
    "Fined": _fined,
    "Compensated": _compensated,
    "SecretRevealed": _secret_revealed,
    "CaseOpened": _case_opened,
    "CaseClosed": _case_closed,
}
LEDGER_STEPS = {"Posted": _posted}
