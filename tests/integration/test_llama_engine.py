"""The real model in process: sessions that don't disturb each other, slots that are freed, a door that stays locked."""

from __future__ import annotations

import asyncio
import math
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from tests.llama_world import MODEL, fetch_test_model, opened
from tests.service_world import ignore

from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_server import LlamaOptions
from steelyard.engines.port import Candidates
from steelyard.errors import BadRequest, ConfigError, Unavailable
from steelyard.protocol.sampler import SamplerParams, sample

QUESTION = [{"role": "user", "content": "Name three colours."}]
OTHER = [{"role": "user", "content": "Write about the sea and the wind. 🦄"}]


async def generate(engine: LlamaEngine, prompt: list[int], seed: int, count: int) -> list[int]:
    """Sample this many tokens from a session of its own."""
    session = await engine.open_session(prompt)
    tokens: list[int] = []
    try:
        for position in range(count):
            found = await session.candidates()
            tokens.append(sample(found.ids, found.logprobs, SamplerParams(0.8, 0.95), seed, position))
            session.push(tokens[-1])
    finally:
        await session.aclose()
    return tokens


def test_interleaved_sessions_equal_the_serial_run() -> None:
    """Three sessions at once, two of them on one prompt, give token for token what each gives alone, though computed
    together.
    """

    async def run() -> None:
        async with opened(slots=3) as engine:
            first, second = await engine.render(QUESTION), await engine.render(OTHER)
            orders = [(first, 1, 10), (second, 2, 8), (first, 3, 10)]
            alone = [await generate(engine, *order) for order in orders]
            together = await asyncio.gather(*(generate(engine, *order) for order in orders))
            assert list(together) == alone
            assert alone[0] == await generate(engine, first, 1, 10) != alone[2]

    asyncio.run(run())


def test_candidates_are_the_64_likeliest_of_a_distribution() -> None:
    """Likeliest first, log-probabilities of one distribution, each token's bytes known, also where a character is
    cut.
    """

    async def run() -> Candidates:
        async with opened(slots=1) as engine:
            session = await engine.open_session(await engine.tokenise("The opposite of hot is"))
            found = await session.candidates()
            assert engine.token_bytes(found.ids[0]) == b" cold"
            await session.aclose()
            # The token before the last byte of an emoji: llama.cpp itself shows nothing for it.
            cut = (await engine.tokenise("🦄"))[:-1]
            session = await engine.open_session(cut)
            assert len((await session.candidates()).ids) == 64
            await session.aclose()
            return found

    found = asyncio.run(run())
    assert len(found.ids) == len(set(found.ids)) == 64
    assert list(found.logprobs) == sorted(found.logprobs, reverse=True)
    assert 0.3 < math.fsum(math.exp(logprob) for logprob in found.logprobs) <= 1.0001


def test_tokens_spell_the_text_that_was_tokenised() -> None:
    """Our table of pieces, read from the file, and llama.cpp's tokenizer agree byte for byte; control tokens spell
    nothing.
    """
    texts = ["Hello, world!", "ß 🦄🌈 ¿qué?\n\n\ttabs   spaces", "1234567890", "a\x00b", "日本語のテキスト", "é"]

    async def run() -> None:
        async with opened(slots=1) as engine:
            for text in texts:
                assert b"".join(map(engine.token_bytes, await engine.tokenise(text))) == text.encode()
            rendered = await engine.render(QUESTION)
            assert b"".join(map(engine.token_bytes, rendered)).endswith(b"user\nName three colours.\nassistant\n")
            assert engine.is_end(2)
            assert not engine.is_end(1)

    asyncio.run(run())


def test_info_is_what_the_file_says() -> None:
    """Quantisation, hashes, dimension and a template's overhead that really bounds it."""

    async def run() -> None:
        async with opened(slots=1) as engine:
            info = engine.info
            assert (info.quantisation, info.embedding_dimension, info.context_tokens) == ("Q4_1", 576, 512)
            assert (info.weights_sha256, info.weights_url) == (MODEL.sha256, MODEL.url)
            assert len(info.tokenizer_hash) == len(info.template_hash) == 64
            assert info.engine_version.startswith("xllamacpp ")
            for messages in (
                [{"role": "user", "content": text}]
                for text in ("", " ", "\n", "\n\n\n", "1", "\x00", "🦄", " a", "<|im_end|>")
            ):
                tokens = await engine.render(messages)
                text = f"{messages[0]['role']}\n{messages[0]['content']}"
                assert len(tokens) <= len(text.encode()) + info.template_request_tokens + info.template_message_tokens

    asyncio.run(run())


def test_own_door_of_the_library_stays_locked_without_its_key() -> None:
    """Its HTTP port listens on this machine alone, and answers 401 to whoever lacks the random key."""

    async def run() -> None:
        async with opened(slots=1) as engine, aiohttp.ClientSession() as stranger:
            assert engine.base_url.startswith("http://127.0.0.1:")
            for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/slots", "/props", "/v1/models"):
                for headers in ({}, {"Authorization": "Bearer guess"}):
                    async with stranger.post(engine.base_url + path, json={"prompt": "x"}, headers=headers) as response:
                        assert response.status == 401, path

    asyncio.run(run())


def test_cancelling_a_long_prompt_is_prompt_and_frees_the_slot() -> None:
    """A prompt is processed in pieces: cancelling waits for one piece, and the only slot serves the next session at
    once.
    """

    async def run() -> None:
        async with opened(slots=1) as engine:
            prompt = (await engine.tokenise("word " * 500))[:480]
            task = asyncio.create_task(generate(engine, prompt, 1, 5))
            await asyncio.sleep(0.3)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < 0.2
            assert len(await generate(engine, await engine.tokenise("Hi"), 1, 2)) == 2
            # Far less than the prompt's remaining pieces would have taken (about 4 s of compute).
            assert time.monotonic() - started < 3

    asyncio.run(run())


def test_engine_that_is_full_says_so() -> None:
    """Beyond a bounded queue a session is refused, never queued for ever; what waits is served when a slot is free."""

    async def run() -> None:
        async with opened(slots=1) as engine:
            prompt = await engine.tokenise("Hi")
            session = await engine.open_session(prompt)
            waiting = [asyncio.create_task(engine.open_session(prompt)) for _ in range(16)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="queue is full"):
                await engine.open_session(prompt)
            await session.aclose()
            first = await waiting[0]
            await first.aclose()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(run())


def test_prompt_that_fills_the_context_is_refused() -> None:
    """At least one token must fit behind the prompt; the message gives both numbers."""

    async def run() -> None:
        async with opened(slots=1) as engine:
            for tokens in ([], [28] * 512):
                with pytest.raises(BadRequest, match=f"{len(tokens)} tokens, this model takes 1 to 511"):
                    await engine.open_session(tokens)
            session = await engine.open_session([28] * 511)
            assert session.room == 1
            session.push(28)
            assert len((await session.candidates()).ids) == 64
            session.push(28)
            with pytest.raises(BadRequest, match="have 513 tokens, this model takes 512"):
                await session.candidates()
            await session.aclose()
            session = await engine.open_session([28, 49152])
            with pytest.raises(BadRequest, match="token 49152 is not in this model's vocabulary"):
                await session.candidates()
            await session.aclose()

    asyncio.run(run())


def test_embeddings_of_like_texts_are_closer_than_of_unlike_ones() -> None:
    """Unit length, the model's dimension, and nearer for two sentences about cats than for one about money."""
    texts = ["A cat sat on the mat.", "A kitten is lying on a rug.", "Quarterly revenue rose by five percent."]

    async def run() -> None:
        async with opened(slots=1) as engine:
            made = await engine.embed(texts)
            vectors = [struct.unpack("<576f", vector) for vector in made.vectors]
            for vector in vectors:
                assert math.fsum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
            near, far = (
                (math.sumprod(vectors[0], other) for other in vectors[1:])
                if hasattr(math, "sumprod")
                else (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
            )
            assert near > far + 0.05
            assert made.tokens == sum([len(await engine.tokenise(text)) for text in texts])
            with pytest.raises(BadRequest, match="embeds at most 2048"):
                await engine.embed(["short", "word " * 2100])

    asyncio.run(run())


def test_weight_file_that_is_missing_or_damaged_stops_the_start(tmp_path: Path) -> None:
    """One clear line each, naming the file."""
    damaged, cut = tmp_path / "damaged.gguf", tmp_path / "cut.gguf"
    damaged.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 40)

    async def prepare(path: Path, **options: int) -> None:
        engine = LlamaEngine(path, options=LlamaOptions(**options))
        try:
            await engine.prepare(ignore)
        finally:
            await engine.aclose()

    async def run() -> None:
        whole = await fetch_test_model()
        with whole.open("rb") as file:
            cut.write_bytes(file.read(8_000_000))
        for path, words in (
            (tmp_path / "none.gguf", "does not exist"),
            (damaged, "not a readable"),
            (cut, "can't load"),
        ):
            with pytest.raises(ConfigError, match=words):
                await prepare(path)
        with pytest.raises(ConfigError, match="has at most 8192"):
            await prepare(whole, context_tokens=9000)

    asyncio.run(run())


def test_library_of_an_untested_version_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine binds the C API of one version: with another it says which to install."""
    monkeypatch.setattr("steelyard.engines.llama_library.version", lambda _: "2027.1.1")

    async def run() -> None:
        with pytest.raises(ConfigError, match=r"2027\.1\.1 was never tested.*pip install xllamacpp=="):
            async with opened(slots=1):
                pass

    asyncio.run(run())


def test_threads_wait_passively() -> None:
    """The library is loaded with threads that sleep while they wait; spinning ones collapse on busy cores."""
    code = (
        "import asyncio, os, sys\n"
        "from tests.llama_world import opened\n"
        "async def run():\n"
        "    assert 'xllamacpp' not in sys.modules\n"
        "    async with opened(slots=1):\n"
        "        assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'\n"
        "        assert 'xllamacpp' in sys.modules\n"
        "asyncio.run(run())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**environment, "PYTHONPATH": str(root)})
