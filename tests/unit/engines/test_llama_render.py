"""engines/llama.py: what the server's own template and tokenizer answer, without a model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from steelyard.engines.llama import LlamaEngine
from steelyard.engines.llama_server import REFUSED, LlamaServer
from steelyard.errors import BadRequest, Fault, Unavailable


class RefusingServer:
    """A server that refuses whatever it is posted, for one reason."""

    def __init__(self, code: str) -> None:
        self._code = code

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        raise Unavailable("Conversation roles must alternate", code=self._code)


@pytest.mark.parametrize(("code", "error"), [(REFUSED, BadRequest), ("engine_failed", Unavailable)])
def test_conversation_that_the_template_refuses_is_the_callers_fault(code: str, error: type[Exception]) -> None:
    """A template may demand that roles alternate: that is a 400 on `messages`; a dead server stays a 503."""
    engine = LlamaEngine(Path("none.gguf"))
    engine._reader = cast(LlamaServer, RefusingServer(code))
    with pytest.raises(error, match="roles must alternate") as caught:
        asyncio.run(engine.render([{"role": "assistant", "content": "x"}]))
    assert type(caught.value) is error


def test_engine_that_is_not_prepared_says_so() -> None:
    """Asking too early is our own bug; using it too early or too late is a refusal."""
    engine = LlamaEngine(Path("none.gguf"))
    with pytest.raises(Fault, match="before prepare"):
        _ = engine.info
    with pytest.raises(Unavailable, match="not loaded"):
        asyncio.run(engine.tokenise("x"))
    asyncio.run(engine.aclose())
