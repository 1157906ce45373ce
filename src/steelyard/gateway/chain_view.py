"""What a gateway asks of the chain, as a port: its deposit, its lanes, and what providers and services are on record.

1. Every answer is as of one recent block; nothing here is final, and nothing is paid by reading it.
2. A chain that doesn't answer is `ChainUnreachable`: the gateway goes on with what it knew, up to a limit (watch.py).

Implemented over the typed clients by chain_reader.py, and in memory by tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EscrowState:
    """A gateway's account in the escrow; nano. `stake_nano` is its active stake as a gateway."""

    deposit_nano: int
    owed_nano: int
    withdrawal_nano: int
    stake_nano: int


@dataclass(frozen=True, slots=True)
class LanePaid:
    """What the escrow accepted on a lane and what it has paid of it; cumulative nano."""

    accepted_nano: int
    paid_nano: int


@dataclass(frozen=True, slots=True)
class Position:
    """A gateway's account and some of its lanes, as of one and the same block."""

    escrow: EscrowState
    lanes: tuple[LanePaid, ...]

    def budget_nano(self, reserve_nano: int = 0) -> int:
        """Return the limit of all that these lanes may ever cost: paid so far, and what the deposit still covers.

        What is owed on these lanes counts as spent already; what is owed on others is taken off.
        """
        paid = sum(lane.paid_nano for lane in self.lanes)
        owed_here = sum(lane.accepted_nano - lane.paid_nano for lane in self.lanes)
        escrow = self.escrow
        owed_elsewhere = max(escrow.owed_nano - owed_here, 0)
        return paid + max(escrow.deposit_nano - escrow.withdrawal_nano - owed_elsewhere - reserve_nano, 0)


@dataclass(frozen=True, slots=True)
class ServiceTerms:
    """A registered service; `manifest` is the SHA-256 of its manifest, zero where none was named."""

    name: str
    kind: str
    manifest: bytes
    builder: bytes


@dataclass(frozen=True, slots=True)
class OfferTerms:
    """A provider's offer as the registry has it; `manifest` zero means withdrawn."""

    price_in: int
    price_out: int
    grade: int
    manifest: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class CourtRecord:
    """What the court has on a provider at a service: cases that are open, and whether one was ever upheld."""

    open_cases: int = 0
    is_convicted: bool = False


class ChainView(Protocol):
    """Read-only; every method may raise ChainError."""

    async def fetch_position(self, gateway: bytes, lane_keys: Sequence[bytes]) -> Position:
        """Return a gateway's deposit, debts and stake, and what was paid on lanes, all as of one block."""

    async def fetch_is_active(self, provider: bytes) -> bool:
        """Say whether an account is an active, staked provider."""

    async def fetch_stake(self, provider: bytes) -> int:
        """Return a provider's stake that counts now, in nano."""

    async def fetch_is_validator(self, account: bytes) -> bool:
        """Say whether an account is an active, staked validator."""

    async def fetch_service(self, service_id: bytes) -> ServiceTerms | None:
        """Return a registered service, or None."""

    async def fetch_offer(self, provider: bytes, service_id: bytes) -> OfferTerms | None:
        """Return a provider's offer on record, or None if there never was one."""

    async def fetch_court_record(self, provider: bytes, service_id: bytes) -> CourtRecord:
        """Return what the court has on a provider's answers at a service."""
