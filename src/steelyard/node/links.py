"""The links of a node process: one to each gateway that is to be served, for as long as it is.

Law: docs/spec/node.md, section 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from steelyard.errors import SteelyardError
from steelyard.link.client import LinkClient
from steelyard.node.discovery import LinkAddress

LOOK_S = 15.0
"""How often a node looks whom to serve."""

FindGateways = Callable[[], Awaitable[Sequence[LinkAddress]]]
_log = structlog.get_logger("steelyard.node")


class GatewayLinks:
    """Dials new gateways and drops those that are gone; call `aclose`.

    Args:
        open_client: makes a client that hasn't dialled yet; raises ConfigError for an address that can't be dialled.
    """

    def __init__(self, open_client: Callable[[LinkAddress], LinkClient]) -> None:
        self._open_client = open_client
        self._clients: dict[LinkAddress, tuple[LinkClient, asyncio.Task[None]]] = {}

    @property
    def addresses(self) -> frozenset[LinkAddress]:
        """Whom links are kept up to."""
        return frozenset(self._clients)

    async def serve(self, addresses: Iterable[LinkAddress]) -> None:
        """Keep links to these gateways and no others; two addresses of one link are one."""
        wanted = set({address.url: address for address in addresses}.values())
        gone = [self._clients.pop(address) for address in self._clients.keys() - wanted]
        for address in wanted - self._clients.keys():
            try:
                client = self._open_client(address)
            except SteelyardError as error:
                _log.warning("gateway_left_out", url=address.url, reason=error.message)
                continue
            self._clients[address] = client, asyncio.create_task(client.run(), name="link")
        await _close(gone)

    async def follow(self, find: FindGateways, look_s: float = LOOK_S) -> None:
        """Look again and again whom to serve, until cancelled; who can't be found out now is served as before."""
        while True:
            await asyncio.sleep(look_s)
            try:
                found = await find()
            except SteelyardError as error:
                _log.warning("gateways_unread", code=error.code, reason=error.message)
            else:
                await self.serve(found)

    async def aclose(self) -> None:
        """Say goodbye on every link."""
        clients, self._clients = list(self._clients.values()), {}
        await _close(clients)


async def _close(clients: Sequence[tuple[LinkClient, asyncio.Task[None]]]) -> None:
    await asyncio.gather(*(client.aclose() for client, _ in clients))
    for _, task in clients:
        task.cancel()
    await asyncio.gather(*(task for _, task in clients), return_exceptions=True)
