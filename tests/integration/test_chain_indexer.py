"""Events followed on real chains: catching up, depth, reorganisations, restarts, and the escrow watch on top."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from tests.chains import CHAIN_KINDS, RunningChain, deploy_on, open_chain

from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient, GatewayAccount
from steelyard.chain.indexer import BlockEvents, Cursor, FollowPolicy, Rollback, fetch_events, follow
from steelyard.chain.records import Log
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.watch import EscrowWatch
from steelyard.chain.yard import YardClient
from steelyard.errors import ChainUnreachable
from steelyard.protocol.pricing import NANO_PER_YARD as NANO

TO = b"\x77" * 20
QUICK = FollowPolicy(poll_s=0.02, chunk_blocks=4, regress_patience_s=0.2)

Step = BlockEvents | Rollback


@asynccontextmanager
async def open_rpc(chain: RunningChain) -> AsyncIterator[ChainRpc]:
    async with ChainRpc([chain.url], chain_id=chain.chain_id, timeout_s=3.0, rounds=1) as rpc:
        yield rpc


def transferred(yard: YardClient, logs: Sequence[Log]) -> list[int]:
    return [event.values["value"] for event in yard.decode_events(logs) if event.name == "Transfer"]


async def take(steps: AsyncIterator[Step], count: int) -> list[Step]:
    return [await asyncio.wait_for(anext(steps), 20) for _ in range(count)]


async def take_values(steps: AsyncIterator[Step], yard: YardClient, count: int) -> list[int]:
    values: list[int] = []
    while len(values) < count:
        [step] = await take(steps, 1)
        assert isinstance(step, BlockEvents)
        values += transferred(yard, step.logs)
    return values


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_follow_from_the_past_catches_up_and_goes_on(kind: str) -> None:
    """A follower that begins late hands out every event once, in order, then each new one; a kept cursor goes on."""

    async def story(chain: RunningChain, deployment: Deployment) -> None:
        async with open_rpc(chain) as rpc:
            yard, sender = YardClient(rpc, deployment), Sender(rpc, chain.keys[0])
            for value in range(1, 11):
                await yard.transfer(sender, TO, value)
            steps = follow(rpc, [deployment.yard], deployment.block, policy=QUICK)
            async with aclosing(steps):
                values = await take_values(steps, yard, 11)
                assert values == [10**18, *range(1, 11)]  # the first supply, then ours
                await yard.transfer(sender, TO, 11)
                [last] = await take(steps, 1)
            assert isinstance(last, BlockEvents)
            assert last.block.number == await rpc.block_number()
            for value in (12, 13):
                await yard.transfer(sender, TO, value)
            again = follow(rpc, [deployment.yard], deployment.block, cursors=[last.cursor], policy=QUICK)
            async with aclosing(again):
                assert await take_values(again, yard, 2) == [12, 13]
            fetched = [
                value
                async for logs in fetch_events(rpc, [deployment.yard], 0, await rpc.block_number(), chunk_blocks=3)
                for value in transferred(yard, logs)
            ]
            assert fetched == [10**18, *range(1, 14)]

    with open_chain(kind) as chain:
        asyncio.run(story(chain, deploy_on(chain)))


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_follow_with_depth_waits_for_blocks_above(kind: str) -> None:
    """With depth 2 an event comes once two blocks stand above its own, and not before."""

    async def story(chain: RunningChain, deployment: Deployment) -> None:
        async with open_rpc(chain) as rpc:
            yard, sender = YardClient(rpc, deployment), Sender(rpc, chain.keys[0])
            receipt = await yard.transfer(sender, TO, 5)
            policy = FollowPolicy(depth=2, poll_s=0.02)
            async with aclosing(follow(rpc, [deployment.yard], receipt.block_number, policy=policy)) as steps:
                waiting = asyncio.ensure_future(anext(steps))
                await asyncio.to_thread(chain.advance_time, 1)
                await asyncio.sleep(0.15)
                assert not waiting.done()
                await asyncio.to_thread(chain.advance_time, 1)
                step = await asyncio.wait_for(waiting, 10)
            assert isinstance(step, BlockEvents)
            assert step.block.number == receipt.block_number

    with open_chain(kind) as chain:
        asyncio.run(story(chain, deploy_on(chain)))


def test_follow_reorganised_chain_rolls_back_to_the_shared_block() -> None:
    """When the chain takes other blocks, the follower names the last shared one, then hands out the new ones."""

    async def story(chain: RunningChain, deployment: Deployment) -> None:
        async with open_rpc(chain) as rpc:
            yard = YardClient(rpc, deployment)
            head = await rpc.block_number()
            async with aclosing(follow(rpc, [deployment.yard], head + 1, policy=QUICK)) as steps:
                await yard.transfer(Sender(rpc, chain.keys[0]), TO, 1)
                [first] = await take(steps, 1)
                snapshot = chain.call("evm_snapshot")
                await yard.transfer(Sender(rpc, chain.keys[0]), TO, 2)
                await take(steps, 1)
                await yard.transfer(Sender(rpc, chain.keys[0]), TO, 3)
                await take(steps, 1)
                chain.call("evm_revert", snapshot)
                await yard.transfer(Sender(rpc, chain.keys[0]), TO, 4)
                rolled, fourth = await take(steps, 2)
            assert isinstance(first, BlockEvents)
            assert rolled == Rollback(first.cursor)
            assert isinstance(fourth, BlockEvents)
            assert transferred(yard, fourth.logs) == [4]

    with open_chain("anvil") as chain:
        asyncio.run(story(chain, deploy_on(chain)))


def test_follow_chain_that_lost_its_blocks_rolls_back_after_patience() -> None:
    """A chain that is shorter than the cursor for longer than an endpoint lags has lost its blocks."""

    async def story(chain: RunningChain, deployment: Deployment) -> None:
        async with open_rpc(chain) as rpc:
            yard = YardClient(rpc, deployment)
            start = await rpc.block()
            assert start is not None
            kept = Cursor(start.number, start.hash)
            snapshot = chain.call("evm_snapshot")
            await yard.transfer(Sender(rpc, chain.keys[0]), TO, 1)
            async with aclosing(follow(rpc, [deployment.yard], 0, cursors=[kept], policy=QUICK)) as steps:
                await take(steps, 1)
                chain.call("evm_revert", snapshot)
                [rolled] = await take(steps, 1)
            assert rolled == Rollback(kept)
            stranger = Cursor(start.number, b"\x01" * 32)
            async with aclosing(follow(rpc, [deployment.yard], 0, cursors=[stranger], policy=QUICK)) as steps:
                rolled, beginning = await take(steps, 2)
            assert rolled == Rollback(None)
            assert isinstance(beginning, BlockEvents)

    with open_chain("anvil") as chain:
        asyncio.run(story(chain, deploy_on(chain)))


def test_follow_embedded_chain_killed_and_restarted_loses_nothing() -> None:
    """Across kill -9 of the chain the follower waits, and goes on with the next block, without a rollback."""

    async def story(chain: RunningChain, deployment: Deployment) -> None:
        async with open_rpc(chain) as rpc:
            yard, sender = YardClient(rpc, deployment), Sender(rpc, chain.keys[0])
            head = await rpc.block_number()
            async with aclosing(follow(rpc, [deployment.yard], head + 1, policy=QUICK)) as steps:
                await yard.transfer(sender, TO, 1)
                await take(steps, 1)
                chain.kill()
                waiting = asyncio.ensure_future(yard.transfer(sender, TO, 2))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(chain.restart)
                with suppress(ChainUnreachable):  # refused while the chain was away; the next one must come through
                    await waiting
                await yard.transfer(sender, TO, 3)
                steps_after: list[int] = []
                while 3 not in steps_after:
                    steps_after += await take_values(steps, yard, 1)
            assert steps_after in ([3], [2, 3])

    with open_chain("embedded") as chain:
        asyncio.run(story(chain, deploy_on(chain)))


@pytest.mark.parametrize("kind", CHAIN_KINDS)
def test_watch_deposit_and_withdrawal_are_seen(kind: str) -> None:
    """A watched gateway's account follows deposits and announced withdrawals without anybody asking again."""

    async def story(chain: RunningChain, deployment: Deployment) -> None:
        async with open_rpc(chain) as rpc:
            gateway = chain.keys[0]
            escrow, sender = EscrowClient(rpc, deployment), Sender(rpc, gateway)
            watch = EscrowWatch(rpc, deployment, poll_s=0.02)
            assert watch.account(gateway.account) is None
            assert await watch.add_gateway(gateway.account) == GatewayAccount(0, 0, 0, 0)
            assert (await watch.add_lane(b"\x01" * 32)).owed_nano == 0
            running = asyncio.create_task(watch.run())
            try:
                changed = asyncio.create_task(watch.wait_change())
                await asyncio.sleep(0.1)
                await escrow.deposit(sender, gateway.account, 5 * NANO)
                await asyncio.wait_for(changed, 10)
                assert watch.account(gateway.account) == GatewayAccount(5 * NANO, 0, 0, 0)
                changed = asyncio.create_task(watch.wait_change())
                await asyncio.sleep(0)
                await escrow.announce_withdrawal(sender, NANO)
                await asyncio.wait_for(changed, 10)
                account = watch.account(gateway.account)
                assert account is not None
                assert account.is_withdrawing
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running

    with open_chain(kind) as chain:
        asyncio.run(story(chain, deploy_on(chain)))
