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


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event of the chain: its contract ("Yard", "Registry", "Escrow"), its values by ABI name, where it stands."""

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


def _amounts() -> defaultdict[Any, int]:
    return defaultdict(int)


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
    # what the two vaults owe by their own events, what strangers sent them unasked, and the transaction being read
    registry_owes: int = 0
    escrow_owes: int = 0
    registry_stray: int = 0
    escrow_stray: int = 0
    tx: bytes = b""
    lane_drawn: defaultdict[bytes, int] = field(default_factory=_amounts)
    stake_drawn: defaultdict[bytes, int] = field(default_factory=_amounts)

    def totals(self) -> dict[str, int]:
        """Return where all YARD is; the parts add up to `minted - burned` unless a finding says otherwise."""
        vaults = (self.contracts.registry, self.contracts.escrow)
        return {
            "wallets": sum(amount for account, amount in self.wallets.items() if account not in vaults),
            "deposits": sum(gateway.remaining for gateway in self.gateways.values()),
            "unswept": sum(self.unswept.values()),
            "stakes": sum(self.stakes.values()),
            "unbonding": sum(self.unbonding.values()),
            "stray": self.registry_stray + self.escrow_stray,
        }
