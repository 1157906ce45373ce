"""llama.cpp's C API inside xllamacpp's shared object, bound by ctypes: the few calls that forward passes need.

1. Nothing here is guessed. The wheel's version must be one whose layouts were read and tested; any other, a missing
   symbol or defaults that don't lie where they should are a `ConfigError` before the first structure is passed.
2. Only what the structures hold at their beginning is named; the rest is handed back as the library filled it in. They
   are declared longer than they are, so that a field more could not be written past their end.
3. It runs in this process, on weights whose hash was proven: the C code gets nothing from strangers but token ids, each
   checked against the vocabulary.
4. What the library logs goes where its server (llama_server.py) sends it: nowhere.

Source: llama.cpp, include/llama.h; ggml, src/ggml-cpu/vec.h (`ggml_vec_soft_max_f32`).
"""

from __future__ import annotations

import ctypes
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steelyard.errors import ConfigError

TESTED_VERSIONS = frozenset({"2026.10.11549"})
"""Versions of xllamacpp whose layouts are those below (llama.cpp 0.6.0-dev, ggml 0.26.0)."""

_DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1}
_POINTER, _INT, _UINT, _BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_bool


class ModelParams(ctypes.Structure):
    """`llama_model_params` (80 bytes), left as the library filled it in."""

    _fields_ = (("opaque", ctypes.c_uint64 * 64),)


class ContextParams(ctypes.Structure):
    """`llama_context_params` (168 bytes): the sizes at its beginning, the rest left as the library filled it in."""

    _fields_ = (
        ("n_ctx", _UINT),
        ("n_batch", _UINT),
        ("n_ubatch", _UINT),
        ("n_seq_max", _UINT),
        ("opaque", ctypes.c_uint64 * 62),
    )


class Batch(ctypes.Structure):
    """`llama_batch`: an array for each field, one entry a token."""

    _fields_ = (
        ("n_tokens", _INT),
        ("token", _POINTER),
        ("embd", _POINTER),
        ("pos", _POINTER),
        ("n_seq_id", _POINTER),
        ("seq_id", _POINTER),
        ("logits", _POINTER),
    )


class TokenDataArray(ctypes.Structure):
    """`llama_token_data_array`: entries of token id, logit and probability, 4 bytes each."""

    _fields_ = (("data", _POINTER), ("size", ctypes.c_size_t), ("selected", ctypes.c_int64), ("sorted", _BOOL))


SamplerApply = ctypes.CFUNCTYPE(None, _POINTER, ctypes.POINTER(TokenDataArray))
"""`llama_sampler_i.apply`: is given the sampler and the candidates that are left."""


class SamplerInterface(ctypes.Structure):
    """`llama_sampler_i`: functions, of which only `apply` has to be there."""

    _fields_ = (
        ("name", _POINTER),
        ("accept", _POINTER),
        ("apply", SamplerApply),
        ("reset", _POINTER),
        ("clone", _POINTER),
        ("free", _POINTER),
        ("opaque", _POINTER * 10),
    )


class SamplerChainParams(ctypes.Structure):
    """`llama_sampler_chain_params`."""

    _fields_ = (("no_perf", _BOOL),)


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "llama_model_default_params": (ModelParams,),
    "llama_context_default_params": (ContextParams,),
    "llama_model_load_from_file": (_POINTER, ctypes.c_char_p, ModelParams),
    "llama_model_free": (None, _POINTER),
    "llama_model_get_vocab": (_POINTER, _POINTER),
    "llama_vocab_n_tokens": (_INT, _POINTER),
    "llama_model_is_recurrent": (_BOOL, _POINTER),
    "llama_model_is_hybrid": (_BOOL, _POINTER),
    "llama_init_from_model": (_POINTER, _POINTER, ContextParams),
    "llama_free": (None, _POINTER),
    "llama_n_ctx": (_UINT, _POINTER),
    "llama_n_batch": (_UINT, _POINTER),
    "llama_n_ubatch": (_UINT, _POINTER),
    "llama_set_n_threads": (None, _POINTER, _INT, _INT),
    "llama_get_memory": (_POINTER, _POINTER),
    "llama_memory_seq_rm": (_BOOL, _POINTER, _INT, _INT, _INT),
    "llama_decode": (_INT, _POINTER, Batch),
    "llama_get_logits_ith": (_POINTER, _POINTER, _INT),
    "llama_sampler_chain_default_params": (SamplerChainParams,),
    "llama_sampler_chain_init": (_POINTER, SamplerChainParams),
    "llama_sampler_chain_add": (None, _POINTER, _POINTER),
    "llama_sampler_init": (_POINTER, ctypes.POINTER(SamplerInterface), _POINTER),
    "llama_sampler_init_top_k": (_POINTER, _INT),
    "llama_sampler_init_greedy": (_POINTER,),
    "llama_sampler_sample": (_INT, _POINTER, _POINTER, _INT),
    "llama_sampler_free": (None, _POINTER),
    "ggml_vec_soft_max_f32": (ctypes.c_double, ctypes.c_int, _POINTER, _POINTER, ctypes.c_float),
}


class LlamaLibrary:
    """The bound functions, each an attribute under its C name."""

    def __init__(self, handle: Any) -> None:
        """Bind every function.

        Raises:
            ConfigError: a symbol is missing, or the defaults don't lie where they should.
        """
        for name, (result, *arguments) in _SIGNATURES.items():
            try:
                function = getattr(handle, name)
            except AttributeError as error:
                raise ConfigError(
                    f"the llama.cpp library has no {name}: install xllamacpp=={max(TESTED_VERSIONS)}"
                ) from error
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        defaults = self.llama_context_default_params()
        found = {name: getattr(defaults, name) for name in _DEFAULTS}
        if found != _DEFAULTS:
            raise ConfigError(
                f"the llama.cpp library lays out its context as {found}, not {_DEFAULTS}: "
                f"install xllamacpp=={max(TESTED_VERSIONS)}"
            )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"llama.cpp's {name} is not bound here")


def check_version(found: str) -> None:
    """Refuse a version of xllamacpp whose layouts nobody has read.

    Raises:
        ConfigError: it is not among `TESTED_VERSIONS`; says which to install.
    """
    if found not in TESTED_VERSIONS:
        raise ConfigError(
            f"xllamacpp {found} was never tested, {', '.join(sorted(TESTED_VERSIONS))} was: "
            f"pip install xllamacpp=={max(TESTED_VERSIONS)}"
        )


def load_llama_library() -> LlamaLibrary:
    """Load the installed xllamacpp's shared object and bind it; heavy.

    Raises:
        ConfigError: it is not installed, of a version that was never tested, or its library is not what it should be.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        check_version(version("xllamacpp"))
        import xllamacpp
    except (PackageNotFoundError, ImportError) as error:
        raise ConfigError(f"the llama.cpp engine is not installed ({error}): pip install 'steelyard[node]'") from error
    found = sorted(Path(str(xllamacpp.__file__)).parent.glob("xllamacpp*.so"))
    if not found:
        raise ConfigError(f"xllamacpp has no shared object beside {xllamacpp.__file__}: reinstall it")
    try:
        return LlamaLibrary(ctypes.CDLL(str(found[0])))
    except OSError as error:
        raise ConfigError(f"the llama.cpp library {found[0]} can't be loaded: {error}") from error
