"""What an audit finds: contradictions, things missing, and remarks.

1. A code is stable, one word for one law broken; docs/spec/audit.md lists every one.
2. A contradiction says that money or calls don't add up. Something missing says only that this can't be shown.

Law: docs/spec/audit.md, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from steelyard.audit.books import Entry

Severity = Literal["contradiction", "missing", "note"]
Verdict = Literal["yes", "no", "not provable"]

CODES: dict[str, str] = {
    # the token and the contracts' own books
    "negative_wallet": "an account sent more YARD than it ever held",
    "vault_short": "a contract holds less YARD than its events say it owes",
    "supply_differs": "the token's total supply is not minted minus burned",
    "view_differs": "a contract's own answer is not what its events add up to",
    "stake_overdrawn": "more stake was taken than was there",
    "draw_differs": "the registry and the escrow disagree on what was drawn from a stake",
    # the court and the pot of rewards
    "bond_overdrawn": "more of a bond was given back or burned than was posted",
    "slash_differs": "the court says that it took, or gave on, something else than was slashed",
    "overcompensated": "a gateway got back more than it paid on a lane",
    "foreign_slash": "stake was slashed by another than the court: a note, it is in nobody's balance",
    "above_cap": "a root promises more, or more was burned, than its share of what came into the pot",
    "wrong_root_order": "a root became final that doesn't stand on the one before",
    "reward_overdrawn": "a claim was paid without a final root, or beyond its purse",
    "pot_differs": "the pot says that something else came in than the token's events",
    # deposits and redemptions
    "deposit_overdrawn": "a deposit paid out more than it held",
    "withdrawal_early": "a withdrawal while vouchers were owed, or of more than was announced",
    "doubled_payout": "a lane or an account was paid more than it is due",
    "wrong_payment": "a redemption paid something else than the due or the whole deposit and stake",
    "lowered_total": "a lane's total fell",
    "unknown_lane": "a redemption on a lane that was never opened, or under a key that isn't its fields'",
    "unknown_service": "a redemption for a service that was never registered",
    "skewed_split": "a payee's balance is not its share of what was paid",
    "malformed_event": "an event that its contract can't have emitted",
    # lanes and calls
    "missing_blob": "no readable blob holds a batch between a redeemed head and the lane's beginning",
    "altered_leaf": "the published receipts don't give the batch's root",
    "forged_signature": "a batch is not signed by its lane's provider",
    "wrong_lane": "a batch or an order belongs to another lane",
    "broken_chain": "batches that don't follow each other down to the lane's beginning",
    "wrong_total": "a batch's total or count is not what its receipts add up to",
    "wrong_voucher": "a redeemed total or count is not what stands under its head",
    "swapped_order": "a receipt is for another order than the one published with it",
    "wrong_price": "an order's price or grade is none that the provider had offered",
    "wrong_cost": "a receipt's cost is not its units at its order's prices, or is above the order's limit",
    "repeated_order": "one order was billed twice",
    "repeated_call": "a gateway gave one call id to two orders of one provider: a note, both were paid",
    # what validators had to check
    "missing_verdicts": "a blob of verdicts is not to be had: what its validator checked can't be shown; a note",
    "unchecked_calls": "a validator's secret selected calls that it published no verdict on; a note",
    "unselected_verdicts": "a validator published verdicts on calls that its secret did not select; a note",
    "wrong_quality": "a validator published another quality than everyone computes; a note",
    "bad_blob": "a published blob that proves nothing: unreadable, or another deployment's",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found; `code` is a key of `CODES`, `cids` are the sha256 digests of the blobs it is about."""

    code: str
    message: str
    severity: Severity = "contradiction"
    lane: bytes | None = None
    head: bytes | None = None
    account: bytes | None = None
    cids: tuple[bytes, ...] = ()
    block: int | None = None
    tx: bytes | None = None


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Return "no" for any contradiction, else "not provable" for anything missing, else "yes"."""
    severities = {finding.severity for finding in findings}
    if "contradiction" in severities:
        return "no"
    return "not provable" if "missing" in severities else "yes"


def finding_at(entry: Entry, code: str, message: str, **where: Any) -> Finding:
    """Return a contradiction that an event of the chain brought to light; `where` are further fields of Finding."""
    return Finding(code=code, message=message, block=entry.block, tx=entry.tx, **where)


def show(value: bytes) -> str:
    """Return 0x and hex, for messages."""
    return "0x" + value.hex()
