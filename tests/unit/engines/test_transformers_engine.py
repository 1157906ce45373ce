"""The torch engine's refusals, which need no torch. What it computes: bench/verification/engines_agree.py."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from steelyard.engines.port import check_scored
from steelyard.engines.transformers_engine import TransformersEngine
from steelyard.engines.transformers_model import TorchModel
from steelyard.errors import BadRequest, ConfigError, Fault, Unavailable


def test_engine_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install 'steelyard\[transformers\]'"):
        TorchModel(Path("model.gguf"), "smollm", 1)


def test_engine_with_a_tokenizer_never_compared_is_refused() -> None:
    """A prompt cut in another way would bill other tokens, so such a file isn't loaded at all."""
    with pytest.raises(ConfigError, match=r"tokenizer 'llama-bpe', only with smollm: serve model.gguf with llama.cpp"):
        TorchModel(Path("model.gguf"), "llama-bpe", 1)


def test_engine_before_prepare_and_after_close_says_so() -> None:
    """No info, no spelling and no work without a model; closing twice is harmless."""

    async def run() -> None:
        engine = TransformersEngine(Path("missing.gguf"))
        with pytest.raises(ConfigError, match=r"missing\.gguf does not exist"):
            await engine.prepare(lambda *_: None)
        with pytest.raises(Fault):
            _ = engine.info
        with pytest.raises(Fault):
            engine.token_bytes(1)
        assert await engine.score([1], []) == []
        await engine.aclose()
        await engine.aclose()
        with pytest.raises(Unavailable, match="not loaded"):
            await engine.score([1], [2])

    asyncio.run(run())


def test_scoring_without_a_prompt_or_beyond_the_context_is_refused() -> None:
    """Every scorer refuses the same, with both lengths."""
    check_scored([1], [], 1)
    with pytest.raises(BadRequest, match="without a prompt"):
        check_scored([], [1], 8)
    with pytest.raises(BadRequest, match=r"5 \+ 4 tokens, this model takes 8"):
        check_scored([1] * 5, [1] * 4, 8)
