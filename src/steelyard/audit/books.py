"""The books that an audit keeps: who holds what, by the events seen so far.

1. Amounts are nano; accounts 20 bytes; nothing is read from a contract's storage.
2. `wallets` are token balances, the contracts' own among them; what a contract holds is told apart by its own events.

Law: docs/spec/audit.md, section 2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = {1: "provider", 2: "gateway", 3: "validator"}
VAULTS = ("registry", "escrow", "court", "rewards")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event of the chain: its contract ("Yard", "Registry", …), its values by ABI name, where it stands."""

    contract: str
    name: str
    values: Mapping[str, Any]
    block: int = 0
    tx: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contracts:
    """The addresses (20 bytes each) whose events the books are made of."""

    yard: bytes
    registry: bytes
    escrow: bytes
    court: bytes
    rewards: bytes


@dataclass(slots=True)
class GatewayBooks:
    """One gateway's pool: deposited + drawn = withdrawn + redeemed + remaining, and what it owes beyond that."""

    deposited: int = 0
    drawn: int = 0
    withdrawn: int = 0
    redeemed: int = 0
    owed: int = 0
    announced: int = 0

    @property
    def remaining(self) -> int:
        """What the deposit holds."""
        return self.deposited + self.drawn - self.withdrawn - self.redeemed


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """One LaneRedeemed: what the lane's total became, what was paid for it, and the head that it commits to."""

    cumulative: int
    paid: int
    count: int
    head: bytes
    block: int
    tx: bytes


@dataclass(slots=True)
class LaneBooks:
    """One lane by its redemptions; accepted minus paid is owed."""

    key: bytes
    gateway: bytes
    provider: bytes
    service_id: bytes
    lane_id: int
    accepted: int = 0
    paid: int = 0
    redemptions: list[Redemption] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBooks:
    """A registered service: its payees and their shares in basis points (provider, builder, data pot, protocol)."""

    name: str
    kind: str
    builder: bytes
    data_pot: bytes
    split: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedOffer:
    """Terms that a provider put on chain; prices in nano per 1,000,000 units."""

    price_in: int
    price_out: int
    grade: int
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A blob (sha256 digest) that somebody said holds the calls of what the same transaction redeemed."""

    publisher: bytes
    blob: bytes
    block: int
    tx: bytes


@dataclass(slots=True)
class PotBooks:
    """The pot of rewards: what came in is paid, burned or there; each final root pays from its own purse."""

    paid: int = 0
    burned: int = 0
    last_final: int = 0
    readings: list[tuple[int, int]] = field(default_factory=list)  # epoch, what had come in by its first reading
    totals: dict[int, int] = field(default_factory=dict)  # by proposal
    bases: dict[int, int] = field(default_factory=dict)
    purses: dict[int, int] = field(default_factory=dict)  # by final root
    claimed: defaultdict[bytes, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedRoot:
    """A root that somebody posted on the ledger; `cid` is the sha256 digest of the leaves' blob."""

    publisher: bytes
    kind: bytes
    epoch: int
    root: bytes
    cid: bytes


def _amounts() -> defaultdict[Any, int]:
    return defaultdict(int)


@dataclass(slots=True)
class CourtCase:
    """A case at the court; blocks are those of its opening and of its close (0: it is open)."""

    kind: int
    accused: bytes
    topic: bytes
    opened: int
    closed: int = 0
    ruling: int = 0


@dataclass(slots=True)
class Books:
    """Everything that the events say; `rebuild.step` is the one that writes in it."""

    contracts: Contracts
    minted: int = 0
    burned: int = 0
    wallets: defaultdict[bytes, int] = field(default_factory=_amounts)
    stakes: defaultdict[tuple[bytes, int], int] = field(default_factory=_amounts)
    unbonding: defaultdict[tuple[bytes, int], int] = field(default_factory=_amounts)
    gateways: defaultdict[bytes, GatewayBooks] = field(default_factory=lambda: defaultdict(GatewayBooks))
    unswept: defaultdict[bytes, int] = field(default_factory=_amounts)
    earned: defaultdict[bytes, int] = field(default_factory=_amounts)
    lanes: dict[bytes, LaneBooks] = field(default_factory=dict)
    services: dict[bytes, ServiceBooks] = field(default_factory=dict)
    offers: defaultdict[tuple[bytes, bytes], list[PostedOffer]] = field(default_factory=lambda: defaultdict(list))
    published: list[Publication] = field(default_factory=list)
    protocol_pot: bytes = b""
    # the court and the pot: bonds by (contract, matter), what gateways got back by lane, what was slashed and by whom
    bonds: defaultdict[tuple[str, bytes], int] = field(default_factory=_amounts)
    compensated: defaultdict[bytes, int] = field(default_factory=_amounts)
    pot: PotBooks = field(default_factory=PotBooks)
    # what validators said on chain: roots by kind, and the secrets that chose their checks, by (validator, epoch)
    posted: list[PostedRoot] = field(default_factory=list)
    secrets: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    cases: dict[int, CourtCase] = field(default_factory=dict)
    # what each vault owes by its own events, what strangers sent it unasked, and the transaction being read
    owes: defaultdict[str, int] = field(default_factory=_amounts)
    stray: defaultdict[str, int] = field(default_factory=_amounts)
    tx: bytes = b""
    slashed: defaultdict[tuple[bytes, int], int] = field(default_factory=_amounts)
    lane_drawn: defaultdict[bytes, int] = field(default_factory=_amounts)
    stake_drawn: defaultdict[bytes, int] = field(default_factory=_amounts)

    @property
    def vaults(self) -> dict[str, bytes]:
        """The contracts that hold others' YARD, by name."""
        return {name: getattr(self.contracts, name) for name in VAULTS}

    def bonds_of(self, contract: str) -> int:
        """Return the bonds that a contract holds."""
        return sum(amount for (holder, _), amount in self.bonds.items() if holder == contract)

    def totals(self) -> dict[str, int]:
        """Return where all YARD is; the parts add up to `minted - burned` unless a finding says otherwise."""
        vaults = self.vaults.values()
        return {
            "wallets": sum(amount for account, amount in self.wallets.items() if account not in vaults),
            "deposits": sum(gateway.remaining for gateway in self.gateways.values()),
            "unswept": sum(self.unswept.values()),
            "stakes": sum(self.stakes.values()),
            "unbonding": sum(self.unbonding.values()),
            "bonds": sum(self.bonds.values()),
            "pot": self.owes["rewards"] - self.bonds_of("Rewards"),
            "stray": sum(self.stray.values()),
        }
