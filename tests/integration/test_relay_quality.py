"""What a gateway does about bad providers of a chain: fabricated answers, wrong heights, other chains, slow ones."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.check_client import batches, open_session
from tests.gateway_world import World, until
from tests.integration.test_relay_http import BALANCE, call, open_relay, post
from tests.relay_chain import ToyNode

from steelyard.gateway.listing import Seller
from steelyard.gateway.relay_purse import KEY_ID
from steelyard.services.rpc.messages import RpcPayload, build_response, join_responses
from steelyard.storage.events import list_events
from steelyard.storage.schema import calls

FABRICATED = [
    {"code": -32700, "message": "parse error"},
    {"code": -32603, "message": "<html><title>502 Bad Gateway</title></html>"},
    {"code": -32603, "message": 'upstream: {"jsonrpc":"2.0","error":{"code":429,"message":"slow down"}}'},
]


def fail_with(node: ToyNode, error: Any) -> None:
    """Let a node answer everything with an error."""

    async def answer(payload: RpcPayload) -> bytes:
        responses = [build_response(item.id_raw, error=json.dumps(error).encode()) for item in payload.items]
        return join_responses(responses, is_batch=payload.is_batch)

    node.call = answer  # type: ignore[method-assign]


@pytest.mark.parametrize("error", FABRICATED, ids=lambda error: error["message"][:12])
def test_fabricated_answer_never_reaches_a_client_and_is_not_charged(tmp_path: Path, error: Any) -> None:
    """It is the provider's failure, another one is asked, the key pays once, and the link stays up."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, (liar, _)):
            fail_with(liar, error)
            honest = "0x" + world.nodes[1].key.account.hex()
            for body in (BALANCE, [BALANCE, BALANCE]):
                for _ in range(4):
                    status, answer, headers = await post(world, "/rpc/eth", body)
                    assert status == 200
                    assert "error" not in json.dumps(answer)
                    assert headers["x-steelyard-provider"] == honest
            (record,) = [
                seller.record
                for seller in world.gateway.catalogue.listings["eth"].sellers
                if seller.provider_hex != honest
            ]
            assert record.last_reason == "no_answer"
            assert record.failures >= 1
            assert all(seller.link.is_up for seller in world.gateway.catalogue.listings["eth"].sellers)
            usage = world.gateway.meters.meter(world.key.key_id)  # type: ignore[union-attr]
            await world.gateway.settlement.flush()
            assert usage.reserved_nano == 0
            calls = (await world.get("/calls"))[1]["data"]
            assert sum(int(one["cost_nano"]) for one in calls) == 4 * 20 + 4 * 40

    asyncio.run(story())


def test_revert_is_the_answer_whatever_words_are_in_it(tmp_path: Path) -> None:
    """A contract can't make honest providers look broken."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, nodes):
            for node in nodes:
                fail_with(node, {"code": -32603, "message": "execution reverted: <html>", "data": "0x08"})
            status, answer, _ = await post(world, "/rpc/eth", call("eth_call", [{}, "latest"]))
            assert (status, answer["error"]["message"]) == (200, "execution reverted: <html>")

    asyncio.run(story())


def test_answers_fabricated_by_everyone_end_in_an_error_of_ours(tmp_path: Path) -> None:
    """Where nobody has an answer, the client is told so, by its id."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2) as (world, nodes):
            for node in nodes:
                fail_with(node, FABRICATED[1])
            status, answer, _ = await post(world, "/rpc/eth", BALANCE)
            assert (status, answer["id"], answer["error"]["code"]) == (503, 1, -32002)
            assert "no_answer" in answer["error"]["message"]
            assert "<html>" not in answer["error"]["message"]

    asyncio.run(story())


def sellers_of(world: World) -> dict[bytes, Seller]:
    """Return who sells the chain, by account."""
    return {seller.link.provider: seller for seller in world.gateway.catalogue.listings["eth"].sellers}


async def until_answered(world: World, question: str, count: int) -> None:
    """Let the watch look, and wait until so many of its questions came to an end."""
    relay = world.gateway.metrics.relay

    def is_there() -> bool:
        world.gateway.fronts.watch.look()
        return sum(number for (what, _), number in relay.items() if what == question) >= count

    await until(is_there)


async def ask_many(world: World, body: Any, count: int = 30) -> Counter[str]:
    """Return how many of so many calls each provider answered."""
    had: Counter[str] = Counter()
    for _ in range(count):
        status, answer, headers = await post(world, "/rpc/eth", body)
        assert (status, "error" in answer) == (200, False), answer
        had[headers["x-steelyard-provider"]] += 1
    return had


def test_lying_and_stale_providers_get_no_calls_while_another_is_well(tmp_path: Path) -> None:
    """Heights are asked for at the gateway's own cost; a huge one draws nothing, and `why` says what is wrong."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=4, relay_probe_s=5.0) as (world, (liar, stale, *_)):
            liar.chain.mine(500)
            liar.height, stale.lag = 2**60, 100
            await until_answered(world, "height", 4)
            accounts = [node.key.account for node in world.nodes]
            had = await ask_many(world, BALANCE)
            assert set(had) == {"0x" + account.hex() for account in accounts[2:]}
            sellers = sellers_of(world)
            assert sellers[accounts[0]].record.doubt.startswith("height_outlier: ")
            assert sellers[accounts[1]].record.doubt == "stale: 100 blocks behind"
            call_id = (await post(world, "/rpc/eth", BALANCE))[2]["x-steelyard-call"]
            passed = (await world.get(f"/calls/{call_id}"))[1]["why"]["passed_over"]
            assert {one["reason"] for one in passed} >= {"stale: 100 blocks behind"}
            # Where nobody else is well, they serve still; and who catches up is well again.
            for node in world.nodes[2:]:
                await node.stop()
            assert len(await ask_many(world, BALANCE)) <= 2
            stale.lag, liar.height = 0, None
            world.gateway.fronts.watch._asked.clear()
            world.gateway.fronts.watch.heights._claims.clear()
            await until_answered(world, "height", 6)
            assert not any(seller.record.doubt for seller in sellers_of(world).values())

    asyncio.run(story())


def test_own_questions_are_paid_by_the_gateway_and_bounded(tmp_path: Path) -> None:
    """They are calls of its own account, no key pays, and an empty allowance asks nothing."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2, relay_probe_s=1000.0, relay_watch_nano=35) as (world, toys):
            await until_answered(world, "height", 2)
            await asyncio.sleep(0.1)
            assert sum(toy.asked.count("eth_blockNumber") for toy in toys) <= 2
            purse = world.gateway.fronts.purse
            assert 0 < purse.spent_nano <= 35
            await world.gateway.settlement.flush()
            async with world.database.read() as connection:
                rows = (await connection.execute(select(calls.c.key_id, calls.c.cost_nano))).all()
            assert {row.key_id for row in rows} == {KEY_ID}
            assert sum(row.cost_nano for row in rows) == purse.spent_nano
            assert world.gateway.meters.meter(world.key.key_id).reserved_nano == 0  # type: ignore[union-attr]

    asyncio.run(story())


def test_provider_of_another_chain_gets_no_call_until_it_serves_the_right_one(tmp_path: Path) -> None:
    """Its identity is asked for when it comes, and now and then."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=2, relay_probe_s=0.05) as (world, (wrong, _)):
            account = world.nodes[0].key.account
            wrong.chain_id = b"0x5"
            watch = world.gateway.fronts.watch
            watch._asked.clear()

            def is_barred(wanted: bool) -> bool:
                watch.look()
                return bool(sellers_of(world)[account].record.bar) == wanted

            await until(lambda: is_barred(True))
            assert sellers_of(world)[account].why_not(0.0) == "wrong_chain: it serves 5, not 1"
            assert set(await ask_many(world, BALANCE)) == {"0x" + world.nodes[1].key.account.hex()}
            wrong.chain_id = b"0x1"
            await until(lambda: is_barred(False))

    asyncio.run(story())


def test_call_for_an_old_block_goes_to_who_has_it(tmp_path: Path) -> None:
    """Archives are known by a question; what is new goes to anybody."""

    async def story() -> None:
        async with open_relay(tmp_path, nodes=3, relay_probe_s=100.0, relay_cache_bytes=0) as (world, nodes):
            nodes[0].chain.mine(1_000)
            for node in nodes[1:]:
                node.has_state = False
            await until_answered(world, "height", 3)
            sellers = sellers_of(world)
            await until(lambda: all(seller.record.is_archival is not None for seller in sellers.values()))
            archive = "0x" + world.nodes[0].key.account.hex()
            assert set(await ask_many(world, call("eth_getBalance", ["0x" + "11" * 20, "0x5"]))) == {archive}
            assert len(await ask_many(world, BALANCE)) == 3

    asyncio.run(story())


def test_odd_one_of_three_loses_its_share_and_its_cached_answers(tmp_path: Path) -> None:
    """Two others are asked after the answer left; the disagreement is an event, and is kept for validators."""

    async def story() -> None:
        options = {"relay_probe_s": 1000.0, "relay_cross_check_share": 1.0}
        async with open_relay(tmp_path, nodes=3, **options) as (world, (liar, *honest)):
            liar.chain.mine(1_000)
            for node in (liar, *honest):
                node.balance = 7
            await until_answered(world, "height", 3)
            relay = world.gateway.metrics.relay
            pinned = call("eth_getBalance", ["0x" + "11" * 20, "0x300"])
            await post(world, "/rpc/eth", pinned)
            await until(lambda: relay["cross_check", "agreed"] == 1)
            liar.balance = 8
            account = world.nodes[0].key.account
            await post(world, "/rpc/eth", call("eth_getBalance", ["0x" + "12" * 20, "0x300"]))
            await until(lambda: relay["cross_check", "disagreed"] == 1)
            record = sellers_of(world)[account].record
            assert (record.disagreements, record.trust) == (1, 0.25)
            assert all(seller.record.trust == 1 for seller in sellers_of(world).values() if seller.record is not record)
            (kept,) = world.gateway.fronts.checks.kept
            assert kept.providers[0] == "0x" + account.hex()
            assert len(set(kept.receipts)) == 3
            token = await open_session(world)
            shown = (await world.get("/checks/disagreements", token))[1]["data"]
            assert [one["receipts"] for one in shown] == [list(kept.receipts)]
            assert (await world.get("/checks/disagreements"))[0] == 401
            fed: set[str] = set()
            async with asyncio.timeout(10):
                while not fed >= set(kept.receipts):  # a validator reads the feed, which numbers what was signed
                    fed = {one["receipt_id"] for batch in (await batches(world, token))[0] for one in batch["calls"]}
            found = [await world.get(f"/checks/calls/{receipt}", token) for receipt in kept.receipts]
            assert [one[0] for one in found] == [200, 200, 200], found
            await world.gateway.settlement.flush()
            (event,) = await list_events(world.database, peer="0x" + account.hex())
            assert event.code == "relay_disagreement"
            assert json.loads(event.detail)["receipts"] == list(kept.receipts)
            assert not [one for one in world.gateway.fronts.relay.cache._kept.values() if one.provider == account]
            keys = {row["key_id"] for row in (await world.get("/calls"))[1]["data"] if "key_id" in row}
            assert KEY_ID not in keys

    asyncio.run(story())


def test_private_calls_and_new_blocks_are_not_cross_checked(tmp_path: Path) -> None:
    """Two more providers would read the one, and honest nodes may differ about the other."""

    async def story() -> None:
        options = {"relay_probe_s": 1000.0, "relay_cross_check_share": 1.0}
        async with open_relay(tmp_path, nodes=3, **options) as (world, nodes):
            nodes[0].chain.mine(1_000)
            await until_answered(world, "height", 3)
            await until(lambda: all(seller.record.is_archival for seller in sellers_of(world).values()))
            asked = sum(len(node.asked) for node in nodes)
            await post(world, "/rpc/eth", BALANCE)
            await post(world, "/rpc/eth", call("eth_getBalance", ["0x" + "11" * 20, "0x3e8"]))
            old = call("eth_getBalance", ["0x" + "11" * 20, "0x300"])
            await post(world, "/rpc/eth", old, x_steelyard_private="true")
            only = json.dumps({"only": ["0x" + world.nodes[0].key.account.hex()]})
            await post(world, "/rpc/eth", old, x_steelyard_choice=only)
            await asyncio.sleep(0.1)
            assert sum(len(node.asked) for node in nodes) == asked + 4

    asyncio.run(story())
