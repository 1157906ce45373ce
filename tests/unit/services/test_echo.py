"""services/echo: the request comes back, exactly, and every byte of it is counted."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from tests.service_world import SAMPLES, body, collect

from steelyard.errors import BadMessage, ConfigError
from steelyard.services.echo import EchoService
from steelyard.services.port import Context, FinishReason, Grade, Quote

CHAT = SAMPLES["chat.completions"]


def echo(**options: str) -> EchoService:
    """An echo service with these options."""
    return EchoService(EchoService.describe("echo"), options=options)


def test_answer_is_the_last_user_message() -> None:
    """The content is the text, the units its bytes, and the quote equals what is billed."""
    service = echo()
    request = service.parse("chat.completions", body(CHAT))
    result, chunks = asyncio.run(collect(service, request))
    assert result.content == "Say ß 🦄 please.".encode()
    assert Quote(result.units_in, result.units_out) == service.quote(request)
    assert (len(chunks), result.finish, service.grade) == (1, FinishReason.STOP, Grade.EXACT)


def test_streamed_answer_comes_word_by_word_and_is_the_same() -> None:
    """Chunks differ, content does not; only the first carries input units."""
    service = echo()
    whole, _ = asyncio.run(collect(service, service.parse("chat.completions", body(CHAT))))
    streamed, chunks = asyncio.run(collect(service, service.parse("chat.completions", body(CHAT, stream=True))))
    assert streamed == whole
    assert [chunk.content.decode() for chunk in chunks] == ["Say ", "ß ", "🦄 ", "please."]
    assert [chunk.units_in > 0 for chunk in chunks] == [True, False, False, False]


def test_answer_is_cut_at_max_tokens_without_cutting_a_character() -> None:
    """Six bytes of `Say ß 🦄` end after the ß, and the reason is the length."""
    service = echo()
    for limit, expected in ((6, "Say ß"), (5, "Say "), (8, "Say ß ")):
        result, _ = asyncio.run(collect(service, service.parse("chat.completions", body(CHAT, max_tokens=limit))))
        assert (result.content.decode(), result.finish) == (expected, FinishReason.LENGTH)
        assert result.units_out <= limit


def test_answer_ends_before_a_stop_sequence() -> None:
    """`stop` is honoured as by any model."""
    service = echo()
    result, _ = asyncio.run(collect(service, service.parse("chat.completions", body(CHAT, stop=" 🦄"))))
    assert (result.content.decode(), result.finish) == ("Say ß", FinishReason.STOP)


def test_prompt_comes_back_too() -> None:
    """The completions API echoes its prompt."""
    service = echo()
    result, _ = asyncio.run(collect(service, service.parse("completions", body(SAMPLES["completions"]))))
    assert result.content == "Once upon ß 🦄".encode()


def test_empty_message_gives_one_empty_last_chunk() -> None:
    """Nothing to say still ends properly."""
    service = echo()
    request = service.parse("chat.completions", body(CHAT, messages=[{"role": "user", "content": ""}], stream=True))
    result, chunks = asyncio.run(collect(service, request))
    assert (result.content, result.units_out, len(chunks)) == (b"", 0, 1)


def test_check_is_exact() -> None:
    """An honest answer compares at 0; another content, bill or ending at 1; evidence of any sort is no evidence."""
    service = echo()
    request = service.parse("chat.completions", body(CHAT))
    result, _ = asyncio.run(collect(service, request))
    assert service.evidence(request, result) == b""
    replayed = asyncio.run(service.replay(request, result, b"", Context()))
    assert service.compare(result, b"", replayed).distance == 0
    for changes in (
        {"content": b"Say something else"},
        {"content": result.content[:-1]},
        {"units_in": 1},
        {"units_out": 1},
        {"finish": FinishReason.LENGTH},
    ):
        found = service.compare(msgspec.structs.replace(result, **changes), b"", replayed)
        assert (found.is_wellformed, found.distance, bool(found.reason)) == (True, 1.0, True)
    assert not service.compare(result, b"SYE1", replayed).is_wellformed
    with pytest.raises(BadMessage):
        service.compare(result, b"", b"SYE")


def test_cut_echo_may_be_a_beginning_and_is_billed_by_its_bytes() -> None:
    """A cancelled stream is right as far as it came, and not a byte dearer."""
    service = echo()
    request = service.parse("chat.completions", body(CHAT))
    result, _ = asyncio.run(collect(service, request))
    replayed = asyncio.run(service.replay(request, result, b"", Context()))
    cut = msgspec.structs.replace(result, content=result.content[:4], units_out=4, finish=FinishReason.CANCELLED)
    assert service.compare(cut, b"", replayed).distance == 0
    for changes in ({"content": b"Sax "}, {"units_out": 5}, {"units_in": 1}):
        assert service.compare(msgspec.structs.replace(cut, **changes), b"", replayed).distance == 1


def test_delay_pauses_before_each_word() -> None:
    """Tests that kill a node in mid-stream need a stream that lasts."""
    service = echo(delay_ms="20")
    request = service.parse("chat.completions", body(CHAT, stream=True))
    started = time.monotonic()
    asyncio.run(collect(service, request))
    assert time.monotonic() - started >= 0.08


@pytest.mark.parametrize("options", [{"delay_ms": "fast"}, {"delay_ms": "-1"}, {"delay_ms": "nan"}, {"colour": "red"}])
def test_option_that_is_wrong_stops_the_start(options: dict[str, str]) -> None:
    """A wrong or unknown option is one clear line."""
    with pytest.raises(ConfigError, match="delay_ms"):
        echo(**options)
