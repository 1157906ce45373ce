"""The kind `echo`: answers with the last user message. The first of all kinds, and what tests and benchmarks use.

1. Its unit is the byte of UTF-8, in and out; its check is exact.
2. It needs no engine and answers at once. A streamed answer comes word by word, any other in one piece; the content is
   the same.
3. It honours `max_tokens` (as bytes, never cutting a character) and `stop`; sampling parameters are honoured trivially.

Law: docs/spec/kinds/echo.md.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING

from steelyard.errors import BadMessage, ConfigError
from steelyard.services.manifest import Manifest
from steelyard.services.port import (
    Check,
    Chunk,
    Comparison,
    Context,
    FinishReason,
    Grade,
    Progress,
    Quote,
    Request,
    Result,
    Score,
)
from steelyard.services.text import spell
from steelyard.services.text_requests import TEXT_APIS, TextPayload, TextRequests

if TYPE_CHECKING:
    from steelyard.engines.port import Engine, EngineInfo

PARAMETERS = ("max_completion_tokens", "max_tokens", "seed", "stop", "temperature", "top_k", "top_p")
_REPLAY_TAG = b"SYE1"
_REPLAY = struct.Struct(">4sQB")
_WORDS = re.compile(r"\s*\S+\s*|\s+")


class EchoService:
    """One `echo` service; `options` may hold `delay_ms`, the pause before each word, for tests."""

    kind = "echo"
    unit = "byte"
    check: Check = "exact"
    apis = TEXT_APIS
    needs_engine = False

    def __init__(
        self, manifest: Manifest, *, engine: Engine | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self._manifest = manifest
        self._requests = TextRequests(manifest)
        self._delay_s = _read_delay(options or {})

    @staticmethod
    def describe(name: str, info: EngineInfo | None = None, *, owned_by: str = "steelyard") -> Manifest:
        return Manifest(
            name=name,
            kind="echo",
            owned_by=owned_by,
            description="Answers with the last user message.",
            engine="echo",
            engine_version="1",
            parameters=PARAMETERS,
        )

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def grade(self) -> Grade:
        return Grade.EXACT

    def parse(self, api: str, body: bytes) -> Request:
        return self._requests.parse(api, body)

    def quote(self, request: Request) -> Quote:
        size, limit = len(_echoed(request.payload).encode()), request.payload.max_tokens
        return Quote(request.input_bytes, size if limit is None or size <= limit else limit)

    def answer_now(self, request: Request, context: Context) -> Chunk | None:
        if self._delay_s:
            return None
        content, finish = _answer(request.payload)
        return Chunk(content, request.input_bytes, len(content), b"", finish)

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        content, finish = _answer(request.payload)
        pieces = [word.encode() for word in _WORDS.findall(content.decode())] if request.stream else [content]
        units_in = request.input_bytes
        for index, piece in enumerate(pieces or [b""]):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            yield Chunk(piece, units_in, len(piece), b"", finish if index >= len(pieces) - 1 else None)
            units_in = 0

    def evidence(self, request: Request, result: Result) -> bytes:
        return b""

    async def replay(self, request: Request, result: Result, claimed: bytes, context: Context) -> bytes:
        content, finish = _answer(request.payload)
        return _REPLAY.pack(_REPLAY_TAG, request.input_bytes, finish) + content

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        if claimed:
            reason = f"an echo has no evidence, {len(claimed)} bytes are claimed"
            return Comparison(is_wellformed=False, distance=1.0, positions=0, reason=reason, code="evidence_malformed")
        reason = _difference(result, replayed)
        score = Score(not reason, 1.0 if reason else 0.0, 0.0)
        return Comparison(is_wellformed=True, distance=score.margin, positions=1, reason=reason, scores=(score,))

    async def prepare(self, progress: Progress) -> None:
        return None

    async def aclose(self) -> None:
        return None


def _difference(result: Result, replayed: bytes) -> str:
    """What is wrong with an answer and its bill, in a sentence; empty if it is the echo. A cut one may be shorter."""
    if len(replayed) < _REPLAY.size or not replayed.startswith(_REPLAY_TAG):
        raise BadMessage(f"{len(replayed)} bytes are no replay of an echo", code="evidence_malformed")
    _, units_in, finish = _REPLAY.unpack_from(replayed)
    content, is_cut = replayed[_REPLAY.size :], result.finish >= FinishReason.CANCELLED
    if not (content.startswith(result.content) if is_cut else content == result.content):
        return "the answer is not the echo of its request"
    if result.units_out != len(result.content) or result.units_in not in ((0, units_in) if is_cut else (units_in,)):
        return f"{result.units_in} + {result.units_out} bytes were billed, there are {units_in} + {len(result.content)}"
    if not is_cut and result.finish != finish:
        return f"the answer says {result.finish.name}, it ends with {FinishReason(finish).name}"
    return ""


def _echoed(payload: TextPayload) -> str:
    """The last user message (else the last message, else the prompt)."""
    messages = payload.messages
    if messages is None:
        return payload.prompt
    for message in reversed(messages):
        if message.role == "user":
            return message.text
    return messages[-1].text


def _answer(payload: TextPayload) -> tuple[bytes, FinishReason]:
    """What is echoed, up to a stop sequence and `max_tokens` bytes."""
    text = _echoed(payload)
    if payload.stops:
        text, _ = spell((text.encode(),), payload.stops)
    content = text.encode()
    limit = payload.max_tokens
    if limit is None or len(content) <= limit:
        return content, FinishReason.STOP
    return content[:limit].decode("utf-8", "ignore").encode(), FinishReason.LENGTH


def _read_delay(options: Mapping[str, str]) -> float:
    unknown = set(options) - {"delay_ms"}
    if unknown:
        raise ConfigError(f"echo has no option {sorted(unknown)[0]!r}; it has delay_ms")
    value = options.get("delay_ms", "0")
    try:
        delay_ms = float(value)
    except ValueError as error:
        raise ConfigError(f"echo's option delay_ms is {value!r}: write a number of milliseconds") from error
    if not 0 <= delay_ms <= 60_000:
        raise ConfigError(f"echo's option delay_ms is {value}: it must be from 0 to 60000")
    return delay_ms / 1000
