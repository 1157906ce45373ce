"""A GGUF file's weights, dequantised, in PyTorch: the blocking half of the transformers engine.

1. Heavy: torch and transformers are imported only when a model is loaded, and never look for anything on the network.
2. Arithmetic is float32 throughout. What llama.cpp rounds on its way (activations to 8 bits, its cache to 16) is not
   rounded here: this is the other engine, with other kernels and other noise.
3. Not safe for threads: its owner calls it from one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steelyard.engines.port import TOP_CANDIDATES, Candidates, check_tokens
from steelyard.errors import BadRequest, ConfigError

ENGINE = "transformers"

PRE_TOKENIZERS = ("smollm",)
"""Ways of cutting a text that were compared with llama.cpp's; a prompt read otherwise would bill other tokens."""


class TorchModel:
    """A loaded model and its tokenizer."""

    def __init__(self, path: Path, tokenizer_pre: str, threads: int) -> None:
        """Load the file, whose hash the caller has proven.

        Args:
            tokenizer_pre: as the file's header names it.

        Raises:
            ConfigError: a package is missing, the file is damaged or of an architecture that can't be dequantised, or
                its tokenizer is not among `PRE_TOKENIZERS`.
        """
        if tokenizer_pre not in PRE_TOKENIZERS:
            raise ConfigError(
                f"the transformers engine reads no text with the tokenizer {tokenizer_pre!r}, only with "
                f"{', '.join(PRE_TOKENIZERS)}: serve {path.name} with llama.cpp"
            )
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
        try:
            import torch
            import transformers
            from tokenizers import pre_tokenizers
        except ImportError as error:
            raise ConfigError(
                f"the transformers engine is not installed ({error}): pip install 'steelyard[transformers]'"
            ) from error
        torch.set_num_threads(threads)
        transformers.utils.logging.set_verbosity_error()
        self._torch = torch
        where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **where)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ConfigError(f"transformers can't load {path}: {error}") from error
        # The conversion from GGUF leaves out that SmolLM cuts numbers into digits, before anything else.
        self._tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        self._model = model.eval()
        self._size = int(model.config.vocab_size)

    def tokenise(self, text: str) -> list[int]:
        """Return the token ids of a text, control tokens read as such."""
        return list(self._tokenizer(text)["input_ids"])

    def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Return the token ids of a conversation in the file's own chat template.

        Raises:
            BadRequest: the template refuses it.
        """
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise BadRequest(
                f"the model's chat template refuses this conversation: {error}", param="messages"
            ) from error
        return self.tokenise(text)

    def step(self, tokens: Sequence[int], cache: Any) -> tuple[Candidates, Any]:
        """Process more of a sequence; return the candidates after its last token, and the new cache (None at first)."""
        logits, cache = self._forward(tokens, cache, keep=1)
        return self._candidates(logits)[0], cache

    def score(self, prompt: Sequence[int], answer: Sequence[int]) -> list[Candidates]:
        """Return the candidates before each answer token, by one forward pass; at least one token in each."""
        return self._candidates(self._forward([*prompt, *answer[:-1]], None, keep=len(answer))[0])

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """Return the mean of the last layer over all positions, of unit length."""
        with self._torch.inference_mode():
            hidden = self._model.model(self._input(tokens), use_cache=False).last_hidden_state[0].mean(dim=0)
            return list((hidden / hidden.norm()).tolist())

    def _forward(self, tokens: Sequence[int], cache: Any, *, keep: int) -> tuple[Any, Any]:
        with self._torch.inference_mode():
            out = self._model(self._input(tokens), past_key_values=cache, use_cache=True, logits_to_keep=keep)
        return out.logits[0], out.past_key_values

    def _input(self, tokens: Sequence[int]) -> Any:
        check_tokens(tokens, self._size)
        return self._torch.tensor([list(tokens)])

    def _candidates(self, logits: Any) -> list[Candidates]:
        top = self._torch.log_softmax(logits, dim=-1).topk(TOP_CANDIDATES)
        rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [Candidates(tuple(ids), tuple(logprobs)) for ids, logprobs in rows]


def transformers_version() -> str:
    """Return the versions of transformers and torch that are installed, without loading them; "" if one is missing."""
    try:
        return f"transformers {version('transformers')}, torch {version('torch')}"
    except PackageNotFoundError:
        return ""
