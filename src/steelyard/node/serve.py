"""The node process: opens what it is made of, keeps a link to every gateway, and ends in order.

Law: docs/spec/node.md, section 1.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence

import structlog

from steelyard.link.client import LinkClient
from steelyard.link.limits import LinkLimits
from steelyard.node.discovery import LinkAddress
from steelyard.node.links import FindGateways, GatewayLinks
from steelyard.node.node import Node, NodeParts

DRAIN_S = 3.0
"""How long calls in flight may go on when the process is asked to stop."""

_GC_THRESHOLDS = (20_000, 20, 20)
_log = structlog.get_logger("steelyard.node")


async def serve(
    parts: NodeParts,
    gateways: Sequence[LinkAddress],
    stop: asyncio.Event,
    *,
    find: FindGateways | None = None,
    limits: LinkLimits | None = None,
    on_ready: Callable[[], None],
) -> None:
    """Run a node until `stop` is set, then end its calls, send its last batches and close its links.

    Args:
        parts: opened by the caller, who closes database, writer and services after. gateways: where to dial.
        find: asked every few seconds where to dial from now on; without it that stays as it is.
        on_ready: called once, when the lanes are read back and the links begin to dial.
    """
    node = Node(parts)
    await node.open()

    def open_client(address: LinkAddress) -> LinkClient:
        expected = address.gateway
        return LinkClient(
            address.url, parts.key, parts.domain, node, offers=lambda: node.offers, limits=limits, gateway=expected
        )

    links = GatewayLinks(open_client)
    await links.serve(gateways)
    work = asyncio.create_task(_work(node, links, find))
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
        for task in (work, stopping):
            task.cancel()
        await asyncio.gather(work, stopping, return_exceptions=True)
        await links.aclose()
        _log.info("node_stopped")


async def _work(node: Node, links: GatewayLinks, find: FindGateways | None) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(node.run())
        if find is not None:
            group.create_task(links.follow(find))
