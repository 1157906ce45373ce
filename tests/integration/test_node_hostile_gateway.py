"""What a hostile or a restored gateway can't do to a node, and what a restored node doesn't do to itself."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.link_world import LIMITS, until
from tests.node_world import (
    DOMAIN,
    GATEWAY_KEY,
    PROVIDER_KEY,
    HandGateway,
    NodeWorld,
    build_echo,
    offer_service,
    open_node_world,
)

from steelyard.link.client import LinkClient
from steelyard.link.port import ProviderLink, SignedOffer
from steelyard.link.server import LinkServer
from steelyard.protocol.lanes import LaneState, SignedVoucher, sign_voucher
from steelyard.protocol.signing import SigningKey

HOSTILE_KEY = SigningKey(b"\x77" * 32)


class HostileGateway(HandGateway):
    """Says that it knows a lane which isn't its own."""

    async def admit_provider(self, provider: bytes, offers: Sequence[SignedOffer]) -> None:
        """Let anyone in."""


async def served(world: NodeWorld, text: str) -> None:
    """Have one order served and batched."""
    before = world.gateway.paid_nano
    call = world.order(text)
    await call.ended.wait()
    assert call.failure is None
    await until(lambda: world.gateway.paid_nano > before)


def count_ups(world: NodeWorld, resent: SignedVoucher) -> list[ProviderLink]:
    """Let the gateway send a voucher with every link that comes up, as a real one does; return the links."""
    ups: list[ProviderLink] = []
    plain = world.gateway.on_link_up

    def up(link: ProviderLink) -> None:
        plain(link)
        ups.append(link)
        link.send_voucher(resent)

    world.gateway.on_link_up = up  # type: ignore[method-assign]
    return ups


def test_call_cancelled_before_its_first_step_ends_and_frees_its_credit(tmp_path: Path) -> None:
    """An order and its cancellation in one message leave no run, no reservation and no open call behind."""

    async def story() -> None:
        async with open_node_world(tmp_path, services=[offer_service(build_echo(delay_ms=1))]) as world:
            calls = []
            for _ in range(5):
                calls.append(world.order("hello"))
                assert world.gateway.link is not None
                world.gateway.link.cancel_call(calls[-1].call_id)
            await asyncio.wait_for(asyncio.gather(*(call.ended.wait() for call in calls)), 5)
            assert [call.failure.code for call in calls if call.failure] == ["cancelled"] * 5
            assert world.node.calls_in_flight == 0
            await served(world, "still well")

    asyncio.run(story())


def test_gateway_that_names_anothers_lane_is_refused_and_hurts_nobody(tmp_path: Path) -> None:
    """A staked stranger who claims to know another gateway's lane is dropped; the other's orders go on."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            await served(world, "hello")
            world.chain.staked.add(HOSTILE_KEY.account)
            hostile = HostileGateway()
            hostile.lanes = {world.gateway.lane: LaneState(lane=world.gateway.lane, seq=10**6)}
            server = LinkServer(HOSTILE_KEY, DOMAIN, hostile, LIMITS)
            port = await server.start("127.0.0.1", 0)
            client = LinkClient(f"ws://127.0.0.1:{port}", PROVIDER_KEY, DOMAIN, world.node, limits=LIMITS)
            dialling = asyncio.create_task(client.run())
            await asyncio.sleep(0.5)
            assert client.link is None
            await served(world, "hello again")
            await client.aclose()
            dialling.cancel()
            await asyncio.gather(dialling, return_exceptions=True)
            await server.aclose()

    asyncio.run(story())


def test_gateway_restored_from_a_backup_stays_linked_and_learns_the_rest(tmp_path: Path) -> None:
    """A voucher that was held before is recorded and passed over; the batches after it are sent again."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            await served(world, "a")
            then = dict(world.gateway.lanes)
            resent = sign_voucher(then[world.gateway.lane], GATEWAY_KEY, DOMAIN)
            await asyncio.sleep(0.3)
            await served(world, "b")
            await asyncio.sleep(0.3)
            await world.server.aclose()
            world.gateway.lanes = then
            world.gateway.claimed.clear()
            ups, batches = count_ups(world, resent), len(world.gateway.batches)
            world.gateway.up.clear()
            world.server = LinkServer(GATEWAY_KEY, DOMAIN, world.gateway, LIMITS)
            await world.server.start("127.0.0.1", world.port)
            await until(lambda: len(world.gateway.batches) > batches)
            await asyncio.sleep(1.0)
            assert len(ups) == 1
            assert world.client.link is not None
            assert world.client.link.is_up

    asyncio.run(story())


def test_node_restored_from_a_backup_stays_linked_and_refuses_the_lost_lane(tmp_path: Path) -> None:
    """Its gateway's later voucher drops nothing; orders on the lane are answered ``lane_lost``, never signed anew."""

    async def story() -> None:
        async with open_node_world(tmp_path) as world:
            await served(world, "a")
            await asyncio.sleep(0.3)
            await world.kill_node()
            kept = [(file, tmp_path / f"kept-{file.name}") for file in tmp_path.glob("node.db*")]
            for file, copy in kept:
                shutil.copy(file, copy)
            world.gateway.up.clear()
            await world.start_node()
            await served(world, "b")
            await asyncio.sleep(0.4)
            await world.kill_node()
            for file in tmp_path.glob("node.db*"):
                file.unlink()
            for file, copy in kept:
                shutil.copy(copy, file)
            ups = count_ups(world, sign_voucher(world.gateway.lanes[world.gateway.lane], GATEWAY_KEY, DOMAIN))
            world.gateway.up.clear()
            await world.start_node()
            await asyncio.sleep(1.0)
            assert len(ups) == 1
            call = world.order("c")
            await call.ended.wait()
            assert call.failure is not None
            assert call.failure.code == "lane_lost"

    asyncio.run(story())
