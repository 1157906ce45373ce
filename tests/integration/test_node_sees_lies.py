"""A gateway that signs twice: the node keeps both vouchers, proves each lie once, and accuses no honest gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.lie_court import MemoryCourt
from tests.link_world import DOMAIN, GATEWAY_KEY, PROVIDER_KEY, until
from tests.node_world import NodeWorld, open_node_world

from steelyard.protocol.hashing import keccak
from steelyard.protocol.lanes import SignedVoucher, sign_voucher
from steelyard.protocol.lies import LieKind
from steelyard.protocol.signing import SigningKey
from steelyard.storage.events import list_events
from steelyard.storage.lies import LieState, load_halves, load_lies


def sign_other(world: NodeWorld, key: SigningKey = GATEWAY_KEY, **changes: Any) -> SignedVoucher:
    """Sign for what the gateway knows, but for `changes`."""
    voucher = sign_voucher(world.gateway.lanes[world.gateway.lane], GATEWAY_KEY, DOMAIN).voucher
    voucher = msgspec.structs.replace(voucher, **changes)
    return SignedVoucher(voucher, key.sign(DOMAIN.digest(voucher.struct_hash())))


async def serve(world: NodeWorld, *texts: str) -> None:
    """Have orders served, batched, and promised by voucher."""
    for text in texts:
        before = world.gateway.paid_nano
        call = world.order(text)
        await call.ended.wait()
        assert call.failure is None
        await until(lambda before=before: world.gateway.paid_nano > before)  # type: ignore[misc]
    lane = world.gateway.lane
    await until(lambda: world.node._lanes[lane].promised == world.gateway.lanes[lane].cumulative)


def send(world: NodeWorld, signed: SignedVoucher) -> None:
    """Send a voucher over the link."""
    assert world.gateway.link is not None
    world.gateway.link.send_voucher(signed)


async def relink(world: NodeWorld) -> None:
    """Wait until the node, which dropped its gateway, is back."""
    await asyncio.sleep(0.1)
    await until(lambda: world.client.link is not None and world.client.link.is_up)
    async with asyncio.timeout(10):
        await world.gateway.up.wait()


@pytest.mark.parametrize(
    "changes", [{"cumulative": 1}, {"head": keccak(b"elsewhere")}, {"count": 1, "cumulative": 10**9}, {"count": 7}]
)
def test_voucher_that_contradicts_a_held_one_is_proven_once(tmp_path: Path, changes: dict[str, Any]) -> None:
    """One count or head with two meanings, more calls for less; sent twice it is one lie."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_node_world(tmp_path, court=court) as world:
            await serve(world, "one", "two")
            lie = sign_other(world, **changes)
            send(world, lie)
            await until(lambda: bool(court.sent))
            await relink(world)
            send(world, lie)
            await asyncio.sleep(0.3)
            (sent,) = court.sent
            assert (sent.kind, sent.liar) == (LieKind.TWO_VOUCHERS, GATEWAY_KEY.account)
            codes = {event.code for event in await list_events(world.database)}
            assert codes >= {"lie_found", "lie_proven"}

    asyncio.run(story())


def test_voucher_ahead_is_the_half_of_a_lie_once_its_count_is_reached(tmp_path: Path) -> None:
    """A total that nobody served is refused; after a kill the honest voucher for that count is the other half."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_node_world(tmp_path, court=court) as world:
            await serve(world, "one")
            send(world, sign_other(world, count=2, cumulative=10**9, head=keccak(b"nowhere")))
            await asyncio.sleep(0.3)
            assert court.sent == []
            assert len(await load_halves(world.database)) == 1
            await world.restart_gateway()  # or its session would send the same voucher for ever
            await world.kill_node()
            world.gateway.up.clear()
            await world.start_node()
            await serve(world, "two")
            await until(lambda: len(court.sent) == 1)

    asyncio.run(story())


def test_lie_found_before_a_kill_is_proven_after_it(tmp_path: Path) -> None:
    """While the chain is silent both halves lie on disk; the node's next life proves it."""

    async def story() -> None:
        court = MemoryCourt(is_silent=True)
        async with open_node_world(tmp_path, court=court) as world:
            await serve(world, "one")
            send(world, sign_other(world, cumulative=1))
            await until(lambda: bool(world.node.faults.counts))
            await world.kill_node()
            court.is_silent = False
            world.gateway.up.clear()
            await world.start_node()
            await until(lambda: len(court.sent) == 1, timeout_s=20)
            async with asyncio.timeout(10):
                while [row.state for row in await load_lies(world.database)] != [LieState.PROVEN]:  # noqa: ASYNC110  # on disk
                    await asyncio.sleep(0.02)

    asyncio.run(story())


def test_voucher_forged_by_another_accuses_nobody(tmp_path: Path) -> None:
    """Only what the gateway signed counts against it."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_node_world(tmp_path, court=court) as world:
            await serve(world, "one")
            send(world, sign_other(world, PROVIDER_KEY, cumulative=1))
            await asyncio.sleep(0.5)
            assert court.sent == []
            assert await load_halves(world.database) == []

    asyncio.run(story())


def test_honest_gateway_is_never_accused(tmp_path: Path) -> None:
    """Old vouchers again, a gateway restored from a backup, one without memory that opens new lanes, node restarts."""

    async def story() -> None:
        court = MemoryCourt()
        async with open_node_world(tmp_path, court=court) as world:
            await serve(world, "one")
            lane = world.gateway.lane
            old = dict(world.gateway.lanes)
            first = sign_voucher(old[lane], GATEWAY_KEY, DOMAIN)
            await serve(world, "two", "three")
            for _ in range(2):
                send(world, first)
                await asyncio.sleep(0.2)
                await relink(world)
            await world.restart_gateway()
            await serve(world, "four")
            world.gateway.is_signing, paid = False, world.gateway.paid_nano
            await world.order("unpaid").ended.wait()
            await until(lambda: world.gateway.paid_nano > paid)
            await world.restart_gateway(is_forgetful=True)
            world.gateway.is_signing = True
            await until(lambda: any(claim.lane == lane for claim in world.gateway.claims))
            await serve(world, "five")
            await world.kill_node()
            world.gateway.up.clear()
            await world.start_node()
            await serve(world, "six")
            await asyncio.sleep(0.3)
            assert court.sent == []
            assert await load_lies(world.database) == []
            assert await load_halves(world.database) == []

    asyncio.run(story())
