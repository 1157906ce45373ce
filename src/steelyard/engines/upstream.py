"""Any OpenAI-compatible server as an engine: vLLM, SGLang, Ollama, llama-server, or a company's API.

1. It samples by itself, so nobody can replay its choices: the grade is `logprobs`, or `unchecked` without those.
2. Its base URL and key are the provider's own configuration, never a caller's.
3. A stream that ends without a finish reason, its usage or `[DONE]` was cut: that is an error, never a clean end.
4. What the upstream calls the caller's fault stays that (400); everything else is the provider's trouble (503).
5. A server that says nothing is given up while there is time to ask another provider: `SILENCE_S` is below a
   gateway's usual deadline.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import aiohttp
import msgspec

from steelyard.engines.http_session import await_head, find_proxy, open_session, raise_if_busy, split_url
from steelyard.engines.port import Delta, Embeddings, EngineInfo, Progress
from steelyard.engines.sse import EventReader
from steelyard.errors import BadRequest, ConfigError, Unavailable

MAX_ANSWER_BYTES = 64 * 1024 * 1024
SILENCE_S = 120.0
"""How long an upstream may say nothing before it counts as gone."""

_PATHS = {"chat.completions": "/chat/completions", "completions": "/completions"}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _ChoiceDelta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _ChoiceDelta | None = None
    text: str | None = None
    logprobs: msgspec.Raw = msgspec.Raw()
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode


class UpstreamEngine:
    """One model of one OpenAI-compatible server; a `RelayEngine`."""

    def __init__(self, base_url: str, info: EngineInfo, *, api_key: str = "", silence_s: float = SILENCE_S) -> None:
        """Name the server; nothing is sent before `prepare`.

        Args:
            base_url: up to and including the version, e.g. ``http://127.0.0.1:8000/v1``.
            info: what the provider says of the model; `info.model` is its name there, `info.parameters` what it
            honours. api_key: sent as a bearer token, if any. silence_s: how long the server may say nothing.

        Raises:
            ConfigError: the URL is no http or https URL.
        """
        self._proxy = find_proxy(split_url(base_url, ("http", "https"), "base_url"))
        self._base_url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._silence_s = silence_s
        self._info = info
        self._http: aiohttp.ClientSession | None = None
        self._is_closed = False

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def prepare(self, progress: Progress) -> None:
        """Ask for the list of models; safe to call twice.

        Raises:
            ConfigError: the server does not answer, refuses the key, or lists other models.
        """
        progress(f"asking {self._base_url}", 0, 0)
        try:
            async with self._session().get(
                self._base_url + "/models", headers=self._headers, proxy=self._proxy
            ) as response:
                status, body = response.status, await response.content.read(MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConfigError(f"the upstream {self._base_url} does not answer: {error}") from error
        if status in (401, 403):
            raise ConfigError(f"the upstream {self._base_url} refuses the key ({status})")
        if status == 200:
            names = _model_names(body)
            if names and self._info.model not in names:
                raise ConfigError(
                    f"the upstream {self._base_url} has no model {self._info.model!r}, it has {', '.join(names[:8])}"
                )

    async def relay(self, api: str, body: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        body = {**body, "model": self._info.model, "stream": True, "stream_options": {"include_usage": True}}
        is_done = False
        async with self._post(_PATHS[api], body) as response:
            reader, size = EventReader(), 0
            async for data in response.content.iter_any():
                size += len(data)
                if size > MAX_ANSWER_BYTES:
                    raise Unavailable(f"the upstream's answer is over {MAX_ANSWER_BYTES} bytes", code="upstream_failed")
                for event in reader.feed(data):
                    if event.strip() == b"[DONE]":
                        is_done = True
                        continue
                    for delta in _read_event(event):
                        yield delta
        if not is_done:
            raise Unavailable("the upstream's stream was cut before its end", code="upstream_cut")

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        body = {"model": self._info.model, "input": list(texts), "encoding_format": "float"}
        async with self._post("/embeddings", body) as response:
            data = await _read_bounded(response)
        try:
            answer = _decode_vectors(data)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise Unavailable(f"the upstream's embeddings can't be read: {error}", code="upstream_failed") from error
        items = sorted(answer.data, key=lambda item: item.index)
        return Embeddings(tuple(_unit_vector(item.embedding) for item in items), answer.usage.prompt_tokens)

    async def aclose(self) -> None:
        self._is_closed = True
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise Unavailable("the model engine is closed", code="engine_closed")
        if self._http is None:
            self._http = open_session(self._silence_s)
        return self._http

    @asynccontextmanager
    async def _post(self, path: str, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        send = partial(
            self._session().post,
            self._base_url + path,
            data=msgspec.json.encode(body),
            headers=self._headers,
            allow_redirects=False,
            proxy=self._proxy,
        )
        try:
            async with await await_head(send, self._silence_s) as response:
                if response.status != 200:
                    raise await _refusal(response)
                yield response
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            what = str(error) or type(error).__name__
            raise Unavailable(f"the upstream failed: {what}", code="upstream_cut") from error


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > MAX_ANSWER_BYTES:
            raise Unavailable(f"the upstream's answer is over {MAX_ANSWER_BYTES} bytes", code="upstream_failed")
    return bytes(data)


async def _refusal(response: aiohttp.ClientResponse) -> BadRequest | Unavailable:
    """What an upstream's error means for the caller."""
    data = (await response.content.read(64 * 1024)).decode("utf-8", "replace")
    try:
        error = msgspec.json.decode(data)["error"]
        message, param = str(error["message"]), error.get("param")
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        message, param = data[:200], None
    raise_if_busy(response.status, response.headers, f"the model's server ({response.status}): {message}")
    if response.status in (400, 413, 422):
        return BadRequest(f"the model's server refused the request: {message}", param=param if param else None)
    return Unavailable(f"the model's server answered {response.status}: {message}", code="upstream_failed")


def _read_event(event: bytes) -> list[Delta]:
    try:
        found = _decode_event(event)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Unavailable(f"the upstream sent an event that can't be read: {error}", code="upstream_failed") from error
    if found.error is not None:
        raise Unavailable(f"the upstream failed in mid-answer: {str(found.error)[:200]}", code="upstream_failed")
    deltas = []
    for choice in found.choices[:1]:
        delta = choice.delta or _ChoiceDelta()
        logprobs = bytes(choice.logprobs)
        has_logprobs = logprobs not in (b"", b"null")
        text = delta.content or choice.text or ""
        calls = [_without_nulls(msgspec.to_builtins(call)) for call in delta.tool_calls or ()]
        if text or calls or has_logprobs or choice.finish_reason:
            deltas.append(
                Delta(
                    text=text,
                    tool_calls=calls or None,
                    logprobs=msgspec.Raw(logprobs) if has_logprobs else None,
                    finish_reason=choice.finish_reason,
                )
            )
    if found.usage is not None:
        deltas.append(Delta(tokens_in=found.usage.prompt_tokens, tokens_out=found.usage.completion_tokens))
    return deltas


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }


def _unit_vector(embedding: list[float] | str) -> bytes:
    """A vector of unit length, from numbers or from base64 of float32."""
    try:
        numbers = embedding
        if isinstance(numbers, str):
            raw = base64.b64decode(numbers, validate=True)
            numbers = list(struct.unpack(f"<{len(raw) // 4}f", raw))
        length = math.sqrt(math.fsum(number * number for number in numbers))
        if not 0 < length < math.inf:
            raise ValueError("it has no direction")
        return struct.pack(f"<{len(numbers)}f", *(number / length for number in numbers))
    except (ValueError, struct.error, OverflowError) as error:
        raise Unavailable(f"the upstream's vector can't be read: {error}", code="upstream_failed") from error


def _model_names(body: bytes) -> list[str]:
    try:
        return [str(item["id"]) for item in msgspec.json.decode(body)["data"]]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return []
