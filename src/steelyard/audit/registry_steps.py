"""The registry's side of the books: stakes, services and offers.

1. What is taken from an account is taken from its unbonding part first, as contracts/src/Stakes.sol does.
2. A service is registered once and never changes; a withdrawn offer is not one that an order can name.

Law: docs/spec/audit.md, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable

from steelyard.audit.books import Books, Entry, PostedOffer, ServiceBooks
from steelyard.audit.findings import Finding, finding_at, show
from steelyard.protocol.pricing import split_payment

NO_MANIFEST = b"\x00" * 32
_ROLE_GATEWAY = 2


def _staked(books: Books, entry: Entry) -> Iterable[Finding]:
    amount = entry.values["amount"]
    books.stakes[entry.values["account"], entry.values["role"]] += amount
    books.owes["registry"] += amount
    return ()


def _unbond_started(books: Books, entry: Entry) -> Iterable[Finding]:
    key, amount = (entry.values["account"], entry.values["role"]), entry.values["amount"]
    books.stakes[key] -= amount
    books.unbonding[key] += amount
    if books.stakes[key] < 0:
        yield _overdrawn(entry, key[0], "stake", books.stakes[key] + amount, amount)


def _unbond_finished(books: Books, entry: Entry) -> Iterable[Finding]:
    key, amount = (entry.values["account"], entry.values["role"]), entry.values["amount"]
    books.unbonding[key] -= amount
    books.owes["registry"] -= amount
    if books.unbonding[key]:
        yield _overdrawn(entry, key[0], "unbonding", books.unbonding[key] + amount, amount)


def _slashed(books: Books, entry: Entry) -> Iterable[Finding]:
    books.slashed[entry.values["account"], entry.values["role"]] += entry.values["amount"]
    return _take(books, entry, entry.values["account"], entry.values["role"])


def _drawn(books: Books, entry: Entry) -> Iterable[Finding]:
    gateway = entry.values["gateway"]
    if entry.values["drawer"] == books.contracts.escrow:
        books.stake_drawn[gateway] += entry.values["amount"]
    return _take(books, entry, gateway, _ROLE_GATEWAY)


def _take(books: Books, entry: Entry, account: bytes, role: int) -> Iterable[Finding]:
    key, amount = (account, role), entry.values["amount"]
    from_unbonding = min(amount, books.unbonding[key])
    books.unbonding[key] -= from_unbonding
    books.stakes[key] -= amount - from_unbonding
    books.owes["registry"] -= amount
    if books.stakes[key] < 0:
        yield _overdrawn(entry, account, "stake", books.stakes[key] + amount, amount)


def _service_registered(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    split = tuple(values["splitBps"])
    split_payment(0, split)  # raises ValueError for a split that isn't one
    books.services[values["serviceId"]] = ServiceBooks(
        name=values["name"], kind=values["kind"], builder=values["builder"], data_pot=values["dataPot"], split=split
    )
    return ()


def _offer_set(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    if values["manifest"] != NO_MANIFEST:
        books.offers[values["provider"], values["serviceId"]].append(
            PostedOffer(
                price_in=values["priceIn"], price_out=values["priceOut"], grade=values["grade"], block=entry.block
            )
        )
    return ()


def _overdrawn(entry: Entry, account: bytes, what: str, held: int, taken: int) -> Finding:
    message = f"{entry.name} took {taken} nano from {show(account)}, whose {what} held {held}"
    return finding_at(entry, "stake_overdrawn", message, account=account)


REGISTRY_STEPS = {
    "Staked": _staked,
    "UnbondStarted": _unbond_started,
    "UnbondFinished": _unbond_finished,
    "Slashed": _slashed,
    "Drawn": _drawn,
    "ServiceRegistered": _service_registered,
    "OfferSet": _offer_set,
}
