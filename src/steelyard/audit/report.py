"""What an audit reports: the verdict, where all YARD is, each gateway's sum, each lane's proof, and every finding.

1. The answer to "money conserved" is yes, no or not provable; it is worked out from the findings alone.
2. JSON holds integers in nano and lower-case hex; blobs are named by their CIDs.

Law: docs/spec/audit.md, section 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.audit.books import Books
from steelyard.audit.calls import LaneProof
from steelyard.audit.findings import Finding, Verdict, show, verdict_of
from steelyard.audit.quality import QualityRow
from steelyard.audit.selection import SelectionRow
from steelyard.protocol.cid import Cid

EXIT_STATUS: dict[Verdict, int] = {"yes": 0, "no": 1, "not provable": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The outcome of one audit, as of one block."""

    chain_id: int
    deployment: bytes
    block: int
    block_hash: bytes
    from_block: int
    events: int
    blobs_named: int
    blobs_read: int
    books: Books
    lanes: tuple[LaneProof, ...]
    selections: tuple[SelectionRow, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether money is conserved."""
        return verdict_of(self.findings)

    @property
    def exit_status(self) -> int:
        """0 for yes, 1 for no, 3 for not provable."""
        return EXIT_STATUS[self.verdict]

    def whereabouts(self) -> list[tuple[str, int]]:
        """Return (place, nano) for everything minted and not burned; the places add up to it."""
        return list(self.books.totals().items())

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        books = self.books
        return {
            "money_conserved": self.verdict,
            "chain_id": self.chain_id,
            "deployment": show(self.deployment),
            "block": self.block,
            "block_hash": show(self.block_hash),
            "from_block": self.from_block,
            "events": self.events,
            "blobs": {"named": self.blobs_named, "read": self.blobs_read},
            "minted_nano": books.minted,
            "burned_nano": books.burned,
            "whereabouts_nano": dict(self.whereabouts()),
            "gateways": [
                {
                    "gateway": show(account),
                    "deposited_nano": gateway.deposited,
                    "drawn_nano": gateway.drawn,
                    "withdrawn_nano": gateway.withdrawn,
                    "redeemed_nano": gateway.redeemed,
                    "remaining_nano": gateway.remaining,
                    "owed_nano": gateway.owed,
                }
                for account, gateway in sorted(books.gateways.items())
            ],
            "accounts": self._accounts_json(),
            "lanes": [_lane_json(proof) for proof in self.lanes],
            "selections": [_selection_json(row) for row in self.selections],
            "quality": [
                {"validator": show(row.validator), "epoch": row.epoch, "state": row.state, "providers": row.providers}
                for row in self.quality
            ],
            "findings": [_finding_json(finding) for finding in self.findings],
        }

    def accounts(self) -> list[bytes]:
        """Return every account that holds, earned or staked something, the vaults left out."""
        books = self.books
        vaults = set(books.vaults.values())
        staked = {account for account, _ in (*books.stakes, *books.unbonding)}
        return sorted((set(books.wallets) | set(books.unswept) | staked) - vaults)

    def _accounts_json(self) -> list[dict[str, Any]]:
        books = self.books
        stakes, unbonding = _by_account(books.stakes), _by_account(books.unbonding)
        return [
            {
                "account": show(account),
                "wallet_nano": books.wallets.get(account, 0),
                "unswept_nano": books.unswept.get(account, 0),
                "earned_nano": books.earned.get(account, 0),
                "rewards_nano": books.pot.claimed.get(account, 0),
                "stake_nano": stakes.get(account, 0),
                "unbonding_nano": unbonding.get(account, 0),
            }
            for account in self.accounts()
        ]


def _by_account(amounts: Mapping[tuple[bytes, int], int]) -> dict[bytes, int]:
    sums: dict[bytes, int] = {}
    for (account, _), amount in amounts.items():
        sums[account] = sums.get(account, 0) + amount
    return sums


def list_cids(finding: Finding) -> list[str]:
    """Return the blobs that a finding is about, by their public ids."""
    return [str(Cid(digest)) for digest in finding.cids]


def _lane_json(proof: LaneProof) -> dict[str, Any]:
    lane = proof.lane
    return {
        "lane": show(lane.key),
        "gateway": show(lane.gateway),
        "provider": show(lane.provider),
        "service_id": show(lane.service_id),
        "redeemed_nano": lane.accepted,
        "paid_nano": lane.paid,
        "proven_nano": proof.cost,
        "calls": proof.calls,
        "units_in": proof.units_in,
        "units_out": proof.units_out,
        "is_proven": proof.is_proven,
    }


def _selection_json(row: SelectionRow) -> dict[str, Any]:
    return {
        "validator": show(row.validator),
        "epoch": row.epoch,
        "state": row.state,
        "selected": row.selected,
        "unchecked": [show(receipt) for receipt in row.unchecked],
        "unselected": [show(receipt) for receipt in row.unselected],
        "probes": row.probes,
        "unknown": row.unknown,
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "lane": None if finding.lane is None else show(finding.lane),
        "head": None if finding.head is None else show(finding.head),
        "account": None if finding.account is None else show(finding.account),
        "cids": list_cids(finding),
        "block": finding.block,
        "tx": None if finding.tx is None else show(finding.tx),
    }
