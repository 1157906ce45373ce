"""Redemption: on the real contracts of an embedded chain, and by hand for what a real chain rarely does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.chains import RunningChain, deploy_on, open_chain
from tests.link_world import DOMAIN, GATEWAY_KEY, PROVIDER_KEY, until
from tests.node_world import PRICE_IN, PRICE_OUT, SERVICE_NAME, NodeWorld, build_echo, offer_service, open_node_world

from steelyard.audit.run import run_audit
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role, Split
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.node.chain_view import ContractChain
from steelyard.node.orders import NodeService
from steelyard.node.terms import load_terms
from steelyard.protocol.calls_blob import decode_calls
from steelyard.protocol.cid import Cid
from steelyard.protocol.pricing import NANO_PER_YARD
from steelyard.services.echo import EchoService
from steelyard.services.port import encode_manifest, manifest_digest
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.node_ledger import load_redemptions

YARD = NANO_PER_YARD
SPLIT = Split(7_000, 1_500, 1_000, 500)
TERMS = CourtTerms(reveal_s=1, commit_s=1, vote_s=1, appeal_s=1, keep_s=1, evidence_s=1)
PARAMETERS = DeploymentParameters(
    withdraw_delay_s=60,
    unbond_delay_s=120,
    epoch_s=10,
    min_stakes_nano=(YARD, YARD, YARD),
    court=TERMS,
    salt=DOMAIN.salt,
)


class Market:
    """A deployment with the tests' gateway and provider staked, `echo-1` registered and offered."""

    def __init__(self, rpc: ChainRpc, deployment: Deployment, chain: RunningChain) -> None:
        self.registry = RegistryClient(rpc, deployment)
        self.escrow = EscrowClient(rpc, deployment)
        self.owner = Sender(rpc, chain.keys[0])
        self.gateway, self.provider = Sender(rpc, GATEWAY_KEY), Sender(rpc, PROVIDER_KEY)
        self.rpc, self.deployment = rpc, deployment

    async def prepare(self, deposit_nano: int) -> None:
        """Fund, stake, register, offer, deposit."""
        for key in (GATEWAY_KEY, PROVIDER_KEY):
            await self.owner.send(key.account, value_wei=10**18)
            await self.registry.yard.transfer(self.owner, key.account, 100 * YARD)
        await self.registry.stake(self.gateway, Role.GATEWAY, 2 * YARD)
        await self.registry.set_gateway(self.gateway, "http://127.0.0.1:1")
        await self.registry.stake(self.provider, Role.PROVIDER, 2 * YARD)
        service = build_echo()
        digest = manifest_digest(encode_manifest(service.manifest))
        await self.registry.register_service(self.owner, SERVICE_NAME, "echo", digest, SPLIT, self.owner.account)
        offer = offer_service(service).signed_offer
        await self.registry.set_offer(self.provider, offer.offer, offer.signature)
        await self.escrow.deposit(self.gateway, GATEWAY_KEY.account, deposit_nano)


@asynccontextmanager
async def _open_market(
    folder: Path, chain: RunningChain, deployment: Deployment, deposit_nano: int, **settings: Any
) -> AsyncIterator[tuple[Market, NodeWorld]]:
    assert deployment.domain.separator == DOMAIN.separator
    async with ChainRpc([chain.url], chain_id=chain.chain_id) as rpc:
        market = Market(rpc, deployment, chain)
        await market.prepare(deposit_nano)
        view = ContractChain(rpc, deployment, market.provider, poll_s=0.1)
        service = build_echo()
        offer = await load_terms(view, PROVIDER_KEY, DOMAIN, service.manifest, wallet="me")
        terms = NodeService(service, EchoService.apis, offer)
        async with open_node_world(folder, view=view, services=[terms], **settings) as world:
            yield market, world


async def _serve(world: NodeWorld, count: int, text: str = "hello there") -> int:
    calls = [world.order(text) for _ in range(count)]
    await asyncio.gather(*(call.ended.wait() for call in calls))
    assert [call.failure for call in calls] == [None] * count
    return sum(call.receipt.cost for call in calls if call.receipt)


async def _paid(market: Market, world: NodeWorld) -> int:
    return (await market.escrow.fetch_lane(world.gateway.lane.key)).paid_nano


async def _wait_paid(market: Market, world: NodeWorld, nano: int) -> None:
    async with asyncio.timeout(20):
        while await _paid(market, world) != nano:  # noqa: ASYNC110  # what is waited for is on a chain
            await asyncio.sleep(0.05)


def test_vouchers_are_redeemed_by_value_and_audited(tmp_path: Path) -> None:
    """Once enough is due the node redeems by itself: lane paid, share swept, calls published, the audit says yes.

    A second load goes into a second blob, without the calls of the first; the chain is killed and back in between.
    """
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with _open_market(tmp_path, chain, deployment, 10 * YARD, redeem_value_nano=1_000) as (market, world):
                wallet = await market.registry.yard.fetch_balance(PROVIDER_KEY.account)
                assert await _serve(world, 5) < 1_000
                await asyncio.sleep(0.8)
                assert await _paid(market, world) == 0
                cost = await _serve(world, 40) + 5 * 38
                await _wait_paid(market, world, cost)
                await until(lambda: world.node._watch.credit(GATEWAY_KEY.account).paid == cost)

                chain.kill()
                more = await _serve(world, 60)
                await asyncio.sleep(0.5)
                chain.restart()
                await _wait_paid(market, world, cost + more)

                lane_key = world.gateway.lane.key

                async def swept() -> int:
                    return await market.registry.yard.fetch_balance(PROVIDER_KEY.account) - wallet

                async with asyncio.timeout(10):
                    while (await market.escrow.fetch_unswept([PROVIDER_KEY.account]))[0]:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                recorded = await load_redemptions(world.database, lane_key)
                assert sum(item.paid_nano for item in recorded) == cost + more
                least = (cost + more) * SPLIT.provider_bps // 10_000
                assert least <= await swept() <= least + 3 * len(recorded)

                blobs = FolderBlobs(tmp_path / "blobs")
                published = [decode_calls(await blobs.get(cid)) async for cid in blobs.iterate()]
                seqs = sorted(signed.batch.seq for blob in published for signed, _ in blob.batches)
                assert seqs == list(range(1, seqs[-1] + 1))
                assert sum(len(calls) for blob in published for _, calls in blob.batches) == 105

                report = await run_audit(market.rpc, deployment, blobs)
                assert report.verdict == "yes", report.findings
                (proof,) = report.lanes
                assert (proof.calls, proof.cost) == (105, cost + more)

        asyncio.run(story())


def test_withdrawal_makes_the_node_redeem_at_once_and_stop(tmp_path: Path) -> None:
    """The gateway announces a withdrawal: what is due is redeemed although it is little, and no order is taken."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with _open_market(tmp_path, chain, deployment, YARD) as (market, world):
                cost = await _serve(world, 3)
                await until(lambda: world.node._lanes[world.gateway.lane].promised == cost)
                await market.escrow.announce_withdrawal(market.gateway, YARD // 2)
                await _wait_paid(market, world, cost)
                call = world.order("x")
                await call.ended.wait()
                assert call.failure is not None
                assert "withdrawal" in call.failure.message
                await market.escrow.cancel_withdrawal(market.gateway)
                credit = world.node._watch.credit(GATEWAY_KEY.account)
                await until(lambda: not credit.distrust)
                await _serve(world, 1)

        asyncio.run(story())


def test_gateway_that_unstakes_loses_its_credit(tmp_path: Path) -> None:
    """A linked gateway whose stake goes is noticed by the chain's word, not only at the next handshake."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with _open_market(tmp_path, chain, deployment, YARD) as (market, world):
                await _serve(world, 1)
                await market.registry.start_unbond(market.gateway, Role.GATEWAY, 2 * YARD)
                await world.node._watch.look()
                call = world.order("x")
                await call.ended.wait()
                assert call.failure is not None
                assert call.failure.code == "credit_window"
                assert "stake" in call.failure.message

        asyncio.run(story())


def test_pool_that_cannot_pay_leaves_the_rest_owed_until_a_deposit(tmp_path: Path) -> None:
    """The pool covers a part; the rest is paid from a later deposit with the voucher that is held."""

    async def story() -> None:
        async with open_node_world(tmp_path, redeem_value_nano=1) as world:
            world.chain.deposit_nano = 50
            cost = await _serve(world, 4)
            key = world.gateway.lane.key
            await until(lambda: (totals := world.chain.lane(key)) and totals.accepted_nano == cost)
            assert world.chain.totals[key].paid_nano == 50
            tries = len(world.chain.redeemed)
            await asyncio.sleep(1.2)
            assert len(world.chain.redeemed) == tries  # an empty pool is not asked again and again
            world.chain.deposit_nano = 1_000
            world.chain.change()
            await until(lambda: world.chain.totals[key].paid_nano == cost)

    asyncio.run(story())


def test_voucher_that_the_escrow_skips_rests(tmp_path: Path) -> None:
    """No transaction is sent twice a second for a voucher that changes nothing; it is tried again after its rest."""

    async def story() -> None:
        async with open_node_world(tmp_path, redeem_value_nano=1) as world:
            key = world.gateway.lane.key
            world.chain.skip.add(key)
            cost = await _serve(world, 2)
            await until(lambda: world.chain.redeemed)
            await asyncio.sleep(1.2)
            assert len(world.chain.redeemed) == 1
            world.chain.skip.clear()
            _, rest_ms = world.node.redeemer._rests[key]
            assert rest_ms >= 30_000
            world.node.redeemer._rests[key] = (0, rest_ms)
            await until(lambda: world.chain.totals[key].paid_nano == cost)
            await until(lambda: key not in world.node.redeemer._rests)

    asyncio.run(story())


def test_redemption_after_some_time_and_while_the_chain_is_silent(tmp_path: Path) -> None:
    """Little money is redeemed once it is old enough; a silent chain is waited for, and the node goes on serving."""

    async def story() -> None:
        async with open_node_world(tmp_path, redeem_after_s=0.3) as world:
            world.chain.is_silent = True
            cost = await _serve(world, 2)
            await asyncio.sleep(1.0)
            assert world.chain.redeemed == []
            cost += await _serve(world, 2)
            world.chain.is_silent = False
            await until(lambda: sum(total.paid_nano for total in world.chain.totals.values()) == cost, 10)
            await until(lambda: world.chain.sweeps == len(world.chain.redeemed))

    asyncio.run(story())


def test_calls_beyond_one_blob_go_in_several(tmp_path: Path) -> None:
    """All calls are published, in blobs of bounded size, the last of them with the vouchers."""

    async def story() -> None:
        async with open_node_world(tmp_path, batch_calls=10) as world:
            redeemer = world.node.redeemer
            object.__setattr__(redeemer._tools, "blob_calls", 25)
            cost = await _serve(world, 100)
            account = world.node._lanes[world.gateway.lane]
            await until(lambda: account.promised == cost)
            await redeemer.redeem_all()
            blobs = FolderBlobs(tmp_path / "blobs")
            sizes = []
            for vouchers, digest in world.chain.redeemed:
                blob = decode_calls(await blobs.get(Cid(digest)))
                sizes.append((len(vouchers), sum(len(calls) for _, calls in blob.batches)))
            assert sizes == [(0, 20), (0, 20), (0, 20), (0, 20), (1, 20)]
            assert await redeemer.redeem_all() == []

    asyncio.run(story())


def test_offer_terms_are_the_ones_on_chain() -> None:
    """The tests' offer carries the tests' prices, or the stories above would prove another market."""
    offer = offer_service(build_echo()).signed_offer.offer
    assert (offer.price_in, offer.price_out) == (PRICE_IN, PRICE_OUT)
