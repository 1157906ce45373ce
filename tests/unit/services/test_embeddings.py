"""services/embeddings: vectors in the order of their texts, and a distance that an untrusted vector can't break."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from tests.service_world import LetterEngine, body, collect, ignore

from steelyard.errors import BadMessage, BadRequest, ConfigError
from steelyard.services.embeddings import EmbeddingsService
from steelyard.services.port import Context, FinishReason, Result

GOOD: dict[str, Any] = {"model": "m", "input": ["one", "two", "three"]}


def embeddings(engine: LetterEngine | None = None) -> EmbeddingsService:
    """An embeddings service on the little model."""
    engine = engine or LetterEngine()
    return EmbeddingsService(EmbeddingsService.describe("vectors", engine.info), engine=engine)


def run(service: EmbeddingsService, **fields: Any) -> tuple[Any, Result, list[Any]]:
    """Parse and run a request; return it, its result and the chunks."""
    request = service.parse("embeddings", body({**GOOD, **fields}))
    return request, *asyncio.run(collect(service, request))


def test_content_is_one_vector_per_text_in_order() -> None:
    """Each text alone gives the same bytes as its place in the list."""
    service = embeddings()
    request, result, _ = run(service)
    alone = b"".join(run(service, input=text)[1].content for text in GOOD["input"])
    assert result.content == alone
    assert (request.count, len(result.content)) == (3, 3 * 16 * 4)


def test_many_texts_come_in_chunks_between_vectors() -> None:
    """Twenty texts are three chunks of whole vectors, each with its own units."""
    _, result, chunks = run(embeddings(), input=[f"text {n}" for n in range(20)])
    assert [len(chunk.content) // 64 for chunk in chunks] == [8, 8, 4]
    assert all(chunk.units_in > 0 for chunk in chunks)
    assert (result.units_out, result.finish) == (0, FinishReason.STOP)


def test_quote_bounds_what_is_billed() -> None:
    """Input is bounded by bytes per text, output is free."""
    service = embeddings()
    request, result, _ = run(service, input=["a", "ß" * 200])
    quote = service.quote(request)
    assert result.units_in <= quote.max_units_in == 3 + 64
    assert quote.max_units_out == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1, 2]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "x" * 700}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 8}, "dimensions"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_request_that_can_not_be_served_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Empty texts, token ids, too many, too long, other lengths: each is a 400 that names its field."""
    with pytest.raises(BadRequest) as caught:
        embeddings().parse("embeddings", body({**GOOD, **fields}))
    assert caught.value.param == param


def test_dimensions_that_are_the_models_own_are_accepted() -> None:
    """Asking for what there is, is no error; the encoding is passed on."""
    request = embeddings().parse("embeddings", body(GOOD, dimensions=16, encoding_format="base64"))
    assert request.encoding == "base64"


def test_check_finds_other_vectors() -> None:
    """An honest engine is at distance zero, a slightly noisy one near it, another model far away."""
    honest = embeddings()
    request, result, _ = run(honest)
    claimed = honest.evidence(request, result)

    def distance(checker: EmbeddingsService) -> float:
        replayed = asyncio.run(checker.replay(request, result, claimed, Context()))
        return honest.compare(result, claimed, replayed).distance

    assert distance(honest) == pytest.approx(0.0, abs=1e-6)
    assert distance(embeddings(LetterEngine(noise=0.1))) < 0.001 < distance(embeddings(LetterEngine(noise=200)))


def test_check_refuses_evidence_of_something_else() -> None:
    """The evidence is the hash of the content, and the bill the tokens of the inputs."""
    service = embeddings()
    request, result, _ = run(service)
    with pytest.raises(BadMessage, match="not the hash"):
        asyncio.run(service.replay(request, result, b"SYV1" + bytes(32), Context()))
    padded = Result(content=result.content, units_in=99, units_out=0, finish=FinishReason.STOP)
    with pytest.raises(BadMessage, match="were billed"):
        asyncio.run(service.replay(request, padded, service.evidence(request, padded), Context()))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0, 3.4e38])
def test_comparing_absurd_vectors_never_raises(number: float) -> None:
    """A vector of zeros, infinities or no numbers is as far away as can be, and no crash."""
    service = embeddings()
    request, honest, _ = run(service)
    content = struct.pack("<16f", *[number] * 16) * 3
    absurd = Result(content=content, units_in=honest.units_in, units_out=0, finish=FinishReason.STOP)
    replayed = b"SYW1" + honest.content
    found = service.compare(absurd, service.evidence(request, absurd), replayed)
    assert found.is_wellformed
    assert found.distance > 0.1


def test_comparing_another_length_is_not_wellformed() -> None:
    """Missing vectors are a refusal, never a shorter comparison."""
    service = embeddings()
    request, result, _ = run(service)
    short = Result(content=result.content[:64], units_in=1, units_out=0, finish=FinishReason.STOP)
    replayed = b"SYW1" + result.content
    assert not service.compare(short, service.evidence(request, short), replayed).is_wellformed


def test_engine_with_other_vectors_is_refused() -> None:
    """Another dimension stops the start; an engine that answers too few vectors stops the call."""
    engine = LetterEngine()
    service = embeddings(engine)
    asyncio.run(service.prepare(ignore))
    with pytest.raises(ConfigError, match="needs an engine"):
        EmbeddingsService.describe("vectors")
    engine.info = type(engine.info)(engine="x", engine_version="1", model="x", embedding_dimension=8)
    with pytest.raises(ConfigError, match="promises"):
        asyncio.run(service.prepare(ignore))
