"""Kinds of work for tests: a little model that is stepped, a relay that plays a script, and runs collected to their
end.

`LetterEngine` is a real `StepEngine` over a vocabulary of 300 tokens: the 256 bytes, some longer pieces, and control
tokens. Its candidates are computed from the tokens so far, so that the same prompt gives the same candidates on every
instance.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import struct
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from steelyard.engines.port import Candidates, Delta, Embeddings, EngineInfo, Progress, Scorer
from steelyard.errors import BadRequest
from steelyard.services.port import Context, Request, Result, Service

END, START = 298, 299
PIECES = [bytes([byte]) for byte in range(256)] + [
    b"the ",
    b" quick",
    "🦄".encode(),
    "ß".encode(),
    b"\n\n",
    b" brown fox",
]
SAMPLES: dict[str, dict[str, Any]] = {
    "chat.completions": {
        "model": "m",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say ß 🦄 please."}],
    },
    "completions": {"model": "m", "prompt": "Once upon ß 🦄"},
    "embeddings": {"model": "m", "input": ["a cat", "ein Kater ß 🦄"]},
}
"""One good body per API that the built-in kinds answer."""


def body(fields: dict[str, Any], **more: Any) -> bytes:
    """Return a request body as JSON bytes."""
    return json.dumps({**fields, **more}).encode()


def ignore(what: str, done: int, total: int) -> None:
    """Take progress and say nothing."""


async def collect(service: Service, request: Request, seed: int = 0) -> tuple[Result, list[Any]]:
    """Run a request to its end and return the joined result, with its trace, and the chunks."""
    context = Context(seed=seed)
    chunks = [chunk async for chunk in service.run(request, context)]
    assert chunks[-1].finish is not None
    assert all(chunk.finish is None for chunk in chunks[:-1])
    result = Result(
        content=b"".join(chunk.content for chunk in chunks),
        units_in=sum(chunk.units_in for chunk in chunks),
        units_out=sum(chunk.units_out for chunk in chunks),
        finish=chunks[-1].finish,
        trace=bytes(context.trace),
    )
    return result, chunks


async def sample_bodies(kind: Any, engine: Any, limit: dict[str, Any]) -> dict[str, bytes]:
    """One good body for each API of a kind; that of `replays` is of an answer which the kind gave itself."""
    bodies = {api: body(SAMPLES[api], **limit) for api in kind.apis if api != "replays"}
    if "replays" not in kind.apis:
        return bodies
    await engine.prepare(ignore)
    service = kind(kind.describe("sample", engine.info), engine=engine)
    request = service.parse("chat.completions", bodies["chat.completions"])
    result, _ = await collect(service, request, 3)
    bodies["replays"] = body(
        {
            "model": "m",
            "request": json.loads(bodies["chat.completions"]),
            "api": "chat.completions",
            "seed": "3",
            "evidence": base64.b64encode(service.evidence(request, result)).decode(),
            "content": base64.b64encode(result.content).decode(),
            "units_in": result.units_in,
            "units_out": result.units_out,
            "finish": result.finish.name.lower(),
        }
    )
    return bodies


class LetterEngine:
    """A `StepEngine` whose candidates follow from a hash of the tokens so far; `script` forces the likeliest tokens."""

    def __init__(self, script: Sequence[int] = (), *, context_tokens: int = 256, noise: float = 0.0) -> None:
        self.script = list(script)
        self.noise = noise
        self.open_sessions = 0
        self.steps = 0
        self.scorer: Scorer | None = None
        self.info = EngineInfo(
            engine="letters",
            engine_version="1",
            model="letters",
            quantisation="none",
            tokenizer_hash="ab" * 32,
            template_hash="cd" * 32,
            weights_url="file:/letters",
            weights_sha256="ef" * 32,
            weights_size_bytes=1,
            context_tokens=context_tokens,
            template_request_tokens=1,
            template_message_tokens=3,
            longest_token_bytes=10,
            embedding_dimension=16,
            embedding_context_tokens=64,
            owns_logits=True,
        )

    async def prepare(self, progress: Progress) -> None:
        progress("loading", 1, 1)

    async def tokenise(self, text: str) -> list[int]:
        return list(text.encode())

    async def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        tokens = []
        for message in messages:
            tokens += [START, *f"{message['role']}\n{message['content']}".encode(), END]
        return [*tokens, START]

    def token_bytes(self, token_id: int) -> bytes:
        return PIECES[token_id] if 0 <= token_id < len(PIECES) else b""

    def has_token(self, token_id: int) -> bool:
        return 0 <= token_id <= START

    def is_end(self, token_id: int) -> bool:
        return token_id == END

    async def open_session(self, tokens: Sequence[int]) -> LetterSession:
        if len(tokens) >= self.info.context_tokens:
            raise BadRequest("too long", code="context_length_exceeded", param="messages")
        self.open_sessions += 1
        return LetterSession(self, tokens)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        vectors = []
        for text in texts:
            numbers = [byte - 127.5 + self.noise for byte in hashlib.sha256(text.encode()).digest()[:16]]
            length = math.sqrt(sum(number * number for number in numbers))
            vectors.append(struct.pack("<16f", *(number / length for number in numbers)))
        return Embeddings(tuple(vectors), sum(len(text.encode()) for text in texts))

    async def aclose(self) -> None:
        return None


class LetterSession:
    """A `Session` of the little model."""

    def __init__(self, engine: LetterEngine, tokens: Sequence[int]) -> None:
        self._engine = engine
        self._tokens = list(tokens)
        self._is_open = True
        self.prompt_tokens = len(tokens)
        # a conversation's script begins after its prompt, wherever the session begins
        self._begin = len(tokens) - self._tokens[::-1].index(START) if START in self._tokens else len(tokens)

    @property
    def room(self) -> int:
        return self._engine.info.context_tokens - len(self._tokens)

    async def candidates(self) -> Candidates:
        await asyncio.sleep(0)
        assert self._is_open
        assert self.room > 0
        self._engine.steps += 1
        written = len(self._tokens) - self._begin
        key = hashlib.sha256(struct.pack(f">{len(self._tokens)}I", *self._tokens)).digest()
        weights = {97 + byte % 26: byte / 32 + self._engine.noise * (byte % 7) for byte in key}
        weights[END] = 0.0
        if written < len(self._engine.script):
            weights[self._engine.script[written]] = 60.0
        total = math.log(sum(math.exp(weight) for weight in weights.values()))
        ids = tuple(weights)
        return Candidates(ids, tuple(weights[token_id] - total for token_id in ids))

    def push(self, token_id: int) -> None:
        self._tokens.append(token_id)

    async def aclose(self) -> None:
        self._engine.open_sessions -= self._is_open
        self._is_open = False


class ScriptedRelay:
    """A `RelayEngine` that yields the deltas it was given, and remembers the body it was sent."""

    def __init__(self, deltas: Sequence[Delta], parameters: tuple[str, ...] = ()) -> None:
        self.deltas = deltas
        self.sent: dict[str, Any] = {}
        self.is_closed = False
        self.info = EngineInfo(
            engine="openai", engine_version="", model="upstream-model", context_tokens=1000, parameters=parameters
        )

    async def prepare(self, progress: Progress) -> None:
        return None

    async def relay(self, api: str, body: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        self.sent = body
        try:
            for delta in self.deltas:
                await asyncio.sleep(0)
                yield delta
        finally:
            self.is_closed = True

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        return Embeddings((), 0)

    async def aclose(self) -> None:
        return None
