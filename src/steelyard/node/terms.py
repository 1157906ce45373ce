"""A node's terms: what stands on chain for its services, signed again for the links, and kept true while it runs.

1. A service is sold on the terms of its standing offer, or not at all.
2. When an offer changes the gateways are told at once. Orders that were on their way on the former prices are still
   taken for some seconds.
3. What is staked limits the orders that are taken, as gateways limit those that they send (checking.md, section 10).
4. While the chain is silent the last terms stand.

Law: docs/spec/node.md, section 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import replace

import structlog

from steelyard.chain.registry import StandingOffer
from steelyard.errors import ChainError, ConfigError
from steelyard.link.port import SignedOffer
from steelyard.node.chain_view import ContractChain, NodeChain
from steelyard.node.orders import NodeService
from steelyard.protocol.cid import Cid
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import Offer
from steelyard.protocol.pricing import format_yard
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.services.manifest import Manifest, encode_manifest, manifest_digest
from steelyard.verification.economics import largest_order_nano

OFFER_LOOK_S = 5.0
FORMER_MS = 5_000
"""How long the former prices are taken after an offer changed."""

_log = structlog.get_logger("steelyard.node")


async def load_terms(
    chain: ContractChain, key: SigningKey, domain: Domain, manifest: Manifest, *, wallet: str
) -> SignedOffer:
    """Return the terms that stand on chain for a service, signed again for the links.

    `manifest` is what this machine would serve; no engine is needed to ask. `wallet` is the key's name, for advice.

    Raises:
        ConfigError: not registered, registered with another manifest, or not offered; says which commands mend it.
        ChainError: the chain is silent.
    """
    name, encoded = manifest.name, encode_manifest(manifest)
    registered, standing = await chain.fetch_terms(key.account, service_id(name))
    if registered is None:
        raise ConfigError(f"the service {name!r} is not registered: run steelyard services register {name}")
    if registered.manifest != manifest_digest(encoded):
        raise ConfigError(
            f"the service {name!r} is registered with the manifest {Cid(registered.manifest)}, this machine's weights "
            f"and engine give {Cid(manifest_digest(encoded))}: they differ, so it can't be served here"
        )
    if standing is None or standing.manifest != registered.manifest:
        offering = f"steelyard offer set {name} --price-in N --price-out N --wallet {wallet}"
        missing_nano = await chain.fetch_missing_stake(key.account)
        if missing_nano:
            staking = f"steelyard stake provider {format_yard(missing_nano)} --wallet {wallet}"
            raise ConfigError(f"{wallet} doesn't offer {name!r}, and must stake first: run {staking}, then {offering}")
        raise ConfigError(f"{wallet} doesn't offer {name!r}: run {offering}")
    return sign_standing(standing, name, encoded, key, domain)


def sign_standing(standing: StandingOffer, name: str, manifest: bytes, key: SigningKey, domain: Domain) -> SignedOffer:
    """Return the provider's standing offer, signed for the links."""
    offer = Offer(
        key.account,
        standing.service_id,
        standing.price_in,
        standing.price_out,
        standing.grade,
        standing.manifest,
        standing.seq,
    )
    return SignedOffer(offer, key.sign(domain.digest(offer.struct_hash())), name, manifest)


class TermsWatch:
    """Keeps the services on sale as the chain has them, and `largest_nano`, the highest cost of an order.

    Args:
        on_sale: by service id; services whose offer is withdrawn are taken out, and put back when one stands again.
        tell: sends what is on sale to all links. now_ms: Unix milliseconds.
    """

    def __init__(
        self,
        chain: NodeChain,
        key: SigningKey,
        domain: Domain,
        on_sale: MutableMapping[bytes, NodeService],
        tell: Callable[[], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._key = key
        self._domain = domain
        self._on_sale = on_sale
        self._tell = tell
        self._now_ms = now_ms
        self._known = dict(on_sale)
        self._seqs = {service: offered.signed_offer.offer.seq for service, offered in on_sale.items()}
        self._is_told_again = True
        self.largest_nano = 0

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await asyncio.sleep(OFFER_LOOK_S)
            try:
                await self.look()
            except ChainError as error:
                _log.warning("offers_unread", code=error.code, reason=error.message)

    async def look(self) -> None:
        """Take over what changed, and tell the links; raises ChainError."""
        await self.look_at_stake()
        standing = {service: await self._chain.fetch_offer(self._key.account, service) for service in self._known}
        is_changed = [self._take_over(service, offer) for service, offer in standing.items()]
        if any(is_changed) or not self._is_told_again:
            # twice: a link that came up meanwhile may have been told the former offers
            self._is_told_again = not any(is_changed)
            self._tell()

    async def look_at_stake(self) -> None:
        """Take over what the stake allows; raises ChainError."""
        largest = largest_order_nano(await self._chain.fetch_stake(self._key.account))
        if largest != self.largest_nano:
            _log.info("largest_order_changed", nano=largest)
            self.largest_nano = largest

    def _take_over(self, service: bytes, standing: StandingOffer | None) -> bool:
        if standing is None or standing.seq <= self._seqs[service]:
            return False  # as it was, or read from an endpoint that lags behind
        self._seqs[service] = standing.seq
        known = self._known[service]
        name, manifest, former = known.signed_offer.service, known.signed_offer.manifest, known.signed_offer.offer
        if standing.manifest != former.manifest:
            _log.warning("offer_withdrawn", service=name)
            return self._on_sale.pop(service, None) is not None
        signed = sign_standing(standing, name, manifest, self._key, self._domain)
        changed = replace(known, signed_offer=signed, former=former, former_until_ms=self._now_ms() + FORMER_MS)
        self._known[service] = self._on_sale[service] = changed
        _log.info("offer_changed", service=name, price_in=standing.price_in, price_out=standing.price_out)
        return True
