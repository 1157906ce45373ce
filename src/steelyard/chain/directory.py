"""Who takes part, from the registry's events alone: services, offers, gateways, stakes.

1. Pure: events go in, the picture comes out; feed it from `fetch_events` or `follow`, and begin a new one after a
   rollback.
2. A loss is taken from what is unbonding first, as the contract does; a test compares the picture with the chain.

Law: contracts/src/Registry.sol and Stakes.sol.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.registry import Role, Service, Split
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Offer


@dataclass(slots=True)
class StakeEntry:
    """An account's stake in a role, in nano: what counts, and what is on its way out."""

    active_nano: int = 0
    unbonding_nano: int = 0

    def take(self, amount_nano: int) -> None:
        """Lose so many nano, unbonding ones first."""
        from_unbonding = min(amount_nano, self.unbonding_nano)
        self.unbonding_nano -= from_unbonding
        self.active_nano -= amount_nano - from_unbonding


@dataclass(slots=True)
class Directory:
    """The registry as its events tell it.

    Attributes:
        services: by id. offers: the standing ones by (provider, service id), withdrawn ones left out.
        gateways: account → URL, those without one left out. stakes: by (account, role).
    """

    services: dict[bytes, Service] = field(default_factory=dict)
    offers: dict[tuple[bytes, bytes], Offer] = field(default_factory=dict)
    gateways: dict[bytes, str] = field(default_factory=dict)
    stakes: dict[tuple[bytes, int], StakeEntry] = field(default_factory=dict)

    def stake_of(self, account: bytes, role: Role) -> int:
        """Return the stake that counts, in nano."""
        entry = self.stakes.get((account, int(role)))
        return 0 if entry is None else entry.active_nano

    def offers_for(self, service_id: bytes) -> list[Offer]:
        """Return the standing offers for a service, by provider."""
        return [offer for (_, service), offer in sorted(self.offers.items()) if service == service_id]

    def apply(self, events: Iterable[DecodedEvent]) -> None:
        """Take in the registry's next events, in chain order."""
        for event in events:
            self._apply_one(event)

    def _apply_one(self, event: DecodedEvent) -> None:
        v = event.values
        match event.name:
            case "ServiceRegistered":
                self.services[v["serviceId"]] = Service(
                    v["serviceId"],
                    v["name"],
                    v["kind"],
                    v["manifest"],
                    v["builder"],
                    v["dataPot"],
                    Split(*v["splitBps"]),
                )
            case "OfferSet":
                key = (v["provider"], v["serviceId"])
                if v["manifest"] == ZERO32:
                    self.offers.pop(key, None)
                else:
                    self.offers[key] = Offer(*key, v["priceIn"], v["priceOut"], v["grade"], v["manifest"], v["seq"])
            case "GatewaySet":
                if v["url"]:
                    self.gateways[v["gateway"]] = v["url"]
                else:
                    self.gateways.pop(v["gateway"], None)
            case "Staked":
                self._stake(v["account"], v["role"]).active_nano += v["amount"]
            case "UnbondStarted":
                entry = self._stake(v["account"], v["role"])
                entry.active_nano -= v["amount"]
                entry.unbonding_nano += v["amount"]
            case "UnbondFinished":
                self._stake(v["account"], v["role"]).unbonding_nano -= v["amount"]
            case "Slashed":
                self._stake(v["account"], v["role"]).take(v["amount"])
            case "Drawn":
                self._stake(v["gateway"], Role.GATEWAY).take(v["amount"])
            case _:
                pass

    def _stake(self, account: bytes, role: int) -> StakeEntry:
        return self.stakes.setdefault((account, int(role)), StakeEntry())
