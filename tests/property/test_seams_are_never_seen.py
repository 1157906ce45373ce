"""An answer that goes on elsewhere after any of its chunks is the undisturbed one: text, bill, evidence and ending."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.service_world import END, SAMPLES, LetterEngine, body, collect, ignore

from steelyard.errors import BadRequest
from steelyard.services.chat import ChatService
from steelyard.services.chat.evidence import ROW_BYTES
from steelyard.services.port import Chunk, Context, Prefix, Request, Result, encode_prefix

SCRIPTS = st.lists(
    st.one_of(
        st.sampled_from([*"ß🦄 é".encode(), 256, 257, 258, 261, END]),
        st.integers(97, 122),
        st.just(0xFF),  # never part of a character
    ),
    max_size=16,
)
STOPS = st.lists(st.sampled_from([" quick", "ab", "🦄", "qu", "é ", "zz"]), max_size=2, unique=True)


def build(script: list[int], context_tokens: int = 256) -> ChatService:
    """A chat service on a model that wants to say these tokens."""
    engine = LetterEngine(script, context_tokens=context_tokens)
    service = ChatService(ChatService.describe("letters", engine.info), engine=engine)
    asyncio.run(service.prepare(ignore))
    return service


def cut(chunks: list[Chunk], count: int) -> Prefix:
    """What is known after so many chunks."""
    kept = chunks[:count]
    return Prefix(
        b"".join(chunk.content for chunk in kept),
        sum(chunk.units_out for chunk in kept),
        b"".join(chunk.trail for chunk in kept),
    )


async def go_on(service: ChatService, request: Request, seed: int, prefix: Prefix) -> tuple[Result, list[Chunk]]:
    """The rest of an answer."""
    context = Context(seed=seed, prefix=encode_prefix(prefix))
    chunks = [chunk async for chunk in service.run(request, context)]
    assert chunks[-1].finish is not None
    joined = cut(chunks, len(chunks))
    units_in = sum(chunk.units_in for chunk in chunks)
    trace = bytes(context.trace)
    return Result(
        content=joined.content, units_in=units_in, units_out=joined.units_out, finish=chunks[-1].finish, trace=trace
    ), chunks


def entries(chunks: list[Chunk]) -> list[Any]:
    """The log-probabilities that some chunks show."""
    return [entry for c in chunks if c.detail for entry in json.loads(c.detail)["logprobs"]["content"]]


@given(
    SCRIPTS,
    STOPS,
    st.integers(1, 24),
    st.sampled_from([0, 0.8, 1.5]),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.data(),
)
def test_answer_cut_after_any_chunk_goes_on_as_if_nothing_had_happened(
    script: list[int],
    stops: list[str],
    max_tokens: int,
    temperature: float,
    seed: int,
    logprobs: bool,
    data: st.DataObject,
) -> None:
    """Content, finish, output units, log-probabilities and rows of the two parts are the whole one's; it replays."""
    service = build(script, data.draw(st.sampled_from([76, 80, 256])))
    request = service.parse(
        "chat.completions",
        body(
            SAMPLES["chat.completions"], max_tokens=max_tokens, stop=stops, temperature=temperature, logprobs=logprobs
        ),
    )
    whole, chunks = asyncio.run(collect(service, request, seed))
    count = data.draw(st.integers(1, len(chunks)))
    prefix = cut(chunks, count)
    quote = service.quote_rest(request, prefix)
    assert quote is not None
    rest, more = asyncio.run(go_on(service, request, seed, prefix))
    assert prefix.content + rest.content == whole.content
    assert (rest.finish, prefix.units_out + rest.units_out) == (whole.finish, whole.units_out)
    assert rest.units_in == whole.units_in + prefix.units_out
    assert rest.units_in <= quote.max_units_in
    assert rest.units_out <= quote.max_units_out
    assert rest.trace == whole.trace[prefix.units_out * ROW_BYTES :]
    for chunk in more:
        chunk.content.decode()
    assert entries(chunks[:count]) + entries(more) == entries(chunks)
    claimed = service.evidence(request, rest)
    public = msgspec.structs.replace(rest, trace=b"")
    if claimed:
        again = asyncio.run(service.replay(request, public, claimed, Context(seed=seed, prefix=encode_prefix(prefix))))
        found = service.compare(public, claimed, again)
        assert (found.is_wellformed, found.distance) == (True, 0.0)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=40), st.integers(0, 12), st.binary(max_size=48))
def test_prefix_that_does_not_fit_is_refused_and_nothing_else(
    seed: int, content: bytes, units: int, trail: bytes
) -> None:
    """Whatever a prefix claims, a run gives chunks or a refusal that names it."""
    service = build(list(b"hello there"))
    request = service.parse("chat.completions", body(SAMPLES["chat.completions"], max_tokens=8))
    prefix = Prefix(content, units, trail)
    assume(content != b"" or units)
    try:
        rest, _ = asyncio.run(go_on(service, request, seed, prefix))
    except BadRequest as error:
        assert error.code == "bad_prefix"  # noqa: PT017 - either is right, nothing else is
    else:
        assert service.quote_rest(request, prefix) is not None
        assert rest.units_out + units <= 8
