"""The pot of rewards in the books: what came in, roots, purses, claims and what is burned.

1. At most nine tenths of what came in by an epoch's end are promised for it, at most a tenth is burned.
2. A claim is paid by a final root, from what that root added to the one before.

Law: docs/spec/audit.md, section 2.  The contract's twin: contracts/src/Rewards.sol.
"""

from __future__ import annotations

from collections.abc import Iterable

from steelyard.audit.books import Books, Entry
from steelyard.audit.court_steps import bond_posted, bond_released
from steelyard.audit.findings import Finding, finding_at, show

FINAL = 2
_WHOLE_BPS, _REWARD_BPS = 10_000, 9_000


def _collected(books: Books, entry: Entry) -> Iterable[Finding]:
    epoch, received = entry.values["epoch"], entry.values["received"]
    known = _received(books)
    if received != known:
        message = f"the pot says that {received} nano came in, its transfers add up to {known}"
        yield finding_at(entry, "pot_differs", message, account=books.contracts.rewards)
    books.pot.readings.append((epoch, received))


def _proposed(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    number, total, base = values["id"], values["total"], values["base"]
    books.pot.totals[number], books.pot.bases[number] = total, base
    came_in = next((received for epoch, received in books.pot.readings if epoch > values["epoch"]), 0)
    if total * _WHOLE_BPS > came_in * _REWARD_BPS:
        message = f"root {number} promises {total} nano for epoch {values['epoch']}, by whose end {came_in} had come in"
        yield finding_at(entry, "above_cap", message, account=values["proposer"])
    if base != books.pot.last_final or total < books.pot.totals.get(base, 0):
        message = f"root {number} stands on root {base}, or promises less than it; the last final one is "
        yield finding_at(entry, "wrong_root_order", f"{message}{books.pot.last_final}", account=values["proposer"])


def _settled(books: Books, entry: Entry) -> Iterable[Finding]:
    number, pot = entry.values["id"], books.pot
    if entry.values["state"] != FINAL:
        return
    base = pot.bases[number]
    if base != pot.last_final:
        message = f"root {number} became final on root {base}; the last final one is {pot.last_final}"
        yield finding_at(entry, "wrong_root_order", message)
    pot.purses[number] = pot.totals[number] - pot.totals.get(base, 0)
    pot.last_final = number


def _claimed(books: Books, entry: Entry) -> Iterable[Finding]:
    values, pot = entry.values, books.pot
    number, account, amount = values["id"], values["account"], values["amount"]
    purse = pot.purses.get(number, 0)
    pot.claimed[account] += amount
    if amount > purse or pot.claimed[account] != values["cumulative"]:
        message = f"{show(account)} was paid {amount} nano by root {number}, whose purse held {purse}, and has "
        message += f"{pot.claimed[account]} of {values['cumulative']}"
        yield finding_at(entry, "reward_overdrawn", message, account=account)
    pot.purses[number] = purse - amount
    pot.paid += amount
    books.owes["rewards"] -= amount


def _rolled(books: Books, entry: Entry) -> Iterable[Finding]:
    number, to, amount = entry.values["id"], entry.values["to"], entry.values["amount"]
    purses = books.pot.purses
    if amount != purses.get(number) or to != books.pot.last_final:
        message = (
            f"{amount} nano went from the purse of root {number}, which held {purses.get(number, 0)}, to root {to}"
        )
        yield finding_at(entry, "reward_overdrawn", message)
    purses[number] = purses.get(number, 0) - amount
    purses[to] = purses.get(to, 0) + amount


def _rest_burned(books: Books, entry: Entry) -> Iterable[Finding]:
    amount, pot = entry.values["amount"], books.pot
    came_in = _received(books)
    pot.burned += amount
    books.owes["rewards"] -= amount
    if pot.burned * _WHOLE_BPS > came_in * (_WHOLE_BPS - _REWARD_BPS):
        message = f"{pot.burned} nano of the pot were burned, {came_in} had come in"
        yield finding_at(entry, "above_cap", message, account=books.contracts.rewards)


def _received(books: Books) -> int:
    return books.owes["rewards"] - books.bonds_of("Rewards") + books.pot.paid + books.pot.burned


REWARDS_STEPS = {
    "BondPosted": bond_posted,
    "BondReleased": bond_released,
    "Collected": _collected,
    "Proposed": _proposed,
    "Settled": _settled,
    "Claimed": _claimed,
    "Rolled": _rolled,
    "RestBurned": _rest_burned,
}
