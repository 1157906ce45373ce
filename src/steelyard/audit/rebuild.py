"""Rebuild every balance from events: events in, books out, and a finding for whatever can't be.

event                       what it does to the books                             a finding when
--------------------------  ----------------------------------------------------  --------------------------------
Yard Transfer               moves a wallet; from or to zero mints or burns        the sender never held it
Staked                      stake +                                               -
UnbondStarted / Finished    stake → unbonding → out                               more than there was
Slashed, Drawn              unbonding first, then stake                           more than there was
Deposited / Withdrawn       deposit + / -                                         owing, unannounced, more than held
StakeDrawn, LaneRedeemed    deposit and stake → payees by the service's split     total fell, paid beyond due or funds
Swept                       unswept balance → out                                 other than what was credited
BondPosted / BondReleased   bonds + / -                                           more than was posted
Punished, Fined             -                                                     other than what was slashed
Claimed, RestBurned         pot -                                                 beyond a final root, or a tenth

1. No clock, socket or file is touched; `step` changes the books that it is given and returns what it found.
2. After each transaction every vault must hold what its own events say it owes; more is what strangers sent it. The pot
   of rewards takes whatever is sent to it for income.

Law: docs/spec/audit.md, section 2.  Twins in contracts/src/: Escrow.sol, Stakes.sol, Sanctions.sol, Rewards.sol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from steelyard.audit.books import ROLES, Books, Contracts, Entry
from steelyard.audit.court_steps import COURT_STEPS, LEDGER_STEPS
from steelyard.audit.escrow_steps import ESCROW_STEPS
from steelyard.audit.findings import Finding, finding_at, show
from steelyard.audit.registry_steps import REGISTRY_STEPS
from steelyard.audit.rewards_steps import REWARDS_STEPS
from steelyard.protocol.pricing import format_yard

NO_ACCOUNT = b"\x00" * 20

Step = Callable[[Books, Entry], Iterable[Finding]]


def rebuild(contracts: Contracts, entries: Iterable[Entry]) -> tuple[Books, list[Finding]]:
    """Return the books after a whole history, and everything in it that can't be.

    Args:
        entries: in chain order, from the deployment on; decoded, otherwise untrusted.
    """
    books = Books(contracts)
    findings: list[Finding] = []
    for entry in entries:
        findings += step(books, entry)
    findings += close_transaction(books)
    return books, findings


def step(books: Books, entry: Entry) -> list[Finding]:
    """Enter one event in the books and return what is wrong with it; events that move nothing pass."""
    findings = close_transaction(books) if entry.tx != books.tx else []
    books.tx = entry.tx
    handler = _STEPS.get((entry.contract, entry.name))
    if handler is not None:
        try:
            findings += handler(books, entry)
        except (KeyError, TypeError, ValueError) as error:
            findings.append(
                finding_at(entry, "malformed_event", f"{entry.contract}.{entry.name} is malformed: {error}")
            )
    return findings


def close_transaction(books: Books) -> list[Finding]:
    """Compare every vault's tokens with what it owes, once the transaction that `step` last saw is over."""
    findings = []
    for vault, address in books.vaults.items():
        owes, stray = books.owes[vault], books.stray[vault]
        excess = books.wallets[address] - owes
        if excess < stray:
            message = f"the {vault} is short of {format_yard(stray - excess)} YARD: it holds {books.wallets[address]}"
            message += f" nano and owes {owes + stray}"
            findings.append(Finding(code="vault_short", message=message, account=address, tx=books.tx))
        books.stray[vault] = excess
    for gateway, amount in books.stake_drawn.items():
        if amount:
            message = f"the registry drew {amount} nano more than the escrow credited"
            findings.append(Finding(code="draw_differs", message=message, account=gateway, tx=books.tx))
    for (account, role), amount in books.slashed.items():
        if amount:
            message = f"{amount} nano were slashed from {show(account)} as {ROLES.get(role, role)}, not by the court"
            findings.append(
                Finding(code="foreign_slash", message=message, severity="note", account=account, tx=books.tx)
            )
    books.slashed.clear()
    books.stake_drawn.clear()
    books.lane_drawn.clear()
    return findings


def _transfer(books: Books, entry: Entry) -> Iterable[Finding]:
    sender, to, value = entry.values["from"], entry.values["to"], entry.values["value"]
    if sender == NO_ACCOUNT:
        books.minted += value
    else:
        books.wallets[sender] -= value
        if books.wallets[sender] < 0:
            message = f"{show(sender)} sent {value} nano and held {books.wallets[sender] + value}"
            yield finding_at(entry, "negative_wallet", message, account=sender)
    if to == NO_ACCOUNT:
        books.burned += value
    else:
        books.wallets[to] += value
    if to == books.contracts.rewards:
        books.owes["rewards"] += value


_STEPS: dict[tuple[str, str], Step] = {
    ("Yard", "Transfer"): _transfer,
    **{("Registry", name): handler for name, handler in REGISTRY_STEPS.items()},
    **{("Escrow", name): handler for name, handler in ESCROW_STEPS.items()},
    **{("Court", name): handler for name, handler in COURT_STEPS.items()},
    **{("Rewards", name): handler for name, handler in REWARDS_STEPS.items()},
    **{("Ledger", name): handler for name, handler in LEDGER_STEPS.items()},
}
