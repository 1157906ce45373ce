"""Log-probabilities in the two shapes that OpenAI's APIs show them in, released with the text that they belong to.

1. A token's entry is shown with the chunk that shows its text, never before, and never for text that a stop sequence
   took.
2. A `chat.completions` chunk carries ``{"logprobs": {"content": [...]}}``, a `completions` chunk ``{"logprobs":
   {"tokens": …}}``.
"""

from __future__ import annotations

import msgspec

from steelyard.engines.port import Candidates, StepEngine
from steelyard.services.text_requests import CHAT


class _Entry(msgspec.Struct, frozen=True):
    start: int
    end: int
    token: bytes
    logprob: float
    top: list[tuple[bytes, float]]


class LogprobLog:
    """Holds the entries of tokens whose text is not decided yet."""

    def __init__(self, api: str, wanted: int, engine: StepEngine) -> None:
        self._api = api
        self._wanted = wanted
        self._engine = engine
        self._held: list[_Entry] = []

    def add(self, candidates: Candidates, token_id: int, start: int, end: int) -> None:
        """Take the token that was sampled, whose text lies at these characters of the answer."""
        spelled = self._engine.token_bytes
        ranked = sorted(zip((-logprob for logprob in candidates.logprobs), candidates.ids, strict=True))
        logprob = next(-nats for nats, candidate in ranked if candidate == token_id)
        top = [(spelled(candidate), -nats) for nats, candidate in ranked[: self._wanted]]
        self._held.append(_Entry(start, end, spelled(token_id), logprob, top))

    def release(self, shown: int, *, is_last: bool) -> bytes:
        """Return the chunk's detail: the entries of the text shown so far; b"" if there are none."""
        ready = [entry for entry in self._held if entry.end <= shown or (is_last and entry.start < shown)]
        if not ready:
            return b""
        self._held = [] if is_last else [entry for entry in self._held if entry.end > shown]
        shape = _chat_shape(ready) if self._api == CHAT else _completion_shape(ready)
        return msgspec.json.encode({"logprobs": shape})


def _text(token: bytes) -> str:
    return token.decode("utf-8", "replace")


def _chat_shape(entries: list[_Entry]) -> dict[str, object]:
    def item(token: bytes, logprob: float) -> dict[str, object]:
        return {"token": _text(token), "logprob": logprob, "bytes": list(token)}

    content = [
        {**item(entry.token, entry.logprob), "top_logprobs": [item(token, logprob) for token, logprob in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _completion_shape(entries: list[_Entry]) -> dict[str, object]:
    return {
        "tokens": [_text(entry.token) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{_text(token): logprob for token, logprob in entry.top} for entry in entries],
        "text_offset": [entry.start for entry in entries],
    }
