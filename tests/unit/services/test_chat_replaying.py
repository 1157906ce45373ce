"""services/chat/replaying.py: an answer forced again, and every way in which a claim can break a rule."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from tests.service_world import END, SAMPLES, START, LetterEngine, body, collect, ignore

from steelyard.errors import BadMessage, BadRequest
from steelyard.services.chat import ChatService
from steelyard.services.chat.evidence import BREACHES, NO_TOKEN, ROW_BYTES, decode_claim, encode_claim
from steelyard.services.port import Context, FinishReason, Request, Result

CHAT = SAMPLES["chat.completions"]


def chat(engine: LetterEngine) -> ChatService:
    """A chat service on this engine, prepared."""
    service = ChatService(ChatService.describe("letters", engine.info), engine=engine)
    asyncio.run(service.prepare(ignore))
    return service


def answered(script: list[int], seed: int = 0, **fields: Any) -> tuple[ChatService, Request, Result, bytes]:
    """The service, the request, its result without trace and its evidence."""
    service = chat(LetterEngine(script))
    request = service.parse("chat.completions", body(CHAT, **fields))
    result, _ = asyncio.run(collect(service, request, seed))
    return service, request, msgspec.structs.replace(result, trace=b""), service.evidence(request, result)


def breach(service: ChatService, request: Request, result: Result, claimed: bytes) -> str:
    """The code of the breach that a replay finds."""
    with pytest.raises(BadMessage) as caught:
        asyncio.run(service.replay(request, result, claimed, Context()))
    assert caught.value.code in BREACHES
    return caught.value.code


def retold(claimed: bytes, tokens: list[int], prompt_tokens: int | None = None) -> bytes:
    """A claim of other tokens, its rows otherwise like the first one's."""
    claim, row = decode_claim(claimed), claimed[12 : 12 + ROW_BYTES]
    rows = b"".join(token.to_bytes(4, "big") + row[4:] for token in tokens)
    return encode_claim(claim.prompt_tokens if prompt_tokens is None else prompt_tokens, rows)


def test_replay_of_an_honest_answer_is_at_distance_zero() -> None:
    """The same model, forced along the same tokens, finds the same log-probabilities and no margin."""
    service, request, result, claimed = answered([], 5, max_tokens=20, temperature=1)
    replayed = asyncio.run(service.replay(request, result, claimed, Context(seed=5)))
    found = service.compare(result, claimed, replayed)
    assert (found.is_wellformed, found.distance, found.positions) == (True, 0.0, 20)
    assert all(score.is_match and score.margin == 0.0 == score.gap for score in found.scores)
    assert all(score.entropy > 0 and score.lead > 0 for score in found.scores)


def test_replay_under_another_seed_or_model_shows_a_distance() -> None:
    """Who samples with another seed, or serves another model, has margins to explain."""
    service, request, result, claimed = answered([], 5, max_tokens=20, temperature=1)
    for checker, seed in ((service, 6), (chat(LetterEngine(noise=0.3)), 5)):
        replayed = asyncio.run(checker.replay(request, result, claimed, Context(seed=seed)))
        found = service.compare(result, claimed, replayed)
        assert found.distance > 0.1
        assert not all(score.is_match for score in found.scores)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"content": b"ho"}, "evidence_spelling"),
        ({"content": b""}, "evidence_spelling"),
        ({"content": b"hi!"}, "evidence_spelling"),
        ({"units_out": 9}, "evidence_bill"),
        ({"units_out": 2}, "evidence_bill"),
        ({"units_in": 1}, "evidence_bill"),
        ({"finish": FinishReason.LENGTH}, "evidence_finish"),
        ({"finish": FinishReason.TOOL_CALLS}, "evidence_finish"),
        ({"finish": FinishReason.CONTENT_FILTER}, "evidence_finish"),
    ],
)
def test_answer_that_the_evidence_does_not_carry_is_a_named_breach(changes: dict[str, Any], code: str) -> None:
    """Other text, another bill, another ending: each has its code, and no engine worked for it."""
    service, request, result, claimed = answered([*b"hi", END])
    steps = service._running().steps  # type: ignore[union-attr]
    assert breach(service, request, msgspec.structs.replace(result, **changes), claimed) == code
    assert service._running().steps == steps  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        ([*b"hi", END, END], "evidence_after_end"),
        ([*b"h", END, *b"i"], "evidence_after_end"),
        ([*b"hi", START + 1, END], "evidence_token"),
        ([*b"hi", NO_TOKEN, END], "evidence_token"),
        ([*b"hi"], "evidence_finish"),
        ([*b"hi", END], ""),
    ],
)
def test_tokens_that_no_honest_answer_has_are_a_named_breach(tokens: list[int], code: str) -> None:
    """Tokens after the end, tokens that don't exist, and STOP without an end; the bill is made to fit."""
    service, request, result, claimed = answered([*b"hi", END])
    result = msgspec.structs.replace(result, units_out=len(tokens))
    if code:
        assert breach(service, request, result, retold(claimed, tokens)) == code
    else:
        asyncio.run(service.replay(request, result, retold(claimed, tokens), Context()))


def test_length_without_the_full_count_is_a_breach() -> None:
    """Who stops early and says `length` saved itself work; at the full count it is right, and STOP is wrong."""
    service, request, result, claimed = answered(list(b"abcdefgh"), max_tokens=8)
    assert result.finish is FinishReason.LENGTH
    asyncio.run(service.replay(request, result, claimed, Context()))
    short = msgspec.structs.replace(result, content=b"abcdefg", units_out=7)
    assert breach(service, request, short, retold(claimed, list(b"abcdefg"))) == "evidence_finish"
    stopped = msgspec.structs.replace(result, finish=FinishReason.STOP)
    assert breach(service, request, stopped, claimed) == "evidence_finish"


def test_more_tokens_than_were_asked_for_are_a_breach() -> None:
    """Whatever they spell and bill, eight are the most."""
    service, request, result, claimed = answered(list(b"abcdefgh"), max_tokens=8)
    long = msgspec.structs.replace(result, content=b"abcdefghi", units_out=9)
    assert breach(service, request, long, retold(claimed, list(b"abcdefghi"))) == "evidence_length"


def test_stop_sequence_ends_an_answer_and_its_claim() -> None:
    """STOP fits tokens that complete a stop sequence, and nothing may follow it."""
    service, request, result, claimed = answered(list(b"one. two"), stop=[". "])
    assert (result.content, result.finish) == (b"one", FinishReason.STOP)
    asyncio.run(service.replay(request, result, claimed, Context()))
    longer = msgspec.structs.replace(result, units_out=6)
    assert breach(service, request, longer, retold(claimed, list(b"one. t"))) == "evidence_after_end"


def test_context_that_is_full_ends_an_answer_by_length() -> None:
    """Where prompt and answer reach the context, `length` fits before `max_tokens`."""
    service = chat(LetterEngine(list(b"x" * 300), context_tokens=100))
    request = service.parse("chat.completions", body(CHAT, max_tokens=100))
    result, _ = asyncio.run(collect(service, request))
    assert result.units_in + result.units_out == 100
    asyncio.run(service.replay(request, result, service.evidence(request, result), Context()))


def test_cut_answer_may_be_a_beginning_and_bills_no_more_than_was_made() -> None:
    """Cancelled: what was made and not sent is in the evidence, and may not be billed beyond it."""
    service, request, result, claimed = answered([*b"hello", END])
    cut = msgspec.structs.replace(result, content=b"hel", units_out=3, finish=FinishReason.CANCELLED)
    asyncio.run(service.replay(request, cut, claimed, Context()))
    greedy = msgspec.structs.replace(cut, units_out=7)
    assert breach(service, request, greedy, claimed) == "evidence_bill"
    other = msgspec.structs.replace(cut, content=b"help")
    assert breach(service, request, other, claimed) == "evidence_spelling"


def test_prompt_tokens_of_the_claim_are_the_prompts() -> None:
    """A claim that counts the prompt otherwise is a breach even where the bill follows it."""
    service, request, result, claimed = answered([*b"hi", END])
    other = retold(claimed, [*b"hi", END], result.units_in + 5)
    padded = msgspec.structs.replace(result, units_in=result.units_in + 5)
    assert breach(service, request, padded, other) == "evidence_bill"


def replay_body(result: Result, evidence: bytes, seed: int = 5, **changes: Any) -> dict[str, Any]:
    """The body of `POST /v1/replays` for an answer."""
    return {
        "model": "m",
        "request": {**CHAT, "max_tokens": 20, "temperature": 1},
        "api": "chat.completions",
        "seed": str(seed),
        "evidence": msgspec.to_builtins(evidence),
        "content": msgspec.to_builtins(result.content),
        "units_in": result.units_in,
        "units_out": result.units_out,
        "finish": result.finish.name.lower(),
        **changes,
    }


def test_bought_replay_is_the_replay() -> None:
    """A seller answers with the very blob, bills prompt and claimed tokens within its quote, and can be checked."""
    service, request, result, claimed = answered([], 5, max_tokens=20, temperature=1)
    own = asyncio.run(service.replay(request, result, claimed, Context(seed=5)))
    order = service.parse("replays", json.dumps(replay_body(result, claimed)).encode())
    bought, _ = asyncio.run(collect(service, order))
    assert bought.content == own
    assert (bought.units_in, bought.units_out) == (result.units_in, 20)
    quote = service.quote(order)
    assert (bought.units_in <= quote.max_units_in, quote.max_units_out) == (True, 20)
    assert service.evidence(order, bought) == b""
    again = asyncio.run(service.replay(order, bought, b"", Context()))
    assert service.compare(bought, b"", again).distance == 0.0
    lying = msgspec.structs.replace(bought, content=bought.content[:-12] + b"\x40" + bought.content[-11:])
    assert service.compare(lying, b"", again).distance > 0
    assert not service.compare(msgspec.structs.replace(bought, content=b"x"), b"", again).is_wellformed


def test_bought_replay_of_a_breach_names_it_and_costs_nothing() -> None:
    """Who asks about malformed evidence learns its code; whatever the seller was sent, it answers."""
    service, _, result, claimed = answered([], 5, max_tokens=20, temperature=1)
    for evidence, changes, code in (
        (b"", {}, "evidence_malformed"),
        (claimed[:-1], {}, "evidence_malformed"),
        (claimed, {"units_out": 19}, "evidence_bill"),
        (claimed, {"content": ""}, "evidence_spelling"),
    ):
        order = service.parse("replays", json.dumps(replay_body(result, evidence, **changes)).encode())
        bought, _ = asyncio.run(collect(service, order))
        found = service.compare(result, evidence, bought.content)
        assert (found.code, bought.units_in, bought.units_out) == (code, 0, 0)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"seed": "x"}, "seed"),
        ({"seed": str(2**64)}, "seed"),
        ({"seed": 5}, "seed"),
        ({"api": "embeddings"}, "api"),
        ({"content": "§"}, "content"),
        ({"units_in": -1}, "units_in"),
        ({"finish": "ended"}, "finish"),
        ({"request": 5}, "request"),
        ({"request": {"model": "m"}}, "request.messages"),
        ({"request": {**CHAT, "model": "other"}}, "request.model"),
        ({"request": {**CHAT, "temperature": 9}}, "request.temperature"),
        ({"stream": True}, "stream"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_body_of_a_replay_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    """Each wrong field is a 400 that names it, those of the inner request with their path."""
    service, _, result, claimed = answered([], 5, max_tokens=20, temperature=1)
    with pytest.raises(BadRequest) as caught:
        service.parse("replays", json.dumps(replay_body(result, claimed) | changes).encode())
    assert caught.value.param == param
