"""`ChainView` and `PaymentChain` over the chain room's typed clients.

Law: docs/spec/gateway.md, section 4; docs/spec/x402.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.chain.cases import CaseKind
from steelyard.chain.court import CourtClient
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.payments import PaymentsClient, Standing
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.gateway.chain_view import CourtRecord, EscrowState, LanePaid, OfferTerms, Position, ServiceTerms
from steelyard.gateway.x402_wire import Payment


class ChainReader:
    """Reads what a gateway must know; `rpc`'s life is the caller's."""

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self._rpc = rpc
        self._escrow = EscrowClient(rpc, deployment)
        self._registry = RegistryClient(rpc, deployment)
        self._court = CourtClient(rpc, deployment)

    async def fetch_position(self, gateway: bytes, lane_keys: Sequence[bytes]) -> Position:
        """See `chain_view.ChainView`."""
        block = await self._rpc.block_number()
        account = await self._escrow.fetch_account(gateway, block)
        lanes = await self._escrow.fetch_lanes(lane_keys, block) if lane_keys else []
        stake = await self._registry.fetch_stake(gateway, Role.GATEWAY, block)
        return Position(
            EscrowState(account.deposit_nano, account.owed_nano, account.withdrawal_nano, stake),
            tuple(LanePaid(lane.accepted_nano, lane.paid_nano) for lane in lanes),
        )

    async def fetch_is_active(self, provider: bytes) -> bool:
        """See `chain_view.ChainView`."""
        return await self._registry.fetch_is_active(provider, Role.PROVIDER)

    async def fetch_stake(self, provider: bytes) -> int:
        """See `chain_view.ChainView`."""
        return await self._registry.fetch_stake(provider, Role.PROVIDER)

    async def fetch_is_validator(self, account: bytes) -> bool:
        """See `chain_view.ChainView`."""
        return await self._registry.fetch_is_active(account, Role.VALIDATOR)

    async def fetch_service(self, service_id: bytes) -> ServiceTerms | None:
        """See `chain_view.ChainView`."""
        service = await self._registry.fetch_service(service_id)
        return None if service is None else ServiceTerms(service.name, service.kind, service.manifest, service.builder)

    async def fetch_offer(self, provider: bytes, service_id: bytes) -> OfferTerms | None:
        """See `chain_view.ChainView`."""
        offer = await self._registry.fetch_offer(provider, service_id)
        if offer is None:
            return None
        return OfferTerms(offer.price_in, offer.price_out, offer.grade, offer.manifest, offer.seq)

    async def fetch_court_record(self, provider: bytes, service_id: bytes) -> CourtRecord:
        """See `chain_view.ChainView`."""
        standing = await self._court.fetch_standing(CaseKind.CHEAT, provider, service_id)
        return CourtRecord(standing.open_cases, standing.settled_until_s > 0)


class ChainPayments:
    """Settles payments from the gateway's own account, whose sender is given; `rpc`'s life is the caller's."""

    def __init__(self, rpc: ChainRpc, deployment: Deployment, sender: Sender) -> None:
        self._client = PaymentsClient(rpc, deployment)
        self._sender = sender

    async def has_upto(self) -> bool:
        """See `x402_settle.PaymentChain`."""
        return await self._client.has_upto()

    def require_signed(self, payment: Payment) -> None:
        """See `x402_settle.PaymentChain`."""
        self._client.require_signed(payment)

    async def fetch_standing(self, payment: Payment) -> Standing:
        """See `x402_settle.PaymentChain`."""
        return await self._client.fetch_standing(payment)

    async def simulate(self, payment: Payment, amount_nano: int) -> None:
        """See `x402_settle.PaymentChain`."""
        await self._client.simulate(payment, amount_nano, self._sender.account)

    async def settle(self, payment: Payment, amount_nano: int) -> bytes:
        """See `x402_settle.PaymentChain`."""
        return (await self._client.settle(self._sender, payment, amount_nano)).tx_hash
