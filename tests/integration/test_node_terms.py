"""A node's terms while it runs: an offer that changes on chain reaches the gateways, and orders follow it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.link_world import until
from tests.node_world import PRICE_IN, PRICE_OUT, NodeWorld, build_echo, offer_service, open_node_world

from steelyard.errors import ChainUnreachable
from steelyard.node import terms
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Offer
from steelyard.verification.parameters import SHIPPED


def _stand(world: NodeWorld, **changes: Any) -> Offer:
    """Let a changed offer stand on chain."""
    first = offer_service(build_echo()).signed_offer.offer
    offer: Offer = msgspec.structs.replace(first, **changes)
    world.chain.offer(offer)
    return offer


def _told(world: NodeWorld) -> list[Offer]:
    assert world.gateway.link is not None
    return [signed.offer for signed in world.gateway.link.offers]


async def _answer(world: NodeWorld, **changes: Any) -> str:
    """Send one order; return its failure's code, or nothing."""
    call = world.order("hello", **{"max_cost": 1_000, **changes})
    await call.ended.wait()
    return call.failure.code if call.failure else ""


def test_changed_price_reaches_the_gateway_and_former_orders_are_still_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link has the new offer; orders at either price are served for some seconds, then at the new one alone."""
    monkeypatch.setattr(terms, "OFFER_LOOK_S", 0.05)
    monkeypatch.setattr(terms, "FORMER_MS", 400)

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            assert await _answer(world, price_in=PRICE_IN + 5) == "bad_order"
            offer = _stand(world, price_in=PRICE_IN + 5, seq=2)
            await until(lambda: _told(world) == [offer])
            assert await _answer(world) == ""
            assert await _answer(world, price_in=PRICE_IN + 5) == ""
            assert await _answer(world, price_in=PRICE_IN + 5, price_out=PRICE_OUT + 1) == "bad_order"
            await asyncio.sleep(0.5)
            assert await _answer(world) == "bad_order"
            assert await _answer(world, price_in=PRICE_IN + 5) == ""

    asyncio.run(story())


def test_withdrawn_offer_ends_the_sale_until_one_stands_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is on sale while the offer is withdrawn; a lagging endpoint or a silent chain doesn't bring it back."""
    monkeypatch.setattr(terms, "OFFER_LOOK_S", 0.05)

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            _stand(world, manifest=ZERO32, seq=2)
            await until(lambda: _told(world) == [])
            assert await _answer(world) == "not_served"
            _stand(world, seq=1)
            world.chain.is_silent = True
            await asyncio.sleep(0.15)
            assert await _answer(world) == "not_served"
            world.chain.is_silent = False
            offer = _stand(world, price_out=PRICE_OUT + 1, seq=3)
            await until(lambda: _told(world) == [offer])
            assert await _answer(world, price_out=PRICE_OUT + 1) == ""

    asyncio.run(story())


def test_link_that_missed_the_change_is_told_with_the_next_look(tmp_path: Path) -> None:
    """A change is told twice, a look apart, and then no more; a chain that can't be read changes nothing."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            watch, told = world.node._terms, []
            watch._tell = lambda: told.append(world.node.offers)
            await watch.look()
            _stand(world, price_in=PRICE_IN + 5, seq=2)
            for _ in range(4):
                await watch.look()
            assert [[signed.offer.seq for signed in offers] for offers in told] == [[2], [2]]
            world.chain.is_silent = True
            with pytest.raises(ChainUnreachable):
                await watch.look()

    asyncio.run(story())


def test_slashed_stake_lowers_the_orders_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest order is the stake over the floor, as of the last look at the chain; one nano more is refused."""
    monkeypatch.setattr(terms, "OFFER_LOOK_S", 0.05)

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            assert await _answer(world, max_cost=1_000) == ""
            world.chain.stake_nano = 500 * SHIPPED.stake_floor_orders

            await until(lambda: world.node._terms.largest_nano == 500)
            assert await _answer(world, max_cost=501) == "order_too_large"
            assert await _answer(world, max_cost=500) == ""

    asyncio.run(story())


def test_node_that_states_a_region_tells_it_with_its_offers(tmp_path: Path) -> None:
    """The gateway hears it over the link, and sends orders as before."""

    async def story() -> None:
        async with open_node_world(tmp_path, region="eu-west-1") as world:
            assert world.gateway.link is not None
            assert [signed.region for signed in world.gateway.link.offers] == ["eu-west-1"]
            assert [signed.region for signed in world.node.offers] == ["eu-west-1"]
            assert await _answer(world) == ""

    asyncio.run(story())
