"""x402 at a gateway: what is charged when all goes well, when it doesn't, and when somebody cheats."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway_world import GATEWAY_KEY, MODEL, PRICE_IN, PRICE_OUT, until
from tests.paid_world import MONEY, PAYER, MemoryToken, PaidWorld, open_paid_world, told

from steelyard.errors import ChainError, ChainUnreachable, Reverted
from steelyard.gateway.x402 import X402Terms
from steelyard.gateway.x402_settle import Claim, Till
from steelyard.gateway.x402_wire import read_payment
from steelyard.link.port import Failure
from steelyard.protocol.pricing import call_cost
from steelyard.protocol.signing import SigningKey

SIZE = len("hello there")
SIZE_IN = SIZE + 5  # with its role, as the echo counts
SHORT = {"stop": [" "]}  # the echo ends at its first space, so that it costs less than it might


def spent(paid: PaidWorld) -> int:
    """Return what left the payer's wallet; what the gateway has is the same."""
    gone = MONEY - paid.chain.wallets[PAYER.account]
    assert gone == paid.chain.wallets[GATEWAY_KEY.account] == sum(paid.chain.taken)
    return gone


def test_request_without_a_key_is_told_its_price(tmp_path: Path) -> None:
    """402 with both schemes, the highest cost of this very request, and OpenAI's error shape; a key still works."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            asked = await paid.quote("hello there")
            bounds = [paid.world.nodes[0].offer.offer.price_in, paid.world.nodes[0].offer.offer.price_out]
            assert bounds == [PRICE_IN, PRICE_OUT]
            assert paid.price(asked) == call_cost(SIZE_IN, SIZE, PRICE_IN, PRICE_OUT)
            assert paid.price(await paid.quote("hello")) < paid.price(asked)
            assert asked["error"]["type"] == "insufficient_quota"
            assert asked["resource"]["url"].endswith("/v1/chat/completions")
            assert [one["scheme"] for one in asked["accepts"]] == ["exact", "upto"]
            assert (await paid.world.ask("hello there")).choices[0].message.content == "hello there"
            status, body, _ = await paid.ask(model="nothing")
            assert (status, body["error"]["code"]) == (404, "model_not_found")
            assert spent(paid) == 0

    asyncio.run(story())


@pytest.mark.parametrize("scheme", ["exact", "upto"])
@pytest.mark.parametrize("stream", [False, True])
def test_payment_buys_one_answer(tmp_path: Path, scheme: str, stream: bool) -> None:
    """exact takes the price, upto the cost, once; the same header again buys nothing."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            asked = await paid.quote(stream=stream, **SHORT)
            header = paid.pay(asked, scheme)
            status, body, headers = await paid.ask(header, stream=stream, **SHORT)
            assert status == 200, body
            cost = call_cost(SIZE_IN, len("hello"), PRICE_IN, PRICE_OUT)
            assert cost < paid.price(asked)
            assert spent(paid) == (paid.price(asked) if scheme == "exact" else cost)
            if stream and scheme == "upto":
                assert "payment-response" not in headers
                assert body.index(": payment-response ") < body.index('"finish_reason":"stop"')
            else:
                assert told(headers)["success"] is True
                assert int(told(headers)["amount"]) == spent(paid)
            if stream:
                assert body.endswith("data: [DONE]\n\n")
            before = spent(paid)
            status, body, _ = await paid.ask(header, stream=stream, **SHORT)
            assert status == 402
            assert body["error"]["code"] in ("invalid_exact_evm_nonce_already_used", "permit2_invalid_nonce")
            assert spent(paid) == before
            assert paid.till._held == {}

    asyncio.run(story())


def test_one_payment_in_parallel_is_won_by_one(tmp_path: Path) -> None:
    """Of eight requests with one payment one is answered; seven are refused, and one order was made."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            asked = await paid.quote()
            header = paid.pay(asked)
            replies = await asyncio.gather(*(paid.ask(header) for _ in range(8)))
            assert sorted(status for status, _, _ in replies) == [200, *[402] * 7]
            assert spent(paid) == paid.price(asked)
            assert len(paid.world.nodes[0].requests) == 1

    asyncio.run(story())


def test_one_payment_at_two_processes_is_won_by_one(tmp_path: Path) -> None:
    """The claim is in the database that processes share: of two tills with the same payment one gets it."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            offered = read_payment(paid.pay(await paid.quote(), "upto").encode())
            other = Till(
                paid.chain,
                paid.world.database,
                paid.till.asked,
                process="another",
                bench_s=1.0,
                clock=time.monotonic,
                clock_ms=lambda: time.time_ns() // 10**6,
            )
            ended = await asyncio.gather(
                *(till.claim(offered, 1) for till in (paid.till, other)), return_exceptions=True
            )
            assert sorted(type(one).__name__ for one in ended) == ["Claim", "PaymentRequired"]
            for till, one in zip((paid.till, other), ended, strict=True):
                if isinstance(one, Claim):
                    await till.release(one)
            claim = await other.claim(offered, 1)
            await other.settle(claim, 1)
            assert paid.chain.taken == [1]

    asyncio.run(story())


def test_parallel_payments_are_covered_by_the_balance_together(tmp_path: Path) -> None:
    """A payer of two calls' money with four payments in flight gets two calls, not four."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            asked = await paid.quote()
            price = paid.price(asked)
            paid.chain.wallets[PAYER.account] = 2 * price
            paid.chain.gate.clear()
            tasks = [asyncio.create_task(paid.ask(paid.pay(asked))) for _ in range(4)]
            await until(lambda: sum(task.done() for task in tasks) == 2)
            paid.chain.gate.set()
            replies = [await task for task in tasks]
            assert sorted(status for status, _, _ in replies) == [200, 200, 402, 402]
            codes = {body["error"]["code"] for status, body, _ in replies if status == 402}
            assert codes == {"invalid_exact_evm_insufficient_balance"}
            assert paid.chain.wallets[PAYER.account] == 0

    asyncio.run(story())


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_failed_answer_costs_nothing_and_frees_the_payment(tmp_path: Path, scheme: str) -> None:
    """A provider that fails: 503, nothing taken, and the same payment buys the answer once it is well."""

    async def story() -> None:
        async with open_paid_world(tmp_path, max_attempts=1) as paid:
            node = paid.world.nodes[0]
            node.failure, node.failures_left = Failure("engine_error", "broken"), 1
            header = paid.pay(await paid.quote(), scheme)
            status, _, _ = await paid.ask(header)
            assert status == 503
            assert spent(paid) == 0
            status, body, _ = await paid.ask(header)
            assert status == 200, body
            assert spent(paid) > 0

    asyncio.run(story())


@pytest.mark.parametrize("scheme", ["exact", "upto"])
@pytest.mark.parametrize("stream", [False, True])
def test_refused_settlement_withholds_the_answer_and_benches_the_payer(
    tmp_path: Path, scheme: str, stream: bool
) -> None:
    """Who moves the money away meanwhile gets no whole answer, and no further call for a while; others do."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            header = paid.pay(await paid.quote(stream=stream), scheme)
            paid.chain.simulations_left = 1
            status, body, headers = await paid.ask(header, stream=stream)
            if scheme == "upto" and stream:
                assert "[DONE]" not in body
                assert '"transaction_failed"' in body
            else:
                assert (status, body["error"]["code"]) == (402, "transaction_failed")
                assert told(headers)["success"] is False
                assert "hello there" not in json.dumps(body)
            paid.chain.simulations_left = None
            assert spent(paid) == 0
            assert paid.till._held == {}
            status, body, _ = await paid.ask(paid.pay(await paid.quote(), scheme))
            assert (status, body["error"]["code"]) == (402, "payer_benched")
            other = SigningKey(b"\x32" * 32)
            paid.chain.wallets[other.account] = MONEY
            paid.chain.allowances[other.account] = MONEY
            status, _, _ = await paid.ask(paid.pay(await paid.quote(), scheme, other))
            assert status == 200
            await until(lambda: paid.world.gateway.settlement.in_flight == 0)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "status", "success"),
    [
        (ChainError("no gas", code="insufficient_gas_funds"), 503, None),
        (ChainError("not mined", code="transaction_pending"), 200, False),
        (ChainUnreachable("silent after it was sent"), 200, False),
        (Reverted("reverted in its block", reason="X"), 402, False),
    ],
)
def test_unsettled_payment_is_told_as_what_it_is(
    tmp_path: Path, error: ChainError, status: int, success: bool | None
) -> None:
    """The gateway's own trouble is 503 and takes nothing; an outcome that nobody knows gives the answer, as pending."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            header = paid.pay(await paid.quote())
            paid.chain.refusal = error
            answered, body, headers = await paid.ask(header)
            assert answered == status, body
            if success is not None:
                assert told(headers)["success"] is success
            if status == 200:
                assert told(headers)["errorReason"] == "settlement_pending"
            paid.chain.refusal = None
            again, body, _ = await paid.ask(header)
            assert again == (200 if status == 503 else 402), body

    asyncio.run(story())


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_client_that_hangs_up_pays_what_its_provider_is_paid_for(tmp_path: Path, scheme: str) -> None:
    """Hanging up in the middle is no free ride: the stream is settled once its cost is known."""

    async def story() -> None:
        async with open_paid_world(tmp_path, nodes=0) as paid:
            await paid.world.add_node(0, options={"delay_ms": "40"})
            text = "word " * 40
            asked = await paid.quote(text, stream=True)
            header = paid.pay(asked, scheme)
            body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": True}
            url = paid.world.base_url + "/chat/completions"
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, json=body, headers={"PAYMENT-SIGNATURE": header}) as reply,
            ):
                assert reply.status == 200
                await reply.content.readline()
            await until(lambda: bool(paid.chain.taken))
            price = paid.price(asked)
            assert spent(paid) == price if scheme == "exact" else 0 < spent(paid) < price
            assert paid.till._held == {}

    asyncio.run(story())


def test_stop_settles_what_was_streamed(tmp_path: Path) -> None:
    """A gateway that stops while a settlement runs ends it first."""

    async def story() -> None:
        chain = MemoryToken()
        async with open_paid_world(tmp_path, chain=chain) as paid:
            header = paid.pay(await paid.quote(stream=True), "upto")
            chain.gate.clear()
            task = asyncio.create_task(paid.ask(header, stream=True))
            await until(lambda: bool(paid.till._tasks))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            asyncio.get_running_loop().call_later(0.3, chain.gate.set)
        assert len(chain.taken) == 1

    asyncio.run(story())


def test_payment_below_the_price_is_asked_for_again(tmp_path: Path) -> None:
    """A payment for a smaller request doesn't buy a larger one; the 402 has the new price."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            small = await paid.quote("hi")
            status, body, _ = await paid.ask(paid.pay(small), "hello there")
            assert (status, body["error"]["code"]) == (402, "amount_below_price")
            assert paid.price(body) > paid.price(small)
            assert spent(paid) == 0

    asyncio.run(story())


def test_price_leaves_out_whoever_is_more_than_twice_as_dear(tmp_path: Path) -> None:
    """Of providers at 1, 2 and 10 times the price the second's is asked, so that one can stand in for another."""

    async def story() -> None:
        async with open_paid_world(tmp_path, nodes=0) as paid:
            for index, factor in enumerate((1, 2, 10)):
                await paid.world.add_node(index, price=(PRICE_IN * factor, PRICE_OUT * factor))
            assert paid.price(await paid.quote()) == call_cost(SIZE_IN, SIZE, 2 * PRICE_IN, 2 * PRICE_OUT)
            for _ in range(6):
                status, _, headers = await paid.ask(paid.pay(await paid.quote(), "upto"))
                assert status == 200
                assert headers["x-steelyard-provider"] != "0x" + paid.world.nodes[2].key.account.hex()

    asyncio.run(story())


def test_unkeyed_requests_are_limited_together(tmp_path: Path) -> None:
    """Above so many a minute they get 429; keys are not touched by it."""

    async def story() -> None:
        async with open_paid_world(tmp_path, terms=X402Terms(requests_per_minute=2)) as paid:
            assert [(await paid.ask())[0] for _ in range(3)] == [402, 402, 429]
            assert (await paid.world.ask()).choices[0].message.content == "hello there"

    asyncio.run(story())


def test_upto_is_offered_only_where_it_can_be_settled(tmp_path: Path) -> None:
    """Without Permit2 on the chain a payment by it is refused, and not asked for."""

    async def story() -> None:
        async with open_paid_world(tmp_path, chain=MemoryToken(stands=False)) as paid:
            asked = await paid.quote()
            assert [one["scheme"] for one in asked["accepts"]] == ["exact"]
            forged: dict[str, Any] = {"accepts": [asked["accepts"][0] | {"scheme": "upto"}]}
            status, body, _ = await paid.ask(paid.pay(forged, "upto"))
            assert (status, body["error"]["code"]) == (402, "unsupported_scheme")

    asyncio.run(story())


def test_gateway_without_x402_asks_for_a_key(tmp_path: Path) -> None:
    """Off by default: 401 as ever, and no price."""

    async def story() -> None:
        async with open_paid_world(tmp_path) as paid:
            paid.world.gateway.app._work.paid = None
            status, body, headers = await paid.ask()
            assert (status, body["error"]["code"]) == (401, "missing_api_key")
            assert "payment-required" not in headers

    asyncio.run(story())
