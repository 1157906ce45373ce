"""services/embeddings: vectors in the order of their texts, and a distance that an untrusted vector can't break."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec
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


def test_check_names_a_wrong_bill_or_ending() -> None:
    """There is no evidence beside the vectors, and the bill is the tokens of the inputs."""
    service = embeddings()
    request, result, _ = run(service)
    assert service.evidence(request, result) == b""
    for changes, code in (
        ({"units_in": 99}, "evidence_bill"),
        ({"units_out": 1}, "evidence_bill"),
        ({"finish": FinishReason.LENGTH}, "evidence_finish"),
    ):
        padded = msgspec.structs.replace(result, trace=b"", **changes)
        with pytest.raises(BadMessage) as caught:
            asyncio.run(service.replay(request, padded, b"", Context()))
        assert caught.value.code == code
    replayed = asyncio.run(service.replay(request, result, b"", Context()))
    assert not service.compare(result, b"SYV1", replayed).is_wellformed
    with pytest.raises(BadMessage):
        service.compare(result, b"", replayed[:-1])


def test_scores_are_cosine_and_units_in_the_last_place() -> None:
    """One score a vector: a number that is off by 2^-20 is 16 units off, and still a match."""
    service = embeddings()
    request, result, _ = run(service)
    replayed = asyncio.run(service.replay(request, result, b"", Context()))
    numbers = list(struct.unpack("<48f", result.content))
    numbers[0] += 2.0**-20
    off = msgspec.structs.replace(result, content=struct.pack("<48f", *numbers))
    first, second, third = service.compare(off, b"", replayed).scores
    assert (first.is_match, second.is_match, third.is_match) == (True, True, True)
    assert first.gap == pytest.approx(16.0, abs=1.0)
    assert (second.gap, second.margin) == (0.0, pytest.approx(0.0, abs=1e-12))
    numbers[0] += 0.1
    far = msgspec.structs.replace(result, content=struct.pack("<48f", *numbers))
    assert [score.is_match for score in service.compare(far, b"", replayed).scores] == [False, True, True]


def test_cut_vectors_are_compared_as_far_as_they_came() -> None:
    """Of a cancelled answer the vectors that were sent are the first ones."""
    service = embeddings()
    request, result, _ = run(service)
    replayed = asyncio.run(service.replay(request, result, b"", Context()))
    cut = msgspec.structs.replace(result, content=result.content[:64], finish=FinishReason.CANCELLED)
    found = service.compare(cut, b"", replayed)
    assert (found.is_wellformed, found.positions, found.distance < 1e-9) == (True, 1, True)


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
