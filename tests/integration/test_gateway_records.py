"""What the gateway shows and keeps: calls with their proofs, replays, health, metrics, logs without anybody's text."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.databases import open_test_database
from tests.gateway_world import DOMAIN, GATEWAY_KEY, MODEL, World, open_world, until

from steelyard.protocol.ids import parse_hash
from steelyard.protocol.merkle import verify_proof
from steelyard.protocol.messages import Batch, Receipt, Voucher, content_hash
from steelyard.protocol.signing import require_signer

CHAT = "/chat/completions"


def _body(text: str = "hello there", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def _message(kind: type[Any], fields: dict[str, Any]) -> Any:
    values = []
    for name in kind.__struct_fields__:
        value = fields[name]
        is_hex = isinstance(value, str) and value.startswith("0x")
        values.append(bytes.fromhex(value[2:]) if is_hex else int(value) if name == "lane_id" else value)
    return kind(*values)


def test_call_shows_a_proof_that_anyone_can_check(tmp_path: Path) -> None:
    """From content to response hash, receipt, Merkle proof, provider's batch and the gateway's voucher."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            status, answer, headers = await world.post(CHAT, _body())
            assert status == 200
            call_id = headers["x-steelyard-call"]
            status, fresh, _ = await world.get(f"/calls/{call_id}")
            assert (status, fresh["status"]) == (200, "done")
            await until(lambda: bool(world.nodes[0].vouchers))
            _, call, _ = await world.get(f"/calls/{call_id}")
            receipt = _message(Receipt, call["receipt"])
            content = answer["choices"][0]["message"]["content"].encode()
            assert receipt.response_hash == content_hash(parse_hash(call["salt"]), content)
            assert "0x" + receipt.struct_hash().hex() == call["receipt_id"] == headers["x-steelyard-receipt"]
            batch = _message(Batch, call["batch"])
            proof = [parse_hash(step) for step in call["batch"]["proof"]]
            assert verify_proof(batch.receipts_root, receipt.struct_hash(), proof)
            head = DOMAIN.digest(batch.struct_hash())
            provider = bytes.fromhex(call["provider"][2:])
            require_signer(head, bytes.fromhex(call["batch"]["signature"][2:]), provider, "batch")
            voucher = _message(Voucher, call["voucher"])
            assert voucher.head == head
            signature = bytes.fromhex(call["voucher"]["signature"][2:])
            require_signer(DOMAIN.digest(voucher.struct_hash()), signature, GATEWAY_KEY.account, "voucher")
            assert call["cost_nano"] == int(headers["x-steelyard-cost-nano"])

    asyncio.run(story())


def test_calls_belong_to_their_key_or_to_an_administrator(tmp_path: Path) -> None:
    """Another key sees nothing, not even that the call exists."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            _, _, headers = await world.post(CHAT, _body(), x_steelyard_private="true")
            path = f"/calls/{headers['x-steelyard-call']}"
            other = await world.new_key("other")
            assert (await world.get(path, other))[0] == 404
            assert (await world.get("/calls", other))[1]["data"] == []
            _, mine, _ = await world.get("/calls?limit=1")
            assert [call["id"] for call in mine["data"]] == [headers["x-steelyard-call"]]
            assert mine["data"][0]["is_private"] is True
            assert (await world.get("/calls/nonsense"))[0] == 400
            assert (await world.get("/calls?limit=0"))[1]["error"]["param"] == "limit"
            assert all(b"private" not in bytes(request.body) for request in world.nodes[0].requests)

    asyncio.run(story())


def test_private_flag_never_leaves_the_gateway(tmp_path: Path) -> None:
    """The provider gets the same bytes, whether a call is private or not."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            await world.post(CHAT, _body(seed=1))
            await world.post(CHAT, _body(seed=1), x_steelyard_private="true")
            plain, private = world.nodes[0].requests
            assert plain.body == private.body
            assert plain.order.sampler_seed == private.order.sampler_seed == 1
            assert (plain.order.grade, plain.order.price_in) == (private.order.grade, private.order.price_in)

    asyncio.run(story())


def test_seed_without_the_callers_is_drawn_by_the_gateway_for_each_call(tmp_path: Path) -> None:
    """It stands in the order that the provider gets, 64 bits wide and another each time: nobody else chooses it."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            for _ in range(8):
                await world.post(CHAT, _body())
            seeds = [request.order.sampler_seed for request in world.nodes[0].requests]
            assert len(set(seeds)) == 8
            assert 2**48 < max(seeds) < 2**64

    asyncio.run(story())


@pytest.mark.parametrize("is_stream", [False, True])
def test_idempotency_key_answers_the_same_again(tmp_path: Path, is_stream: bool) -> None:
    """The second request gets the first one's bytes, and nobody works or pays twice."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            import aiohttp

            headers = {"authorization": f"Bearer {world.secret}", "idempotency-key": "order-17"}
            seen = []
            async with aiohttp.ClientSession() as session:
                for _ in range(2):
                    async with session.post(
                        world.base_url + CHAT, json=_body(stream=is_stream), headers=headers
                    ) as reply:
                        seen.append((reply.status, await reply.read(), reply.headers.get("x-steelyard-call")))
                        replayed = reply.headers.get("x-steelyard-replayed")
                assert seen[0] == seen[1]
                assert replayed == "true"
                assert len(world.nodes[0].requests) == 1
                async with session.post(world.base_url + CHAT, json=_body("other"), headers=headers) as reply:
                    assert reply.status == 409
                    assert (await reply.json())["error"]["code"] == "idempotency_mismatch"

    asyncio.run(story())


def test_idempotency_key_in_flight_is_a_conflict_and_a_failure_is_forgotten(tmp_path: Path) -> None:
    """409 while the first runs; a request that failed may be sent again under its key."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            node = world.nodes[0]
            node.gate.clear()
            first = asyncio.create_task(world.post(CHAT, _body(), idempotency_key="k"))
            await until(lambda: len(node.requests) == 1)
            status, reply, _ = await world.post(CHAT, _body(), idempotency_key="k")
            assert (status, reply["error"]["code"]) == (409, "idempotency_running")
            node.gate.set()
            assert (await first)[0] == 200
            assert (await world.post(CHAT, _body(n=3), idempotency_key="bad"))[0] == 400
            assert (await world.post(CHAT, _body(), idempotency_key="bad"))[0] == 200
            assert (await world.post(CHAT, _body(), idempotency_key="x" * 300))[0] == 400

    asyncio.run(story())


def test_answer_too_large_to_be_kept_says_so_when_asked_again(tmp_path: Path) -> None:
    """It is not done again in silence."""

    async def story() -> None:
        async with open_world(tmp_path, max_replay_bytes=100) as world:
            assert (await world.post(CHAT, _body(), idempotency_key="k"))[0] == 200
            status, reply, _ = await world.post(CHAT, _body(), idempotency_key="k")
            assert (status, reply["error"]["code"]) == (409, "idempotency_answer_too_large")
            assert len(world.nodes[0].requests) == 1

    asyncio.run(story())


def test_health_readiness_network_and_metrics(tmp_path: Path) -> None:
    """What operators and machines look at; readiness gives every reason."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            assert (await world.get("//healthz"))[0] == 200
            status, ready, _ = await world.get("//readyz")
            assert status == 503
            assert any("no provider" in reason for reason in ready["reasons"])
            await world.add_node(0)
            assert (await world.get("//readyz"))[0] == 200
            await world.ask()
            _, network, _ = await world.get("/network", "nobody")
            assert network["chain_id"] == 31415
            assert network["gateway"] == "0x" + GATEWAY_KEY.account.hex()
            assert network["deposit_address"] == network["contracts"]["escrow"]
            assert network["link_url"].startswith("ws://")
            status, text, _ = await world.get("//metrics")
            assert status == 200
            for line in (
                'steelyard_gateway_replies_total{route="chat.completions",status="200"} 1.0',
                "steelyard_gateway_providers_well 1.0",
                "steelyard_gateway_answer_seconds_count 1.0",
                'steelyard_gateway_units_total{direction="out",service="echo-1"} 11.0',
            ):
                assert line in text, line
            world.chain.is_silent = True
            await until(lambda: "silenced" in world.gateway.watch.sight.trouble)
            assert (await world.ask()).choices[0].message.content == "hello there"

    asyncio.run(story())


def test_logs_hold_no_prompt_answer_key_or_voucher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Canaries in the prompt, the key and a crash do not show up in anything that is logged."""

    async def story() -> None:
        async with open_world(tmp_path, voucher_age_s=0.1) as world:
            await world.ask("canary-in-the-prompt")
            await world.post(CHAT, b'{"model": "canary-in-the-json')
            await world.post(CHAT, _body(), authorization="Bearer sk-steelyard-canary-in-the-key-canary")
            await until(lambda: bool(world.nodes[0].vouchers))
            canaries.append(world.secret)
            canaries.append(world.nodes[0].vouchers[0].signature.hex())

            def crash(api: str, body: bytes) -> Any:
                raise RuntimeError("a bug of ours")

            world.gateway.catalogue.listings[MODEL].service = _Crashing(crash)  # type: ignore[assignment]
            status, reply, _ = await world.post(CHAT, _body("canary-in-the-crash"))
            assert (status, reply["error"]["code"]) == (500, "internal_error")
            assert "fault_" in reply["error"]["message"]
            faults.append(reply["error"]["message"].split("under ")[1].split(".")[0])

    canaries, faults = ["canary-in", "sk-steelyard"], list[str]()
    structlog.reset_defaults()
    asyncio.run(story())
    logged = capsys.readouterr()
    text = logged.out + logged.err
    assert "gateway_started" in text
    assert faults[0] in text
    for canary in canaries:
        assert canary not in text, canary


class _Crashing:
    def __init__(self, parse: Any) -> None:
        self.parse = parse


def test_gateway_runs_on_postgresql(tmp_path: Path) -> None:
    """The same story on the other database: a call, its budget, its proof, its voucher."""

    async def story() -> None:
        async with (
            open_test_database("postgresql") as database,
            open_world(tmp_path, database=database, voucher_age_s=0.1) as world,
        ):
            await _same_story(world)

    asyncio.run(story())


async def _same_story(world: World) -> None:
    status, _, headers = await world.post(CHAT, _body(), idempotency_key="k")
    assert status == 200
    assert (await world.post(CHAT, _body(), idempotency_key="k"))[2]["x-steelyard-replayed"] == "true"
    await until(lambda: bool(world.nodes[0].vouchers))
    _, call, _ = await world.get(f"/calls/{headers['x-steelyard-call']}")
    assert call["voucher"]["cumulative"] == call["cost_nano"]
