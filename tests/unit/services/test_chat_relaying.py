"""services/chat/relaying.py: an engine that samples by itself, billed by its own usage and never by more than was
quoted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from tests.service_world import SAMPLES, LetterEngine, ScriptedRelay, body, collect, ignore

from steelyard.engines.port import Delta
from steelyard.errors import ConfigError, Unavailable
from steelyard.services.chat import ChatService
from steelyard.services.port import Context, FinishReason, Grade

CHAT = SAMPLES["chat.completions"]
END = (Delta(finish_reason="stop"), Delta(tokens_in=11, tokens_out=3))


def relayed(deltas: Sequence[Delta], *parameters: str) -> tuple[ChatService, ScriptedRelay]:
    """A chat service that relays to an upstream playing these deltas."""
    engine = ScriptedRelay(deltas, parameters)
    return ChatService(ChatService.describe("far", engine.info), engine=engine), engine


def answer(service: ChatService, seed: int = 0, **fields: Any) -> tuple[Any, list[Any]]:
    """Answer the sample conversation."""
    return asyncio.run(collect(service, service.parse("chat.completions", body(CHAT, **fields)), seed))


def test_answer_is_the_upstreams_text_billed_by_its_usage() -> None:
    """Pieces count one unit as they pass, and the last chunk settles to what the upstream counted."""
    service, _ = relayed([Delta(text="Hel"), Delta(text="lo"), *END])
    result, chunks = answer(service)
    assert (result.content, result.units_in, result.units_out) == (b"Hello", 11, 3)
    assert [chunk.units_out for chunk in chunks] == [1, 1, 1]
    assert result.finish is FinishReason.STOP


def test_usage_above_the_quote_is_cut_to_it() -> None:
    """A receipt above its quote would be refused: the provider bears what its upstream charges beyond."""
    service, _ = relayed([Delta(text="x"), END[0], Delta(tokens_in=10**6, tokens_out=10**6)])
    request = service.parse("chat.completions", body(CHAT, max_tokens=7))
    result, _ = asyncio.run(collect(service, request))
    quote = service.quote(request)
    assert (result.units_in, result.units_out) == (quote.max_units_in, quote.max_units_out) == (quote.max_units_in, 7)


@pytest.mark.parametrize("missing", [END[:1], END[1:], ()])
def test_stream_without_reason_or_usage_is_an_error(missing: Sequence[Delta]) -> None:
    """What was cut never looks complete."""
    service, _ = relayed([Delta(text="x"), *missing])
    with pytest.raises(Unavailable, match="without a"):
        answer(service)


def test_upstream_gets_what_is_honoured_and_nothing_else() -> None:
    """Honoured parameters, the quote's max_tokens and the order's seed travel; neutral fields and nulls do not."""
    service, engine = relayed([Delta(text="x"), *END], "seed", "min_p", "tools", "tool_choice")
    answer(service, 2**64 - 2, temperature=0.5, user="somebody", min_p=0.1, tools=[{"type": "function"}], stop=["q"])
    assert engine.sent["messages"] == CHAT["messages"]
    assert engine.sent["temperature"] == 0.5
    assert engine.sent["min_p"] == 0.1
    assert engine.sent["tools"] == [{"type": "function"}]
    assert engine.sent["stop"] == ["q"]
    assert engine.sent["seed"] == -2
    assert engine.sent["max_tokens"] == 250
    assert not {"user", "model", "stream", "top_p", "extra"} & set(engine.sent)


def test_tool_calls_are_content_and_deltas_at_once() -> None:
    """The response hash covers id, name and arguments of every call; the client gets OpenAI's deltas."""
    calls = [
        Delta(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]),
        Delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        Delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        Delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}]),
        Delta(finish_reason="tool_calls"),
        END[1],
    ]
    service, _ = relayed(calls, "tools")
    result, chunks = answer(service, tools=[{"type": "function"}])
    assert result.content.decode() == '\x1ec1\x1ff\x1f{"a":1}\x1ec2\x1fg\x1f{}'
    assert result.finish is FinishReason.TOOL_CALLS
    assert json.loads(chunks[0].detail)["tool_calls"][0]["id"] == "c1"


def test_mixed_tool_calls_are_refused() -> None:
    """Content in an order that nobody could hash again is an upstream's error."""
    pieces = [{"index": 1, "id": "c2", "function": {"name": "g", "arguments": ""}}]
    service, _ = relayed([Delta(tool_calls=pieces), *END], "tools")
    with pytest.raises(Unavailable, match="mixes"):
        answer(service)


def test_logprobs_are_always_kept_and_shown_when_asked_for() -> None:
    """The trace keeps them as evidence either way; the caller sees them only on request."""
    raw = msgspec.Raw(b'{"content":[{"token":"x","logprob":-0.1}]}')
    for fields, is_shown in (({"logprobs": True}, True), ({}, False)):
        service, engine = relayed([Delta(text="x", logprobs=raw), *END], "logprobs", "top_logprobs")
        result, chunks = answer(service, **fields)
        assert engine.sent["logprobs"] is True
        assert (b"logprobs" in chunks[0].detail) is is_shown
        claimed = service.evidence(service.parse("chat.completions", body(CHAT)), result)
        assert bytes(raw) in claimed
        assert service.compare(result, claimed, b"").is_wellformed
        assert not service.compare(result, claimed[:-1], b"").is_wellformed


def test_grade_says_what_can_be_checked() -> None:
    """Log-probabilities make it `logprobs`, without them nothing can be checked."""
    assert relayed([], "logprobs")[0].grade is Grade.LOGPROBS
    assert relayed([])[0].grade is Grade.UNCHECKED


def test_replay_of_a_relayed_answer_is_declined() -> None:
    """Nobody can replay a sampler that isn't ours; a validator abstains."""
    service, _ = relayed([Delta(text="x"), *END])
    request = service.parse("chat.completions", body(CHAT))
    result, _ = asyncio.run(collect(service, request))
    with pytest.raises(Unavailable, match="can't be replayed"):
        asyncio.run(service.replay(request, result, service.evidence(request, result), Context()))


def test_leaving_early_closes_the_upstream() -> None:
    """A caller who hangs up stops the upstream's generation too."""
    service, engine = relayed([Delta(text="x")] * 50)

    async def leave() -> None:
        chunks = service.run(service.parse("chat.completions", body(CHAT)), Context())
        async with aclosing(chunks):
            async for _ in chunks:
                break

    asyncio.run(leave())
    assert engine.is_closed


def test_engine_of_the_wrong_sort_stops_the_start() -> None:
    """A manifest that promises our sampler is not served by an engine with its own, nor the other way round."""
    stepped, relay = LetterEngine(), ScriptedRelay([])
    ours = ChatService.describe("letters", stepped.info)
    bare = {"weights": None, "tokenizer_hash": "", "template_hash": "", "quantisation": "", "context_tokens": 1000}
    promised = msgspec.structs.replace(ours, **bare)
    with pytest.raises(ConfigError, match="our sampler"):
        asyncio.run(ChatService(promised, engine=relay).prepare(ignore))
    theirs = msgspec.structs.replace(ours, sampler="")
    with pytest.raises(ConfigError, match="own sampler"):
        asyncio.run(ChatService(theirs, engine=stepped).prepare(ignore))
