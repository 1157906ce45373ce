"""A chat answer from client to check: a real gateway, a real node, a stepped model; and replays bought of others."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.check_client import open_session
from tests.gateway_world import DOMAIN, GATEWAY_KEY, LIMITS, World, open_world, provider_key
from tests.node_twins import TwinChain
from tests.service_world import LetterEngine, ScriptedRelay

from steelyard.engines.port import Delta
from steelyard.link.client import LinkClient
from steelyard.node.node import Node, NodeParts
from steelyard.node.orders import NodeService
from steelyard.node.settings import NodeSettings
from steelyard.protocol.call_proof import read_shown
from steelyard.protocol.evidence import evidence_root
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import FinishReason, Grade, Order, Receipt
from steelyard.services.chat import ChatService
from steelyard.services.port import Context, Result, Service
from steelyard.storage.blobs import FolderBlobs
from steelyard.storage.database import open_database
from steelyard.storage.writer import open_writer

MODEL = "letters"
ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Say ß 🦄 please."}],
    "max_tokens": 16,
    "temperature": 1,
}


def chat(noise: float = 0.0) -> ChatService:
    """A stepped chat service on the little model."""
    engine = LetterEngine(noise=noise)
    return ChatService(ChatService.describe(MODEL, engine.info), engine=engine)


@asynccontextmanager
async def real_node(world: World, index: int, service: Service) -> AsyncIterator[Node]:
    """A real node with this service, linked to the world's gateway."""
    key = provider_key(index)
    signed = world.register(key, service.manifest, (1_000_000, 2_000_000))
    folder = world.folder / f"node-{index}"
    database = await open_database(f"sqlite:///{folder}/node.db")
    writer = await open_writer(database, on_failure=_fail, on_crash=_fail)
    node = Node(
        NodeParts(
            key=key,
            domain=DOMAIN,
            chain=TwinChain(staked={GATEWAY_KEY.account}),
            database=database,
            writer=writer,
            blobs=FolderBlobs(folder / "blobs"),
            services={signed.offer.service_id: NodeService(service, type(service).apis, signed)},  # type: ignore[attr-defined]
            settings=NodeSettings(batch_delay_s=0.05),
            on_crash=_fail,
        )
    )
    await node.open()
    client = LinkClient(world.running.address.link_url, key, DOMAIN, node, offers=lambda: node.offers, limits=LIMITS)
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(node.run())]
    try:
        await world.until_linked(key.account)
        yield node
    finally:
        await node.close()
        await client.aclose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await writer.aclose()
        await database.aclose()


def _fail(*told: object) -> None:
    raise AssertionError(told)


async def checked_call(world: World, token: str, receipt_id: str) -> tuple[dict[str, Any], bytes]:
    """A call's texts and evidence, once its batch is signed."""
    async with asyncio.timeout(10):
        while True:
            await world.get("/checks/batches", token)
            status, found, _ = await world.get(f"/checks/calls/{receipt_id}", token)
            if status == 200:
                break
            await asyncio.sleep(0.02)
    status, shown, _ = await world.get(f"/checks/evidence/{receipt_id}", token)
    assert status == 200, shown
    return found, base64.b64decode(shown["evidence"])


def result_of(found: dict[str, Any]) -> tuple[Order, Receipt, Result]:
    """Order, receipt and result of a call that was fetched."""
    order, receipt = read_shown(Order, found["order"], "order"), read_shown(Receipt, found["receipt"], "receipt")
    content, finish = base64.b64decode(found["content"]), FinishReason(receipt.finish_reason)
    return (
        order,
        receipt,
        Result(content=content, units_in=receipt.units_in, units_out=receipt.units_out, finish=finish),
    )


@pytest.mark.parametrize("is_stream", [False, True])
def test_answer_of_a_gateway_is_checked_from_what_it_shows(tmp_path: Path, is_stream: bool) -> None:
    """Texts from the gateway and evidence from the node open the receipt, and the replay finds every token's choice."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world, real_node(world, 0, chat()):
            token = await open_session(world)
            async with world.client() as client:
                if is_stream:
                    async for event in await client.chat.completions.create(**ASK, stream=True):
                        last = event
                    receipt_id = last.steelyard["receipt_id"]  # type: ignore[attr-defined]
                else:
                    answer = await client.chat.completions.create(**ASK)
                    receipt_id = answer.steelyard["receipt_id"]  # type: ignore[attr-defined]
                    assert answer.steelyard["grade"] == "statistical"  # type: ignore[attr-defined]
            found, evidence = await checked_call(world, token, receipt_id)
            order, receipt, result = result_of(found)
            assert order.grade == Grade.STATISTICAL
            assert evidence_root(evidence) == receipt.evidence_hash != ZERO32
            service = chat()
            request = service.parse(found["api"], base64.b64decode(found["body"]))
            replayed = await service.replay(request, result, evidence, Context(seed=order.sampler_seed))
            compared = service.compare(result, evidence, replayed)
            assert (compared.is_wellformed, compared.distance, compared.positions) == (True, 0.0, 16)

    asyncio.run(story())


def test_replay_is_bought_of_others_by_whoever_lacks_the_model(tmp_path: Path) -> None:
    """With a key and no model: two sellers give the same replay of an honest answer, and a cheat's shows margins."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world:
            token = await open_session(world)
            async with real_node(world, 0, chat(noise=0.5)):  # serves something else under the name
                cheat, _, headers = await world.post("/chat/completions", ASK)
                assert cheat == 200
                lie = await checked_call(world, token, headers["x-steelyard-receipt"])
            async with real_node(world, 1, chat()), real_node(world, 2, chat()):
                status, _, headers = await world.post("/chat/completions", ASK)
                truth = await checked_call(world, token, headers["x-steelyard-receipt"])
                distances = []
                for found, evidence in (truth, lie):
                    order, receipt, result = result_of(found)
                    body = {
                        "model": MODEL,
                        "request": ASK,
                        "api": "chat.completions",
                        "seed": str(order.sampler_seed),
                        "evidence": base64.b64encode(evidence).decode(),
                        "content": base64.b64encode(result.content).decode(),
                        "units_in": receipt.units_in,
                        "units_out": receipt.units_out,
                        "finish": result.finish.name.lower(),
                    }
                    replays, sellers = set(), set()
                    for _ in range(20):
                        status, answer, headers = await world.post("/replays", body)
                        assert status == 200, answer
                        assert answer["object"] == "steelyard.replay"
                        assert answer["usage"]["completion_tokens"] == 16
                        replays.add(answer["replay"])
                        sellers.add(headers["x-steelyard-provider"])
                        if len(sellers) == 2:
                            break
                    assert len(replays) == 1
                    (replay,) = replays
                    bare = ChatService(chat().manifest)  # no engine: comparing needs none
                    distances.append(bare.compare(result, evidence, base64.b64decode(replay)).distance)
                assert distances[0] == 0.0
                assert distances[1] > 0.1
                broken = body | {"evidence": ""}
                status, answer, _ = await world.post("/replays", broken)
                assert (status, answer["usage"]["total_tokens"]) == (200, 0)
                found = ChatService(chat().manifest).compare(result, b"", base64.b64decode(answer["replay"]))
                assert found.code == "evidence_malformed"
                status, answer, _ = await world.post("/replays", body | {"seed": "-1"})
                assert (status, answer["error"]["param"]) == (400, "seed")

    asyncio.run(story())


@pytest.mark.parametrize(("parameters", "grade"), [(("logprobs",), Grade.LOGPROBS), ((), Grade.UNCHECKED)])
def test_engine_that_samples_by_itself_carries_the_weaker_grade(
    tmp_path: Path, parameters: tuple[str, ...], grade: Grade
) -> None:
    """Header, body and order say `logprobs` or `unchecked`; nobody sells a replay of it."""

    async def story() -> None:
        deltas = [Delta(text="hello"), Delta(tokens_in=3, tokens_out=1, finish_reason="stop")]
        engine = ScriptedRelay(deltas, parameters)
        relayed = ChatService(ChatService.describe(MODEL, engine.info), engine=engine)
        async with open_world(tmp_path, nodes=0) as world, real_node(world, 0, relayed):
            word = grade.name.lower()
            status, answer, headers = await world.post("/chat/completions", ASK)
            assert (status, headers["x-steelyard-grade"], answer["steelyard"]["grade"]) == (200, word, word)
            status, shown, _ = await world.get(f"/calls/{headers['x-steelyard-call']}")
            assert (shown["grade"], shown["order"]["grade"]) == (word, int(grade))
            status, answer, _ = await world.post("/replays", {"model": MODEL})
            assert (status, answer["error"]["param"]) == (400, "model")

    asyncio.run(story())
