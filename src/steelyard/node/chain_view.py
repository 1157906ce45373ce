"""What a node asks the chain, behind a port: is a gateway in the registry, what is paid, and the redemption itself.

Law: docs/spec/node.md, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from steelyard.chain.court import CourtClient
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient, GatewayAccount, LaneTotals, Redemption
from steelyard.chain.proofs import ProofsClient
from steelyard.chain.registry import RegistryClient, Role, Service, StandingOffer
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.watch import EscrowWatch
from steelyard.node.demand_watch import DemandWatch, OpenDemand
from steelyard.protocol.lanes import SignedVoucher


class NodeChain(Protocol):
    """The chain, as far as a node needs it; every method may raise ChainError."""

    async def is_gateway(self, account: bytes) -> bool:
        """Whether an account is a registered gateway with enough stake."""
        ...

    async def watch_gateway(self, account: bytes) -> GatewayAccount:
        """Return a gateway's escrow account, and keep it fresh from now on."""
        ...

    async def watch_lane(self, lane_key: bytes) -> LaneTotals:
        """Return a lane's totals, and keep them fresh from now on."""
        ...

    def account(self, gateway: bytes) -> GatewayAccount | None:
        """Return a watched gateway's account as last read."""
        ...

    def lane(self, lane_key: bytes) -> LaneTotals | None:
        """Return a watched lane's totals as last read."""
        ...

    async def fetch_offer(self, provider: bytes, service_id: bytes) -> StandingOffer | None:
        """Return a provider's last offer for a service; a zero manifest says that it was withdrawn."""
        ...

    async def fetch_stake(self, provider: bytes) -> int:
        """Return a provider's stake that counts now, in nano."""
        ...

    async def wait_change(self) -> None:
        """Return after the next change of anything watched."""
        ...

    async def refresh(self) -> None:
        """Read everything watched again."""
        ...

    async def run(self) -> None:
        """Keep what is watched fresh, until cancelled."""
        ...

    async def fetch_keep_s(self) -> int:
        """Return for how many seconds after a call its evidence may be needed on chain."""
        ...

    async def fetch_demands(self, provider: bytes) -> list[OpenDemand]:
        """Return the evidence that is demanded of a provider and not served whole yet."""
        ...

    async def serve_evidence(self, demand_id: bytes, evidence: bytes) -> None:
        """Serve what is left of demanded evidence."""
        ...

    async def redeem(self, vouchers: Sequence[SignedVoucher], blob: bytes) -> Redemption:
        """Redeem vouchers, naming the blob (sha256 digest) that holds their calls."""
        ...

    async def sweep(self) -> None:
        """Send what the provider was credited to its wallet, if there is anything."""
        ...


class ContractChain:
    """`NodeChain` over the real contracts; `sender` signs for the provider."""

    def __init__(self, rpc: ChainRpc, deployment: Deployment, sender: Sender, *, poll_s: float = 0.5) -> None:
        self._registry = RegistryClient(rpc, deployment)
        self._escrow = EscrowClient(rpc, deployment)
        self._watch = EscrowWatch(rpc, deployment, poll_s=poll_s)
        self._sender = sender
        self._court = CourtClient(rpc, deployment)
        self._proofs = ProofsClient(rpc, deployment)
        self.fetch_demands = DemandWatch(rpc, deployment).look
        self.account = self._watch.account
        self.lane = self._watch.lane
        self.watch_gateway = self._watch.add_gateway
        self.watch_lane = self._watch.add_lane
        self.wait_change = self._watch.wait_change
        self.refresh = self._watch.refresh
        self.run = self._watch.run

    async def is_gateway(self, account: bytes) -> bool:
        """Whether an account is a registered gateway with enough stake."""
        if not await self._registry.fetch_is_active(account, Role.GATEWAY):
            return False
        return bool(await self._registry.fetch_gateway_url(account))

    async def fetch_terms(self, provider: bytes, service_id: bytes) -> tuple[Service | None, StandingOffer | None]:
        """Return a service and the provider's standing offer for it, None for what isn't there."""
        service = await self._registry.fetch_service(service_id)
        return service, await self._registry.fetch_offer(provider, service_id)

    async def fetch_offer(self, provider: bytes, service_id: bytes) -> StandingOffer | None:
        """Return a provider's last offer for a service; a zero manifest says that it was withdrawn."""
        return await self._registry.fetch_offer(provider, service_id)

    async def fetch_stake(self, provider: bytes) -> int:
        """Return a provider's stake that counts now, in nano."""
        return await self._registry.fetch_stake(provider, Role.PROVIDER)

    async def fetch_missing_stake(self, provider: bytes) -> int:
        """Return how much a provider must stake before it may offer anything, in nano; 0 if it may."""
        if await self._registry.fetch_is_active(provider, Role.PROVIDER):
            return 0
        least = await self._registry.fetch_min_stake(Role.PROVIDER)
        return least - await self._registry.fetch_stake(provider, Role.PROVIDER)

    async def fetch_keep_s(self) -> int:
        """Return for how many seconds after a call its evidence may be needed on chain."""
        terms = await self._court.fetch_terms()
        return terms.keep_s + terms.evidence_s

    async def serve_evidence(self, demand_id: bytes, evidence: bytes) -> None:
        """Serve what is left of demanded evidence."""
        await self._proofs.serve_evidence(self._sender, demand_id, evidence)

    async def redeem(self, vouchers: Sequence[SignedVoucher], blob: bytes) -> Redemption:
        """Redeem vouchers, naming the blob that holds their calls."""
        return await self._escrow.redeem(self._sender, vouchers, blob)

    async def sweep(self) -> None:
        """Send what the provider was credited to its wallet, if there is anything."""
        account = self._sender.account
        if (await self._escrow.fetch_unswept([account]))[0]:
            await self._escrow.sweep(self._sender, [account])
