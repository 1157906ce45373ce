"""What the money rules say should happen, in plain Python: the twin that the contracts are compared with.

1. Written from docs/spec/contracts.md, not from the contracts; it keeps numbers and moves no token.
2. Every method returns what the chain should answer: None, or the error it should refuse with, whole or by name.
3. Amounts are nano, times Unix seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.contracts.world import UNBOND_DELAY_S, WITHDRAW_DELAY_S

Split = tuple[int, int, int, int]


@dataclass
class Service:
    """Who is paid for a service, and how."""

    split: Split
    builder: bytes
    data_pot: bytes


@dataclass
class Gateway:
    """One gateway's money in the escrow and in the registry."""

    deposit: int = 0
    owed: int = 0
    is_open: bool = False
    announced: int = 0
    withdraw_at: int = 0
    stake: int = 0
    unbonding: int = 0
    ready_at: int = 0
    locked_until: int = 0

    def draw(self, amount: int, now: int) -> int:
        """Take stake, the leaving part first; nothing while it is locked."""
        return 0 if now < self.locked_until else self.take(amount)

    def take(self, amount: int) -> int:
        """Take stake, the leaving part first, as far as there is any."""
        taken = min(amount, self.unbonding + self.stake)
        leaving = min(taken, self.unbonding)
        self.unbonding -= leaving
        self.stake -= taken - leaving
        return taken


@dataclass
class Lane:
    """A lane's highest total, and what of it was paid."""

    accepted: int = 0
    paid: int = 0


@dataclass(frozen=True)
class Claim:
    """A voucher as the model sees it."""

    lane: bytes
    gateway: bytes
    provider: bytes
    service_id: bytes
    cumulative: int
    is_genuine: bool = True


@dataclass
class Money:
    """All of it."""

    pot: bytes
    services: dict[bytes, Service] = field(default_factory=dict)
    gateways: dict[bytes, Gateway] = field(default_factory=dict)
    lanes: dict[bytes, Lane] = field(default_factory=dict)
    wallets: Counter[bytes] = field(default_factory=Counter)
    unswept: Counter[bytes] = field(default_factory=Counter)
    supply: int = 0

    def mint(self, account: bytes, amount: int) -> None:
        """Create money."""
        self.wallets[account] += amount
        self.supply += amount

    def deposit(self, gateway: bytes, amount: int) -> str | None:
        """Move money from a gateway's wallet to its deposit."""
        if amount == 0:
            return "ZeroAmount()"
        if amount > self.wallets[gateway]:
            return "ERC20InsufficientBalance"
        self.wallets[gateway] -= amount
        account = self.gateways[gateway]
        account.deposit += amount
        account.is_open = True
        return None

    def announce(self, gateway: bytes, amount: int, now: int) -> str | None:
        """Announce a withdrawal."""
        account = self.gateways[gateway]
        if amount == 0:
            return "ZeroAmount()"
        if amount > account.deposit:
            return f"InsufficientDeposit({account.deposit},{amount})"
        account.announced, account.withdraw_at = amount, now + WITHDRAW_DELAY_S
        return None

    def cancel(self, gateway: bytes) -> str | None:
        """Take the announcement back."""
        account = self.gateways[gateway]
        if account.announced == 0:
            return "NothingAnnounced()"
        account.announced = account.withdraw_at = 0
        return None

    def withdraw(self, gateway: bytes, now: int) -> str | None:
        """Take out what was announced, as far as it is still there."""
        account = self.gateways[gateway]
        if account.announced == 0:
            return "NothingAnnounced()"
        if now < account.withdraw_at:
            return f"StillWaiting({account.withdraw_at})"
        if account.owed:
            return f"StillOwing({account.owed})"
        amount = min(account.announced, account.deposit)
        account.deposit -= amount
        self.wallets[gateway] += amount
        account.announced = account.withdraw_at = 0
        return None

    def redeem(self, claim: Claim, now: int) -> int | str:
        """Pay one voucher; return what was paid, or why it was skipped."""
        if not claim.is_genuine:
            return "BadSignature"
        lane = self.lanes.get(claim.lane, Lane())
        if claim.cumulative < lane.accepted:
            return "LowerTotal"
        if claim.cumulative == lane.paid:
            return "NothingDue"
        if claim.service_id not in self.services:
            return "UnknownService"
        account = self.gateways[claim.gateway]
        if not account.is_open:
            return "NoAccount"
        due = claim.cumulative - lane.paid
        from_deposit = min(due, account.deposit)
        paid = from_deposit + account.draw(due - from_deposit, now)
        if paid == 0 and claim.cumulative == lane.accepted:
            return "NoFunds"
        account.deposit -= from_deposit
        account.owed += claim.cumulative - lane.accepted - paid
        self.lanes[claim.lane] = Lane(claim.cumulative, lane.paid + paid)
        self._share(claim, paid)
        return paid

    def sweep(self, accounts: list[bytes]) -> None:
        """Send credits to their owners."""
        for account in accounts:
            self.wallets[account] += self.unswept.pop(account, 0)

    def stake(self, gateway: bytes, amount: int) -> str | None:
        """Stake as a gateway."""
        if amount == 0:
            return "ZeroAmount()"
        if amount > self.wallets[gateway]:
            return "ERC20InsufficientBalance"
        self.wallets[gateway] -= amount
        self.gateways[gateway].stake += amount
        return None

    def start_unbond(self, gateway: bytes, amount: int, now: int) -> str | None:
        """Begin to leave."""
        account = self.gateways[gateway]
        if amount == 0:
            return "ZeroAmount()"
        if amount > account.stake:
            return f"InsufficientStake({account.stake},{amount})"
        account.stake -= amount
        account.unbonding += amount
        account.ready_at = now + UNBOND_DELAY_S
        return None

    def finish_unbond(self, gateway: bytes, now: int) -> str | None:
        """Leave."""
        account = self.gateways[gateway]
        if account.unbonding == 0:
            return "NothingUnbonding()"
        if now < account.ready_at:
            return f"StillUnbonding({account.ready_at})"
        if now < account.locked_until:
            return f"StillLocked({account.locked_until})"
        self.wallets[gateway] += account.unbonding
        account.unbonding = account.ready_at = 0
        return None

    def slash(self, gateway: bytes, amount: int, to: bytes | None) -> None:
        """Take stake away, to someone or to nobody."""
        taken = self.gateways[gateway].take(amount)
        if to is None:
            self.supply -= taken
        else:
            self.wallets[to] += taken

    def _share(self, claim: Claim, paid: int) -> None:
        service = self.services[claim.service_id]
        payees = (service.builder, service.data_pot, self.pot)
        shares = [paid * bps // 10_000 for bps in service.split[1:]]
        for payee, share in zip(payees, shares, strict=True):
            self.unswept[payee] += share
        self.unswept[claim.provider] += paid - sum(shares)
