"""Requests for text, by either of OpenAI's two APIs: what `chat` and `echo` make of a body.

1. Pure and fast: it runs on the gateway for every call, and again on the node over the same bytes.
2. Input is bounded by UTF-8 bytes, since a token spells at least one; output by `max_tokens`, or by the manifest's
   default.
3. What only a tokenizer can tell (the exact length) is left to the engine; what can't fit by any tokenizer is refused
   here.

Law: docs/spec/services.md, sections 3 and 4.
"""

from __future__ import annotations

from typing import Any

import msgspec

from steelyard.errors import BadRequest
from steelyard.protocol.sampler import SamplerParams
from steelyard.services.bodies import ChatBody, ChatMessage, CompletionBody
from steelyard.services.body_reader import BodyReader
from steelyard.services.manifest import Manifest
from steelyard.services.port import Request

CHAT, COMPLETIONS = "chat.completions", "completions"
TEXT_APIS = frozenset({CHAT, COMPLETIONS})

_SEED_MASK = 2**64 - 1
_PREFIX_CHARS = 256


class TextPayload(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request for text, ready to be done.

    Attributes:
        messages: the conversation, or None for a plain prompt.
        prompt: the plain prompt, "" for a conversation.
        max_tokens: as the caller set it, or None.
        logprobs: how many alternatives are wanted per token; None: no log-probabilities at all.
        body: the typed body, for engines that take it as it is.
    """

    messages: list[ChatMessage] | None
    prompt: str
    max_tokens: int | None
    stops: tuple[str, ...]
    sampling: SamplerParams
    logprobs: int | None
    body: Any


class TextRequests:
    """Parses the bodies of one manifest."""

    __slots__ = ("_chat", "_completion", "_has_tools", "_manifest")

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._chat = BodyReader(ChatBody, manifest)
        self._completion = BodyReader(CompletionBody, manifest)
        self._has_tools = "tools" in manifest.parameters

    def parse(self, api: str, body: bytes) -> Request:
        """Return the validated request.

        Raises:
            BadRequest: names the field, the value and what to do.
        """
        if api == CHAT:
            return self._parse_chat(self._chat.read(body))
        if api == COMPLETIONS:
            return self._parse_completion(self._completion.read(body))
        raise BadRequest(f"{self._manifest.name!r} answers {CHAT} and {COMPLETIONS}, not {api}", param="model")

    def _parse_chat(self, body: ChatBody) -> Request:
        input_bytes, prefix, open_prefix = 0, [], True
        for index, message in enumerate(body.messages):
            content = message.content
            if content is None and message.role != "assistant":
                raise BadRequest(f"`messages[{index}].content` is null: write text", param=f"messages[{index}].content")
            if (message.role == "tool" or message.tool_calls) and not self._has_tools:
                raise BadRequest(
                    f"`messages[{index}]` belongs to a tool call, and {self._manifest.name!r} does not honour tools",
                    code="unsupported_parameter",
                    param=f"messages[{index}]",
                )
            text = content if type(content) is str else message.text
            data = f"{message.role}\n{message.name or ''}{text}".encode()
            input_bytes += len(data)
            if message.tool_calls or message.tool_call_id:
                input_bytes += len(msgspec.json.encode((message.tool_calls, message.tool_call_id)))
            if open_prefix:
                prefix.append(data)
                open_prefix = message.role != "user"
        if body.tools:
            input_bytes += len(msgspec.json.encode(body.tools))
        maximum = body.max_tokens
        if body.max_completion_tokens is not None:
            if maximum is not None and maximum != body.max_completion_tokens:
                raise BadRequest("`max_tokens` and `max_completion_tokens` are both set: keep one", param="max_tokens")
            maximum = body.max_completion_tokens
        if body.top_logprobs is not None and not body.logprobs:
            raise BadRequest("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        payload = self._payload(body, body.messages, "", maximum, logprobs)
        return self._request(CHAT, body, payload, input_bytes, b"\x00".join(prefix))

    def _parse_completion(self, body: CompletionBody) -> Request:
        prompt = body.prompt
        if isinstance(prompt, list):
            if len(prompt) != 1:
                raise BadRequest(f"`prompt` is a list of {len(prompt)}: send one prompt per request", param="prompt")
            prompt = prompt[0]
        if not prompt:
            raise BadRequest("`prompt` is empty: write text", param="prompt")
        payload = self._payload(body, None, prompt, body.max_tokens, body.logprobs)
        prefix = prompt[:_PREFIX_CHARS].encode()
        return self._request(COMPLETIONS, body, payload, len(prompt.encode()), prefix)

    def _payload(
        self,
        body: ChatBody | CompletionBody,
        messages: list[ChatMessage] | None,
        prompt: str,
        maximum: int | None,
        logprobs: int | None,
    ) -> TextPayload:
        manifest, stop = self._manifest, body.stop
        temperature, top_p = body.temperature, body.top_p
        return TextPayload(
            messages=messages,
            prompt=prompt,
            max_tokens=maximum,
            stops=() if not stop else (stop,) if isinstance(stop, str) else tuple(stop),
            sampling=SamplerParams(
                manifest.temperature_default if temperature is None else temperature,
                manifest.top_p_default if top_p is None else top_p,
                body.top_k or 0,
            ),
            logprobs=logprobs,
            body=body,
        )

    def _request(
        self, api: str, body: ChatBody | CompletionBody, payload: TextPayload, input_bytes: int, prefix: bytes
    ) -> Request:
        context = self._manifest.context_tokens
        if context:
            longest = self._manifest.longest_token_bytes
            if longest and input_bytes > context * longest:
                raise BadRequest(
                    f"the input has {input_bytes} bytes, more than fit into this model's context of {context} "
                    "tokens: shorten it",
                    code="context_length_exceeded",
                    param="messages" if api == CHAT else "prompt",
                )
            if payload.max_tokens is not None and payload.max_tokens > context:
                raise BadRequest(
                    f"`max_tokens` is {payload.max_tokens}, and this model's whole context is {context} tokens",
                    code="context_length_exceeded",
                    param="max_tokens",
                )
        options = body.stream_options
        return Request(
            api=api,
            model=body.model,
            stream=bool(body.stream),
            include_usage=bool(options is not None and options.include_usage),
            seed=None if body.seed is None else body.seed & _SEED_MASK,
            input_bytes=input_bytes,
            prefix=prefix,
            payload=payload,
        )
