"""Registry: stakes, gateways, services and offers, seen from Python. Amounts are nano.

Law: contracts/src/Registry.sol and Stakes.sol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.parameters import ZERO_ADDRESS
from steelyard.chain.records import Log, TxReceipt
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.yard import YardClient
from steelyard.protocol.messages import Offer
from steelyard.protocol.signing import compact_signature


class Role(IntEnum):
    """What an account stakes for; the numbers are the contract's."""

    PROVIDER = 1
    GATEWAY = 2
    VALIDATOR = 3


@dataclass(frozen=True, slots=True)
class Unbonding:
    """Stake on its way out, and the Unix second from which it may be taken."""

    amount_nano: int
    ready_at_s: int


@dataclass(frozen=True, slots=True)
class Split:
    """How a redemption is shared, in basis points; the sum is 10,000."""

    provider_bps: int
    builder_bps: int
    data_bps: int
    protocol_bps: int

    def as_list(self) -> list[int]:
        """Return the four in the contract's order."""
        return [self.provider_bps, self.builder_bps, self.data_bps, self.protocol_bps]


@dataclass(frozen=True, slots=True)
class Service:
    """A registered service; it never changes. `manifest` is the sha256 digest of the manifest's blob."""

    service_id: bytes
    name: str
    kind: str
    manifest: bytes
    builder: bytes
    data_pot: bytes
    split: Split


@dataclass(frozen=True, slots=True)
class StandingOffer:
    """A provider's terms for a service as they stand; prices are nano per 1,000,000 units."""

    provider: bytes
    service_id: bytes
    price_in: int
    price_out: int
    seq: int
    set_at_s: int
    grade: int
    manifest: bytes


class RegistryClient:
    """Reads and sends of the registry.

    Args:
        rpc: its life is the caller's. deployment: which registry.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self.contract = Contract(rpc, "Registry", deployment.registry)
        self.yard = YardClient(rpc, deployment)

    async def fetch_stake(self, account: bytes, role: Role, block: BlockTag = "latest") -> int:
        """Return the stake that counts now, in nano; what is unbonding is not in it."""
        return int((await self.contract.read("stakeOf", account, int(role), block=block))[0])

    async def fetch_stake_at(self, account: bytes, role: Role, time_s: int) -> int:
        """Return the stake at the end of a past Unix second, in nano."""
        return int((await self.contract.read("stakeAt", account, int(role), time_s))[0])

    async def fetch_total_stake(self, role: Role, block: BlockTag = "latest") -> int:
        """Return all stake of a role, in nano."""
        return int((await self.contract.read("totalStakeOf", int(role), block=block))[0])

    async def fetch_total_stake_at(self, role: Role, time_s: int) -> int:
        """Return all stake of a role at the end of a past Unix second, in nano."""
        return int((await self.contract.read("totalStakeAt", int(role), time_s))[0])

    async def fetch_unbonding(self, account: bytes, role: Role, block: BlockTag = "latest") -> Unbonding:
        """Return what is on its way out."""
        return Unbonding(*await self.contract.read("unbondingOf", account, int(role), block=block))

    async def fetch_locked_until(self, account: bytes, role: Role, block: BlockTag = "latest") -> int:
        """Return the Unix second until which a stake is locked; zero if it never was."""
        return int((await self.contract.read("lockedUntil", account, int(role), block=block))[0])

    async def fetch_is_active(self, account: bytes, role: Role, block: BlockTag = "latest") -> bool:
        """Return whether an account's stake is enough for the role."""
        return bool((await self.contract.read("isActive", account, int(role), block=block))[0])

    async def fetch_min_stake(self, role: Role) -> int:
        """Return the least stake of the role, in nano."""
        return int((await self.contract.read("minStakeOf", int(role)))[0])

    async def fetch_gateway_url(self, account: bytes, block: BlockTag = "latest") -> str:
        """Return where a gateway says it is reached; empty if nowhere."""
        return str((await self.contract.read("gatewayUrl", account, block=block))[0])

    async def fetch_service(self, service_id: bytes, block: BlockTag = "latest") -> Service | None:
        """Return a service, or None if no such one is registered."""
        return (await self.fetch_services([service_id], block))[0]

    async def fetch_services(self, service_ids: Sequence[bytes], block: BlockTag = "latest") -> list[Service | None]:
        """Return many services in one request, in order."""
        values = await self.contract.read_many([("serviceOf", (service_id,)) for service_id in service_ids], block)
        services: list[Service | None] = []
        for service_id, ((payees, manifest, kind, name),) in zip(service_ids, values, strict=True):
            builder, *split, data_pot = payees
            known = Service(service_id, name, kind, manifest, builder, data_pot, Split(*split))
            services.append(None if builder == ZERO_ADDRESS else known)
        return services

    async def fetch_offer(self, provider: bytes, service_id: bytes, block: BlockTag = "latest") -> StandingOffer | None:
        """Return a provider's last offer for a service, or None; a zero manifest says that it was withdrawn."""
        offer = (await self.contract.read("offerOf", provider, service_id, block=block))[0]
        price_in, price_out, seq, set_at_s, grade, manifest = offer
        if seq == 0:
            return None
        return StandingOffer(provider, service_id, price_in, price_out, seq, set_at_s, grade, manifest)

    async def stake(self, sender: Sender, role: Role, amount_nano: int) -> TxReceipt:
        """Stake from the sender's wallet, for itself; approves the registry first where it must."""
        await self.yard.ensure_allowance(sender, self.contract.address, amount_nano)
        return await self.contract.send(sender, "stake", int(role), amount_nano)

    async def stake_for(self, sender: Sender, account: bytes, role: Role, amount_nano: int) -> TxReceipt:
        """Stake from the sender's wallet for another account, which alone can take it out again."""
        await self.yard.ensure_allowance(sender, self.contract.address, amount_nano)
        return await self.contract.send(sender, "stakeFor", account, int(role), amount_nano)

    async def start_unbond(self, sender: Sender, role: Role, amount_nano: int) -> TxReceipt:
        """Begin to take the sender's stake out."""
        return await self.contract.send(sender, "startUnbond", int(role), amount_nano)

    async def finish_unbond(self, sender: Sender, role: Role) -> TxReceipt:
        """Take out all of the sender's that is unbonding, after the delay."""
        return await self.contract.send(sender, "finishUnbond", int(role))

    async def lock(self, sender: Sender, account: bytes, role: Role, until_s: int) -> TxReceipt:
        """Hold a stake until a Unix second; the sender needs the slasher role."""
        return await self.contract.send(sender, "lock", account, int(role), until_s)

    async def slash(
        self, sender: Sender, account: bytes, role: Role, amount_nano: int, to: bytes = ZERO_ADDRESS
    ) -> TxReceipt:
        """Take stake away, to an account or (zero) to be burned; the sender needs the slasher role."""
        return await self.contract.send(sender, "slash", account, int(role), amount_nano, to)

    async def set_gateway(self, sender: Sender, url: str) -> TxReceipt:
        """Say where the sender's gateway is reached; empty takes it back."""
        return await self.contract.send(sender, "setGateway", url)

    async def register_service(
        self, sender: Sender, name: str, kind: str, manifest: bytes, split: Split, data_pot: bytes = ZERO_ADDRESS
    ) -> TxReceipt:
        """Register a service for ever, with the sender as its builder."""
        return await self.contract.send(sender, "registerService", name, kind, manifest, split.as_list(), data_pot)

    async def set_offer(self, sender: Sender, offer: Offer, signature: bytes) -> TxReceipt:
        """Post an offer that its provider signed (65 bytes); a zero manifest withdraws it."""
        offer.check_fields()
        fields = (
            offer.provider,
            offer.service_id,
            offer.price_in,
            offer.price_out,
            offer.grade,
            offer.manifest,
            offer.seq,
        )
        return await self.contract.send(sender, "setOffer", fields, *compact_signature(signature))

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return the registry's events among logs: Staked, ServiceRegistered, OfferSet, GatewaySet, …"""
        return self.contract.decode_events(logs)
