"""Reading request bodies: fast when they are right, and naming the field when they are not.

1. Decoding is typed and forbids unknown fields. Whatever a caller set that the manifest's `parameters` do not list is
   a 400 naming it; fields in `NEUTRAL`, and values that change nothing (`n: 1`, `presence_penalty: 0`), pass.
2. Every refusal names the field, the value and what to do. The slow path that finds them runs only for bad bodies.
3. A manifest may list parameters that are not OpenAI's (`min_p` …); they are kept in `extra` for the engine that asked.

Law: docs/spec/services.md, section 3.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import msgspec

from steelyard.errors import BadRequest
from steelyard.services.manifest import Manifest

NEUTRAL = frozenset(
    (
        "stream",
        "stream_options",
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "provider",
    )
)
"""Fields that never change an answer: always accepted. `provider` says who may make it, and is read by the gateway."""

HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "stop": ([],),
}
"""Values that mean the same as leaving the field out: accepted even where the field is not honoured."""

_CORE = frozenset({"model", "messages", "prompt", "input", "encoding_format"})

_HINTS = {
    "messages.content": "; send text, or a list of parts of type text",
    "messages.role": "; known are system, developer, user, assistant and tool",
    "messages.content.type": "; this model reads text only",
    "encoding_format": "; known are float and base64",
    "prompt": "; send text: token ids would be another tokenizer's",
    "input": "; send text, none of it empty: token ids would be another tokenizer's",
    "provider.sort": "; known are price, throughput and latency",
    "x-steelyard-choice.sort": "; known are price, throughput and latency",
}


class BodyReader:
    """Reads one sort of body for one manifest."""

    __slots__ = ("_body_type", "_decode", "_extra", "_honoured", "_known", "_name", "_nothing", "_pick", "_refused")

    def __init__(self, body_type: type[msgspec.Struct], manifest: Manifest) -> None:
        """Read bodies of a struct that forbids unknown fields and has an `extra`, by a manifest's parameters."""
        self._body_type = body_type
        self._decode = msgspec.json.Decoder(body_type).decode
        self._known = frozenset(body_type.__struct_fields__) - {"extra"}
        self._name = manifest.name
        self._honoured = frozenset(manifest.parameters)
        self._extra = self._honoured - self._known
        self._refused = ("extra", *sorted(self._known - self._honoured - NEUTRAL - _CORE))
        self._pick = operator.attrgetter("extra", *self._refused)  # twice, so that it is a tuple even of one
        self._nothing = (None,) * (len(self._refused) + 1)

    def read(self, data: bytes) -> Any:
        """Return the typed body.

        Raises:
            BadRequest: not JSON, a wrong type, out of range, unknown, or set and not honoured; names the field.
        """
        extra = None
        body: Any
        try:
            body = self._decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            body, extra = self._read_slowly(data, error)
        if self._pick(body) != self._nothing:
            self._refuse_unhonoured(body)
        if extra:
            body.extra = extra
        return body

    def _refuse_unhonoured(self, body: Any) -> None:
        for name in self._refused:
            value = getattr(body, name)
            if value is None or any(_is_same(value, harmless) for harmless in HARMLESS.get(name, ())):
                continue
            honoured = ", ".join(sorted(self._honoured)) or "no parameter"
            raise BadRequest(
                f"`{name}` is set to {show(value)}, and {self._name!r} does not honour it: leave it out, or choose "
                f"another model. This one honours: {honoured}",
                code="unsupported_parameter",
                param=name,
            )

    def _read_slowly(self, data: bytes, error: Exception) -> tuple[Any, dict[str, Any]]:
        """Say what is wrong with a body; or return it, if only nulls or the manifest's own extras were in the way."""
        try:
            fields = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as not_json:
            raise BadRequest(f"the body is not valid JSON: {not_json}", code="invalid_json") from not_json
        if not isinstance(fields, dict):
            raise BadRequest(f"the body is {show(fields)}, it must be a JSON object", code="invalid_json") from error
        kept, extra = {}, {}
        for name, value in fields.items():
            if name in self._known:
                kept[name] = value
            elif name in self._extra:
                extra[name] = value
            elif value is not None:
                raise BadRequest(
                    f"`{name}` is set to {show(value)}, and no such parameter is known: leave it out",
                    code="unknown_parameter",
                    param=name,
                )
        try:
            return msgspec.convert(kept, self._body_type), extra
        except msgspec.ValidationError as wrong:
            raise explain(self._body_type, kept, str(wrong)) from wrong


def show(value: Any) -> str:
    """Return a value as JSON, short enough for a message."""
    text = msgspec.json.encode(value).decode("utf-8", "replace")
    return text if len(text) <= 80 else text[:77] + "…"


def explain(body_type: type[msgspec.Struct], fields: dict[str, Any], message: str) -> BadRequest:
    """Turn msgspec's message into one that names the field, the value and what was expected."""
    what, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    for pattern, words, code in (
        (r"Object missing required field `(.+)`", "is required and missing", "missing_required_parameter"),
        (r"Object contains unknown field `(.+)`", "is not known: leave it out", "unknown_parameter"),
    ):
        match = re.fullmatch(pattern, what)
        if match:
            name = f"{path}.{match[1]}" if path else match[1]
            return BadRequest(f"`{name}` {words}", code=code, param=name)
    is_range = bool(re.search(r"[<>]|of length|Invalid enum", what))
    hint = _HINTS.get(re.sub(r"\[\d+\]", "", path), "")
    expected = f"{what[:1].lower()}{what[1:]}"
    if re.match(r"Expected `(int|float)` [<>]", what):
        expected = _describe_range(body_type, path) or expected
    return BadRequest(
        f"`{path}` is {show(_value_at(fields, path))}: {expected}{hint}",
        code="invalid_value" if is_range else "invalid_type",
        param=path or None,
    )


def _describe_range(body_type: type[msgspec.Struct], path: str) -> str:
    """Return in words the whole range of the numbers that a field takes; "" if it isn't one sort of number."""
    found: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(body_type)]
    for step in re.findall(r"\[[^\]]*\]|[^.\[\]]+", path):
        found = [inner for outer in found for inner in _inside(outer, step)]
    numbers = [known for known in found if isinstance(known, msgspec.inspect.IntType | msgspec.inspect.FloatType)]
    if len(numbers) != 1:
        return ""
    (number,) = numbers
    word = "a whole number" if isinstance(number, msgspec.inspect.IntType) else "a number"
    if number.ge is not None and number.le is not None:
        return f"expected {word} from {number.ge} to {number.le}"
    bounds = (("above", number.gt), ("at least", number.ge), ("below", number.lt), ("at most", number.le))
    return f"expected {word} " + " and ".join(f"{name} {bound}" for name, bound in bounds if bound is not None)


def _inside(outer: msgspec.inspect.Type, step: str) -> list[msgspec.inspect.Type]:
    if isinstance(outer, msgspec.inspect.StructType):
        inner = [field.type for field in outer.fields if field.encode_name == step]
    elif isinstance(outer, msgspec.inspect.DictType):
        inner = [outer.value_type]
    else:
        inner = [outer.item_type] if isinstance(outer, msgspec.inspect.ListType) else []
    return [part for known in inner for part in getattr(known, "types", (known,))]


def _value_at(fields: Any, path: str) -> Any:
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(fields, dict):
            fields = fields.get(step)
        elif isinstance(fields, list) and step.isdigit() and int(step) < len(fields):
            fields = fields[int(step)]
    return fields


def _is_same(value: Any, harmless: Any) -> bool:
    """Equal, and not merely because True == 1."""
    return isinstance(value, bool) is isinstance(harmless, bool) and bool(value == harmless)
