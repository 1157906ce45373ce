"""What a development network sells: SmolLM2-135M-Instruct for chat and embeddings, or `echo` for measuring.

1. Prices are nano per 1,000,000 units: half a YARD for a million tokens in, one and a half for a million out.
2. What the engine said of the weights is kept in a home, so that the next `up` needn't load the model to ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from steelyard import __version__
from steelyard.cli.engine_wiring import load_engine_info
from steelyard.cli.genesis import ServicePlan
from steelyard.cli.model_files import fetch_model
from steelyard.cli.settings import Settings
from steelyard.engines.llama import ENGINE, llama_version
from steelyard.engines.port import EngineInfo
from steelyard.protocol.messages import Grade
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import encode_manifest

MODEL = "smollm2-135m"
CHAT = "smollm2-135m-instruct"
EMBEDDINGS = "smollm2-135m-embeddings"
CONTEXT_TOKENS = 2048
PRICE_IN, PRICE_OUT = 500_000_000, 1_500_000_000

KEPT_FILE = "described.json"

Progress = Callable[[str, int, int], None]


class _Kept(msgspec.Struct, frozen=True):
    """What an engine said, and of what: other weights, another version or another context ask anew."""

    weights_sha256: str
    engine_version: str
    steelyard_version: str
    context_tokens: int
    info: EngineInfo


async def plan_smollm2(settings: Settings, progress: Progress, *, kept: Path | None = None) -> list[ServicePlan]:
    """Return the model's two services, its weights fetched and its manifests made from the engine itself.

    Both carry the grade that their kind allows: the node keeps the evidence that it takes.

    Args:
        kept: file in which what the engine says is kept, and read where it is of the same weights and versions.

    Raises:
        ConfigError: the weights can't be fetched or proven, or the engine isn't installed.
    """
    url, fetched = await fetch_model(settings, MODEL, "", progress)
    info = _load_kept(kept, fetched.sha256)
    if info is None:
        info = await load_engine_info(ENGINE, url, fetched, CONTEXT_TOKENS, progress)
        if kept is not None:
            kept.write_bytes(msgspec.json.encode(_Kept(*_of(fetched.sha256), info)))
    return [_plan(name, kind, info) for name, kind in ((CHAT, "chat"), (EMBEDDINGS, "embeddings"))]


def _of(weights_sha256: str) -> tuple[str, str, str, int]:
    return weights_sha256, llama_version(), __version__, CONTEXT_TOKENS


def _load_kept(file: Path | None, weights_sha256: str) -> EngineInfo | None:
    if file is None:
        return None
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return None  # there is none, or it is damaged: the model is loaded and asked
    of = kept.weights_sha256, kept.engine_version, kept.steelyard_version, kept.context_tokens
    return kept.info if of == _of(weights_sha256) else None


def _plan(name: str, kind: str, info: EngineInfo) -> ServicePlan:
    found = installed_services().find(kind)
    manifest = found.describe(name, info)
    return ServicePlan(
        name=name,
        kind=kind,
        manifest=encode_manifest(manifest),
        grade=int(found(manifest).grade),
        price_in=PRICE_IN,
        price_out=PRICE_OUT,
    )


def plan_echo(name: str = "echo") -> ServicePlan:
    """Return the `echo` service, which needs no engine; its answers can be checked exactly."""
    manifest = installed_services().find("echo").describe(name)
    return ServicePlan(
        name=name,
        kind="echo",
        manifest=encode_manifest(manifest),
        grade=int(Grade.EXACT),
        price_in=1_000_000,
        price_out=1_000_000,
    )
