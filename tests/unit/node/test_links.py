"""Which links a node keeps: those of the gateways that are found, no more and no fewer, whoever comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from steelyard.errors import ChainUnreachable, ConfigError
from steelyard.node.discovery import LinkAddress
from steelyard.node.links import GatewayLinks

A, B, MOVED = LinkAddress("ws://a", b"a"), LinkAddress("ws://b", b"b"), LinkAddress("ws://a2", b"a")


class _Client:
    """Runs until it is closed."""

    def __init__(self, address: LinkAddress) -> None:
        if address.url == "ws://bad":
            raise ConfigError("no such URL")
        self.address = address
        self.is_running = False
        self._closed = asyncio.Event()

    async def run(self) -> None:
        self.is_running = True
        await self._closed.wait()
        self.is_running = False

    async def aclose(self) -> None:
        self._closed.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def _tell(story: Callable[[GatewayLinks, Callable[[], list[str]]], Coroutine[Any, Any, None]]) -> list[_Client]:
    """Tell a story with links and a way to see which run; return every client that was ever made."""
    clients: list[_Client] = []

    def open_client(address: LinkAddress) -> Any:
        clients.append(_Client(address))
        return clients[-1]

    async def tell() -> None:
        links = GatewayLinks(open_client)
        await story(links, lambda: sorted(client.address.url for client in clients if client.is_running))
        await links.aclose()
        assert not any(client.is_running for client in clients)

    asyncio.run(tell())
    return clients


def test_new_gateways_are_dialled_and_gone_ones_dropped() -> None:
    """Who stays keeps its link, who moved gets a new one."""

    async def story(links: GatewayLinks, running: Callable[[], list[str]]) -> None:
        for found, expected in (([A], ["ws://a"]), ([A, B], ["ws://a", "ws://b"]), ([MOVED, B], ["ws://a2", "ws://b"])):
            await links.serve(found)
            await asyncio.sleep(0)
            assert running() == expected
        await links.serve([])
        assert running() == []

    assert len(_tell(story)) == 3


def test_two_addresses_of_one_link_are_dialled_once() -> None:
    """A gateway that is named by URL and registered too."""

    async def story(links: GatewayLinks, running: Callable[[], list[str]]) -> None:
        await links.serve([LinkAddress("ws://a"), A])
        await asyncio.sleep(0)
        assert running() == ["ws://a"]
        assert links.addresses == {A}

    _tell(story)


def test_address_that_cannot_be_dialled_hurts_no_other() -> None:
    """A registry may hold anything."""

    async def story(links: GatewayLinks, running: Callable[[], list[str]]) -> None:
        await links.serve([LinkAddress("ws://bad"), B])
        await asyncio.sleep(0)
        assert running() == ["ws://b"]

    _tell(story)


def test_silent_registry_changes_nothing_and_is_asked_again() -> None:
    """Links stand while the chain is silent; what it says afterwards counts."""
    answers: list[list[LinkAddress] | Exception] = [ChainUnreachable("silent"), [A, B], ChainUnreachable("silent")]
    seen: list[list[str]] = []

    async def story(links: GatewayLinks, running: Callable[[], list[str]]) -> None:
        async def find() -> list[LinkAddress]:
            seen.append(running())
            if not answers:
                raise asyncio.CancelledError
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        await links.serve([A])
        with pytest.raises(asyncio.CancelledError):
            await links.follow(find, look_s=0.001)

    _tell(story)
    assert seen == [["ws://a"], ["ws://a"], ["ws://a", "ws://b"], ["ws://a", "ws://b"]]
