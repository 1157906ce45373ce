"""Whom a running node serves: looked up again and again, since gateways come, move and go.

1. A gateway that was found once is served until the registry drops it; one that is named by URL, for ever. Of several
   processes behind one URL each has a link.
2. One that doesn't answer is told once, and looked for again with the next look.
3. The start waits for the first of them to answer.
4. The registry's events are read once, and those of the newest blocks again: a block may have been replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import structlog

from steelyard.chain.directory import Directory
from steelyard.chain.indexer import fetch_events
from steelyard.cli.chain_access import ChainAccess
from steelyard.errors import ConfigError
from steelyard.node.discovery import LinkAddress, find_links

REGISTRY = "registry"
REPLACED_BLOCKS = 64
PATIENCE_S = 30.0
RETRY_S = 1.0
_log = structlog.get_logger("steelyard.cli")


class GatewayFinder:
    """Finds the links of the gateways that the settings name; ``registry`` means all that are registered."""

    def __init__(self, chain: ChainAccess, wanted: Sequence[str]) -> None:
        self._chain = chain
        self._wanted = tuple(wanted)
        self._registered = Directory()
        self._next_block = chain.deployment.block
        self._found: dict[tuple[str, bytes | None], list[LinkAddress]] = {}
        self._silent: dict[tuple[str, bytes | None], str] = {}

    async def find_first(self, stop: asyncio.Event) -> list[LinkAddress]:
        """Return the links to begin with, as soon as there is one; none once `stop` is set.

        Raises:
            ConfigError: none answers within half a minute. ChainError: the registry can't be read.
        """
        loop = asyncio.get_running_loop()
        deadline, is_told = loop.time() + PATIENCE_S, False
        while not stop.is_set():
            if found := await self.find():
                return found
            reasons = list(self._silent.values()) or ["the registry has none"]
            if loop.time() >= deadline:
                raise ConfigError(f"no gateway to serve was found: {'; '.join(reasons)}; name one with --gateway URL")
            if not is_told:
                _log.warning("gateway_awaited", seconds=PATIENCE_S, reasons=reasons)
                is_told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)
        return []

    async def find(self) -> list[LinkAddress]:
        """Return the links to keep now; raises ChainError while the registry can't be read."""
        wanted = [(url, account) for url, account in (await self._urls()).items()]
        self._found = {named: link for named, link in self._found.items() if named in wanted}
        self._silent = {named: reason for named, reason in self._silent.items() if named in wanted}
        await asyncio.gather(*(self._find_one(*named) for named in wanted))
        return [link for links in self._found.values() for link in links]

    async def _find_one(self, url: str, account: bytes | None) -> None:
        named = url, account
        try:
            self._found[named] = await find_links(url, salt=self._chain.deployment.salt, expected=account)
            self._silent.pop(named, None)
        except ConfigError as error:
            if named not in self._silent:
                _log.warning("gateway_silent", reason=error.message)
            self._silent[named] = error.message

    async def _urls(self) -> Mapping[str, bytes | None]:
        urls: dict[str, bytes | None] = {url: None for url in self._wanted if url != REGISTRY}
        if REGISTRY in self._wanted:
            await self._read_registry()
            urls |= {url: account for account, url in self._registered.gateways.items()}
        return urls

    async def _read_registry(self) -> None:
        chain = self._chain
        newest = await chain.rpc.block_number()
        async for logs in fetch_events(chain.rpc, [chain.deployment.registry], self._next_block, newest):
            events = chain.registry.decode_events(logs)
            self._registered.apply(event for event in events if event.name == "GatewaySet")
        self._next_block = max(self._next_block, newest - REPLACED_BLOCKS)
