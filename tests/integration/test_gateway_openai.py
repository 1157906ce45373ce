"""The stock openai client against a real gateway on real sockets: every route, streamed or not."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

import openai
from tests.gateway_world import MODEL, PRICE_IN, PRICE_OUT, build_service, open_world

from steelyard.protocol.pricing import call_cost
from steelyard.services.manifest import Manifest
from steelyard.services.port import Chunk, Context, FinishReason, Request, Service

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello there, world"}]
VECTORS = Manifest(
    name="vectors-1", kind="embeddings", embedding_dimension=3, context_tokens=64, parameters=("dimensions",)
)


class Vectors:
    """The embeddings kind with an engine that counts."""

    def __init__(self) -> None:
        self._inner: Service = build_service(VECTORS)
        self.manifest, self.grade = self._inner.manifest, self._inner.grade
        self.parse, self.quote = self._inner.parse, self._inner.quote

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        """Give each text's number three times."""
        content = b"".join(struct.pack("<3f", index, 0.5, -1) for index in range(request.count))
        yield Chunk(content, request.count * 2, 0, b"", FinishReason.STOP)


def test_chat_whole_carries_its_provenance(tmp_path: Path) -> None:
    """Provider, model, quantisation, grade, call, receipt and cost, in headers and body; the cost is the price's."""

    async def story() -> None:
        async with open_world(tmp_path) as world, world.client() as client:
            raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
            answer = raw.parse()
            assert answer.choices[0].message.content == "hello there, world"
            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage is not None
            cost = call_cost(answer.usage.prompt_tokens, answer.usage.completion_tokens, PRICE_IN, PRICE_OUT)
            stamp = answer.steelyard  # type: ignore[attr-defined]
            head = raw.headers
            assert head["x-steelyard-provider"] == stamp["provider"] == "0x" + world.nodes[0].key.account.hex()
            assert head["x-steelyard-model"] == stamp["model"] == MODEL
            assert head["x-steelyard-quantisation"] == stamp["quantisation"] == "none"
            assert head["x-steelyard-grade"] == stamp["grade"] == "exact"
            assert head["x-steelyard-call"] == stamp["call_id"]
            assert head["x-steelyard-receipt"] == stamp["receipt_id"]
            assert int(head["x-steelyard-cost-nano"]) == stamp["cost_nano"] == cost
            assert head["x-request-id"].startswith("req_")

    asyncio.run(story())


def test_chat_stream_gives_pieces_usage_and_stamp(tmp_path: Path) -> None:
    """Role first, the words, finish reason, then usage with our stamp; the client sees a whole answer."""

    async def story() -> None:
        async with open_world(tmp_path) as world, world.client() as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert chunks[0].choices[0].delta.role == "assistant"
            text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
            assert "".join(text) == "hello there, world"
            assert len([part for part in text if part]) == 3
            assert chunks[-2].choices[0].finish_reason == "stop"
            last = chunks[-1]
            assert last.usage is not None
            assert last.usage.completion_tokens == len("hello there, world")
            stamp = last.steelyard  # type: ignore[attr-defined]
            assert stamp["receipt_id"].startswith("0x")
            assert stamp["cost_nano"] > 0

    asyncio.run(story())


def test_chat_stream_without_usage_has_its_stamp_in_the_finish_chunk(tmp_path: Path) -> None:
    """The last chunk before [DONE] names what made the answer."""

    async def story() -> None:
        async with open_world(tmp_path) as world, world.client() as client:
            chunks = [
                c async for c in await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            ]
            assert chunks[-1].choices[0].finish_reason == "stop"
            assert chunks[-1].steelyard["grade"] == "exact"  # type: ignore[attr-defined]
            assert all(chunk.usage is None for chunk in chunks)

    asyncio.run(story())


def test_sync_client_and_completions_work(tmp_path: Path) -> None:
    """The sync client in a thread: `completions`, whole and streamed, cut to max_tokens."""

    async def story() -> None:
        async with open_world(tmp_path) as world:
            base_url, secret = world.base_url, world.secret

            def talk() -> None:
                with openai.OpenAI(base_url=base_url, api_key=secret, max_retries=0) as client:
                    whole = client.completions.create(model=MODEL, prompt="one two three", max_tokens=7)
                    assert whole.choices[0].text == "one two"
                    assert whole.choices[0].finish_reason == "length"
                    chunks = list(client.completions.create(model=MODEL, prompt="one two three", stream=True))
                    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two three"
                    assert chunks[-1].choices[0].finish_reason == "stop"
                    chat = client.chat.completions.create(model=MODEL, messages=MESSAGES)
                    assert chat.choices[0].message.content == "hello there, world"

            await asyncio.to_thread(talk)

    asyncio.run(story())


def test_embeddings_come_in_both_encodings(tmp_path: Path) -> None:
    """The stock client asks for base64 by itself; floats give the same vectors."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=0) as world, world.client() as client:
            await world.add_node(0, service=Vectors())  # type: ignore[arg-type]
            default = await client.embeddings.create(model="vectors-1", input=["a", "b"])
            floats = await client.embeddings.create(model="vectors-1", input=["a", "b"], encoding_format="float")
            assert [item.embedding for item in default.data] == [[0, 0.5, -1], [1, 0.5, -1]]
            assert [item.embedding for item in floats.data] == [item.embedding for item in default.data]
            assert default.usage.prompt_tokens == 4
            single = await client.embeddings.create(model="vectors-1", input="a")
            assert len(single.data) == 1

    asyncio.run(story())


def test_models_are_listed_with_prices_and_parameters(tmp_path: Path) -> None:
    """`models.list` and `models.retrieve`, with what a buyer must know under `steelyard`."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=2) as world, world.client() as client:
            (model,) = [model async for model in await client.models.list()]
            assert model.id == MODEL
            facts = model.steelyard  # type: ignore[attr-defined]
            assert facts["providers"] == 2
            assert facts["price_in_nano_per_million"] == {"min": PRICE_IN, "max": PRICE_IN}
            assert facts["grades"] == ["exact"]
            assert "max_tokens" in facts["parameters"]
            assert (await client.models.retrieve(MODEL)).id == MODEL

    asyncio.run(story())


def test_calls_spread_over_equal_providers(tmp_path: Path) -> None:
    """Three equal providers share different conversations."""

    async def story() -> None:
        async with open_world(tmp_path, nodes=3) as world:
            await asyncio.gather(*(world.ask(f"question {number}") for number in range(30)))
            assert all(node.requests for node in world.nodes)

    asyncio.run(story())
