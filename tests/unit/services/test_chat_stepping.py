"""services/chat/stepping.py: an answer token by token, on a little model that is stepped."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from tests.service_world import END, SAMPLES, LetterEngine, body, collect, ignore

from steelyard.errors import BadRequest, ConfigError
from steelyard.services.chat import ChatService
from steelyard.services.chat.evidence import ROW_BYTES
from steelyard.services.port import Context, FinishReason, Grade, Result

CHAT = SAMPLES["chat.completions"]
UNICORN = list("🦄".encode())


def chat(engine: LetterEngine) -> ChatService:
    """A chat service on this engine, prepared."""
    service = ChatService(ChatService.describe("letters", engine.info), engine=engine)
    asyncio.run(service.prepare(ignore))
    return service


def answer(script: list[int], order_seed: int = 0, **fields: Any) -> tuple[Result, list[Any]]:
    """Answer the sample conversation with a model that wants to say these tokens."""
    service = chat(LetterEngine(script))
    return asyncio.run(collect(service, service.parse("chat.completions", body(CHAT, **fields)), order_seed))


def test_answer_ends_with_the_models_end_and_bills_it() -> None:
    """The end token costs a unit and shows nothing; the first chunk carries the prompt's units."""
    result, chunks = answer([*b"hi", END])
    assert (result.content, result.finish, result.units_out) == (b"hi", FinishReason.STOP, 3)
    assert [chunk.units_in for chunk in chunks] == [result.units_in, 0, 0]
    assert len(result.trace) == 3 * ROW_BYTES


def test_answer_ends_at_max_tokens() -> None:
    """The last token is shown and the reason is the length."""
    result, _ = answer(list(b"hello"), max_tokens=3)
    assert (result.content, result.finish, result.units_out) == (b"hel", FinishReason.LENGTH, 3)


def test_answer_ends_where_the_context_ends() -> None:
    """No token is asked for that the context can't hold; prompt and answer fill it to the last."""
    service = chat(LetterEngine(list(b"x" * 200), context_tokens=80))
    result, _ = asyncio.run(collect(service, service.parse("chat.completions", body(CHAT, max_tokens=80))))
    assert result.finish is FinishReason.LENGTH
    assert result.units_in + result.units_out == 80


def test_answer_never_shows_half_a_character() -> None:
    """A character over four tokens is shown with its last; cut inside, it is left out and still billed."""
    _, chunks = answer([*UNICORN, *b"!", END])
    assert [chunk.content.decode() for chunk in chunks] == ["🦄", "!", ""]
    assert chunks[0].units_out == 4
    cut, _ = answer([*b"a", *UNICORN], max_tokens=3)
    assert (cut.content, cut.units_out) == (b"a", 3)


def test_answer_stops_before_a_stop_sequence_and_bills_its_tokens() -> None:
    """The stop sequence is sampled, billed and never shown."""
    result, chunks = answer([*b"one. two"], stop=[". t"])
    assert (result.content, result.finish, result.units_out) == (b"one", FinishReason.STOP, 6)
    assert b"." not in b"".join(chunk.content for chunk in chunks)


def test_same_seed_gives_the_same_answer_and_another_one_another() -> None:
    """Choices follow from the seed alone."""
    answers = {seed: answer([], seed, max_tokens=12, temperature=1)[0].content for seed in (1, 2)}
    assert answer([], 1, max_tokens=12, temperature=1)[0].content == answers[1] != answers[2]


def test_seed_of_the_order_decides_and_not_the_requests() -> None:
    """The gateway put the caller's seed into the order; the node follows the order."""
    first = answer([], 1, max_tokens=8, temperature=1, seed=7)[0]
    assert first.content == answer([], 1, max_tokens=8, temperature=1, seed=8)[0].content


def test_logprobs_come_with_the_text_that_they_belong_to() -> None:
    """One entry per shown token, in OpenAI's shape, with as many alternatives as were asked for."""
    _, chunks = answer([*b"hi", END], logprobs=True, top_logprobs=2)
    entries = [json.loads(chunk.detail)["logprobs"]["content"] for chunk in chunks if chunk.detail]
    assert [[entry["token"] for entry in group] for group in entries] == [["h"], ["i"]]
    first = entries[0][0]
    assert first["bytes"] == [104]
    assert -0.01 < first["logprob"] <= 0
    assert len(first["top_logprobs"]) == 2
    assert first["top_logprobs"][0]["token"] == "h"


def test_logprobs_of_a_stop_sequence_are_not_shown() -> None:
    """What a stop sequence took is gone from the log-probabilities too."""
    _, chunks = answer([*b"one. two"], stop=[". t"], logprobs=True)
    entries = [entry for c in chunks if c.detail for entry in json.loads(c.detail)["logprobs"]["content"]]
    assert "".join(entry["token"] for entry in entries) == "one"


def test_logprobs_of_the_completions_api_have_its_shape() -> None:
    """Tokens, log-probabilities, alternatives and offsets stand in parallel lists."""
    service = chat(LetterEngine([*b"hi", END]))
    request = service.parse("completions", body(SAMPLES["completions"], logprobs=1))
    _, chunks = asyncio.run(collect(service, request))
    shapes = [json.loads(chunk.detail)["logprobs"] for chunk in chunks if chunk.detail]
    assert [shape["tokens"] for shape in shapes] == [["h"], ["i"]]
    assert [shape["text_offset"] for shape in shapes] == [[0], [1]]
    assert all(len(shape["top_logprobs"][0]) == 1 for shape in shapes)


def test_leaving_early_frees_the_slot_before_another_token() -> None:
    """A caller who hangs up costs no further step."""
    engine = LetterEngine(list(b"x" * 100))
    service = chat(engine)
    request = service.parse("chat.completions", body(CHAT, max_tokens=100))

    async def leave() -> None:
        async with aclosing(service.run(request, Context())) as chunks:
            async for _ in chunks:
                if engine.steps == 3:
                    break

    asyncio.run(leave())
    assert (engine.open_sessions, engine.steps) == (0, 3)


def test_cancelling_the_task_frees_the_slot() -> None:
    """A task that is cancelled between tokens leaves no session behind."""
    engine = LetterEngine(list(b"x" * 100))
    service = chat(engine)
    request = service.parse("chat.completions", body(CHAT, max_tokens=100))

    async def cancel() -> None:
        task = asyncio.create_task(collect(service, request))
        while engine.steps < 3:  # noqa: ASYNC110 - the little model has no event to wait for
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert engine.open_sessions == 0
    assert engine.steps <= 4


def test_prompt_above_the_quote_is_refused_before_a_slot_is_taken() -> None:
    """A template that adds more than its manifest says costs the caller nothing."""
    engine = LetterEngine()
    manifest = ChatService.describe("letters", engine.info)
    stingy = type(manifest.template_overhead)(per_request=0, per_message=0)
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__} | {"template_overhead": stingy}
    service = ChatService(type(manifest)(**fields), engine=engine)
    with pytest.raises(BadRequest, match="its bytes and the context allow"):
        asyncio.run(collect(service, service.parse("chat.completions", body(CHAT))))
    assert engine.steps == 0


def test_quote_bounds_every_answer() -> None:
    """No prompt costs more than bytes and template, no answer more than max_tokens or the default."""
    service = chat(LetterEngine(list(b"x" * 300)))
    for fields in ({"max_tokens": 5}, {}, {"max_tokens": 200}):
        request = service.parse("chat.completions", body(CHAT, **fields))
        quote = service.quote(request)
        result, _ = asyncio.run(collect(service, request))
        assert result.units_in <= quote.max_units_in
        assert result.units_out <= quote.max_units_out


def test_engine_that_differs_from_the_manifest_stops_the_start() -> None:
    """Another tokenizer, template, hash or context is no start at all, and the message names both values."""
    engine = LetterEngine()
    manifest = ChatService.describe("letters", engine.info)
    for name, value in (("tokenizer_hash", "00" * 32), ("template_hash", "00" * 32), ("context_tokens", 512)):
        other = type(manifest)(**{f: getattr(manifest, f) for f in manifest.__struct_fields__} | {name: value})
        with pytest.raises(ConfigError, match="promises"):
            asyncio.run(ChatService(other, engine=engine).prepare(ignore))
    with pytest.raises(ConfigError, match="needs an engine"):
        asyncio.run(ChatService(manifest).prepare(ignore))


def test_owned_sampler_is_graded_statistical() -> None:
    """The manifest names the sampler, and that is the grade."""
    assert chat(LetterEngine()).grade is Grade.STATISTICAL
