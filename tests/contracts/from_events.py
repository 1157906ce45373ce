"""Every balance from events alone, as an auditor who reads no state would find it (docs/spec/contracts.md, "Audit")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.contracts.contract import Event

Pair = tuple[bytes, int]


class Balances:
    """What the events say.

    Args:
        pot: who was credited with the protocol's share before the first event.
    """

    def __init__(self, pot: bytes) -> None:
        self.pot = pot
        self.wallets: Counter[bytes] = Counter()
        self.deposits: Counter[bytes] = Counter()
        self.owed: Counter[bytes] = Counter()
        self.unswept: Counter[bytes] = Counter()
        self.stakes: Counter[Pair] = Counter()
        self.unbonding: Counter[Pair] = Counter()
        self.accepted: Counter[bytes] = Counter()
        self.paid: Counter[bytes] = Counter()
        self.supply = 0
        self._lanes: dict[bytes, dict[str, Any]] = {}
        self._services: dict[bytes, dict[str, Any]] = {}
        self._drawn: Counter[bytes] = Counter()

    def replay(self, events: Iterable[Event]) -> None:
        """Take up events in the order in which they were emitted."""
        for event in events:
            handler = getattr(self, f"_on_{event.name}", None)
            if handler is not None:
                handler(**event.args)

    def _on_Transfer(self, *, to: bytes, value: int, **fields: Any) -> None:
        for account, amount in ((fields["from"], -value), (to, value)):
            if any(account):
                self.wallets[account] += amount
            else:
                self.supply -= amount

    def _on_Deposited(self, *, gateway: bytes, amount: int, **_: Any) -> None:
        self.deposits[gateway] += amount

    def _on_Withdrawn(self, *, gateway: bytes, amount: int) -> None:
        self.deposits[gateway] -= amount

    def _on_ProtocolPotSet(self, *, pot: bytes) -> None:
        self.pot = pot

    def _on_ServiceRegistered(self, **fields: Any) -> None:
        self._services[fields["serviceId"]] = fields

    def _on_LaneOpened(self, **fields: Any) -> None:
        self._lanes[fields["lane"]] = fields

    def _on_StakeDrawn(self, *, lane: bytes, amount: int, **_: Any) -> None:
        self._drawn[lane] = amount  # the lane's LaneRedeemed comes next

    def _on_LaneRedeemed(self, *, lane: bytes, cumulative: int, paid: int, **_: Any) -> None:
        opened = self._lanes[lane]
        gateway, service = opened["gateway"], self._services[opened["serviceId"]]
        self.deposits[gateway] -= paid - self._drawn.pop(lane, 0)
        self.owed[gateway] += cumulative - self.accepted[lane] - paid
        self.accepted[lane] = cumulative
        self.paid[lane] += paid
        shares = [paid * bps // 10_000 for bps in service["splitBps"][1:]]
        for payee, share in zip((service["builder"], service["dataPot"], self.pot), shares, strict=True):
            self.unswept[payee] += share
        self.unswept[opened["provider"]] += paid - sum(shares)

    def _on_Swept(self, *, account: bytes, amount: int) -> None:
        self.unswept[account] -= amount

    def _on_Staked(self, *, account: bytes, role: int, amount: int, **_: Any) -> None:
        self.stakes[account, role] += amount

    def _on_UnbondStarted(self, *, account: bytes, role: int, amount: int, **_: Any) -> None:
        self.stakes[account, role] -= amount
        self.unbonding[account, role] += amount

    def _on_UnbondFinished(self, *, account: bytes, role: int, amount: int) -> None:
        self.unbonding[account, role] -= amount

    def _on_Slashed(self, *, account: bytes, role: int, amount: int, **_: Any) -> None:
        self._take(account, role, amount)

    def _on_Drawn(self, *, gateway: bytes, amount: int, **_: Any) -> None:
        self._take(gateway, 2, amount)

    def _take(self, account: bytes, role: int, amount: int) -> None:
        leaving = min(amount, self.unbonding[account, role])
        self.unbonding[account, role] -= leaving
        self.stakes[account, role] -= amount - leaving
