"""The node process: opens what it is made of, keeps a link to every gateway, and ends in order.

Law: docs/spec/node.md, section 1.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence

import structlog

from steelyard.errors import ConfigError
from steelyard.link.client import LinkClient
from steelyard.link.limits import LinkLimits
from steelyard.link.port import SignedOffer
from steelyard.node.chain_view import ContractChain
from steelyard.node.discovery import LinkAddress
from steelyard.node.node import Node, NodeParts
from steelyard.node.orders import NodeService
from steelyard.protocol.cid import Cid
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import Offer
from steelyard.protocol.signing import Domain, SigningKey
from steelyard.services.port import Service, encode_manifest, manifest_digest

DRAIN_S = 3.0
"""How long calls in flight may go on when the process is asked to stop."""

_GC_THRESHOLDS = (20_000, 20, 20)
_log = structlog.get_logger("steelyard.node")


async def load_terms(
    chain: ContractChain,
    key: SigningKey,
    domain: Domain,
    service: Service,
    apis: frozenset[str],
    *,
    max_calls: int = 0,
) -> NodeService:
    """Return a service with the terms that stand on chain for it, signed again for the links.

    `max_calls` is what the service's engine bears at once; zero sets no bound of its own.

    Raises:
        ConfigError: not registered, registered with another manifest, or not offered; says which command mends it.
        ChainError: the chain is silent.
    """
    name = service.manifest.name
    manifest = encode_manifest(service.manifest)
    registered, standing = await chain.fetch_terms(key.account, service_id(name))
    if registered is None:
        raise ConfigError(f"the service {name!r} is not registered: run steelyard services register {name}")
    if registered.manifest != manifest_digest(manifest):
        raise ConfigError(
            f"the service {name!r} is registered with the manifest {Cid(registered.manifest)}, this machine's weights "
            f"and engine give {Cid(manifest_digest(manifest))}: they differ, so it can't be served here"
        )
    if standing is None or standing.manifest != registered.manifest:
        raise ConfigError(f"no offer stands for {name!r}: run steelyard offer set {name} --price-in N --price-out N")
    offer = Offer(
        key.account,
        standing.service_id,
        standing.price_in,
        standing.price_out,
        standing.grade,
        standing.manifest,
        standing.seq,
    )
    signed = SignedOffer(offer, key.sign(domain.digest(offer.struct_hash())), name, manifest)
    return NodeService(service, apis, signed, max_calls)


async def serve(
    parts: NodeParts,
    gateways: Sequence[LinkAddress],
    stop: asyncio.Event,
    *,
    limits: LinkLimits | None = None,
    on_ready: Callable[[], None],
) -> None:
    """Run a node until `stop` is set, then end its calls, send its last batches and close its links.

    Args:
        parts: opened by the caller, who closes database, writer and services after. gateways: where to dial.
        on_ready: called once, when the lanes are read back and the links begin to dial.
    """
    node = Node(parts)
    await node.open()
    clients = [
        LinkClient(address.url, parts.key, parts.domain, node, offers=lambda: node.offers, limits=limits,
                   gateway=address.gateway)
        for address in gateways
    ]  # fmt: skip
    tasks = [asyncio.create_task(client.run()) for client in clients]
    work = asyncio.create_task(node.run())
    stopping = asyncio.create_task(stop.wait())
    # What was imported and opened lives for ever; calls make few cycles. Both spare the collector's passes.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    on_ready()
    try:
        done, _ = await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        if work in done:
            work.result()
    finally:
        await node.close(DRAIN_S)
        await asyncio.gather(*(client.aclose() for client in clients))
        for task in (*tasks, work, stopping):
            task.cancel()
        await asyncio.gather(*tasks, work, stopping, return_exceptions=True)
        _log.info("node_stopped")
