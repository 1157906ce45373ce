"""``steelyard calibrate``: measure how far honest answers lie from their replays, and write the null that checks use.

1. The provider's engine answers as nodes do, several at once; the validator's replays each answer as checks do.
2. llama.cpp replays each answer a second time with a kernel that rounds otherwise (batches above its threshold), as
   families of their own: honest machines differ at least so much, and the worst family's bounds count.

Law: docs/spec/checking.md, section 4; docs/cli.md, "steelyard calibrate".
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next
from steelyard.errors import ConfigError

if TYPE_CHECKING:
    from steelyard.cli.offerings import Progress
    from steelyard.cli.settings import Settings
    from steelyard.engines.port import Engine
    from steelyard.services.manifest import Manifest
    from steelyard.services.port import Service
    from steelyard.verification.calibration import Sample
    from steelyard.verification.null import Null

WIDE_BATCH_TOKENS = 256
OTHER_KERNEL = "other-kernel"
KINDS = ("chat", "embeddings")


def register(app: typer.Typer) -> None:
    """Add the command."""
    shown = example("steelyard calibrate my-model", "steelyard calibrate smollm2-135m-instruct --weights smollm2-135m")
    app.command("calibrate", rich_help_panel="Running a part of it", epilog=shown)(calibrate)


def calibrate(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="The service to calibrate.")],
    weights: Annotated[
        str, typer.Option("--weights", help="A known model: describe the service from it, ask no chain.")
    ] = "",
    answers: Annotated[int, typer.Option("--answers", min=8, max=100_000, help="How many answers to measure.")] = 480,
    tokens: Annotated[int, typer.Option("--tokens", min=8, max=4096, help="The most that one answer has.")] = 128,
    slots: Annotated[int, typer.Option("--slots", min=1, max=64, help="Answers side by side.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the questions.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: in validator.calibrations.")
    ] = None,
    is_json: JsonFlag = False,
) -> None:
    """Measure honest answers of a service on this machine, so that validators can judge others' by it."""
    size = Size(answers, tokens, slots, seed)
    null, path, digest = run(write_null(Invocation.of(context), service, weights, size, out, is_quiet=is_json))
    if is_json:
        print_json({"path": path, "sha256": digest, "answers": null.answers, "tokens": null.tokens})
        return
    count = sum(bound is not None for score in null.bounds_ppb for regime in score for bound in regime)
    print_line(f"{path}: {null.answers:,} replays of {null.tokens:,} tokens give {count} bounds; sha256 {digest.hex()}")
    print_next("steelyard validator run")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: answers, the most tokens of one, answers side by side, and the seed of the questions."""

    answers: int
    tokens: int
    slots: int = 4
    seed: int = 0


async def write_null(
    invocation: Invocation, name: str, weights: str, size: Size, out: Path | None, *, is_quiet: bool
) -> tuple[Null, Path, bytes]:
    """Measure a service and write its null; return it with its file and the file's SHA-256.

    Args:
        weights: a known model, or "" for what the chain has registered under the name.
    """
    from rich.console import Console

    from steelyard.cli.progress import Steps
    from steelyard.validator.measuring import measure, write_questions
    from steelyard.validator.probes import load_prompts
    from steelyard.verification.null import encode_null, null_digest

    settings = invocation.settings
    samples: list[Sample] = []
    async with AsyncExitStack() as stack:
        steps = stack.enter_context(Steps(is_shown=not is_quiet, console=Console(stderr=True, highlight=False)))
        if weights:
            manifest = await _described(settings, name, weights, steps.progress)
        else:
            manifest = await _registered(invocation, name)
        if manifest.kind not in KINDS:
            raise ConfigError(f"{name!r} is of kind {manifest.kind!r}: {' and '.join(KINDS)} are calibrated")
        provider, validators, engine = await _open(settings, manifest, size.slots, steps.progress, stack)
        questions = write_questions(provider, load_prompts(), answers=size.answers, tokens=size.tokens, seed=size.seed)
        done = 0
        async for found in measure(provider, validators, questions, at_once=size.slots):
            samples += found
            done += 1
            steps.progress(f"measuring {size.answers} answers", done, size.answers)
        steps.report("computing the bounds")
        null = _bound(samples, manifest, engine)
    blob = encode_null(null)
    path = out or settings.calibrations_folder / f"{name}--{null.manifest[:12]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)
    return null, path, null_digest(blob)


def _bound(samples: list[Sample], manifest: Manifest, engine: str) -> Null:
    from steelyard.services.manifest import encode_manifest, manifest_digest
    from steelyard.verification.calibration import ORDINARY, Pair, calibrate
    from steelyard.verification.scores import PLAIN_STRATA, VECTOR_CLIPS

    digest = manifest_digest(encode_manifest(manifest)).hex()
    pair = Pair(manifest=digest, provider_engine=engine, validator_engine=engine)
    if manifest.kind == "chat":
        return calibrate(samples, pair)
    return calibrate(samples, pair, clips=VECTOR_CLIPS, strata=PLAIN_STRATA, required=(ORDINARY,))


async def _described(settings: Settings, name: str, weights: str, progress: Progress) -> Manifest:
    from steelyard.cli.offerings import MODEL, plan_smollm2
    from steelyard.services.manifest import decode_manifest
    from steelyard.weights.catalogue import find_model

    if find_model(weights).name != MODEL:
        raise ConfigError(f"{weights!r} has no described services: register one and calibrate it by its name")
    plans = {plan.name: plan for plan in await plan_smollm2(settings, progress)}
    if name not in plans:
        raise ConfigError(f"{weights} is sold as {' and '.join(plans)}, not as {name!r}")
    return decode_manifest(plans[name].manifest)


async def _registered(invocation: Invocation, name: str) -> Manifest:
    from steelyard.cli.chain_access import open_chain
    from steelyard.protocol.cid import Cid
    from steelyard.protocol.ids import service_id
    from steelyard.services.manifest import decode_manifest
    from steelyard.storage.blobs import FolderBlobs

    async with open_chain(invocation) as chain:
        registered = await chain.registry.fetch_service(service_id(name))
    if registered is None:
        raise ConfigError(f"the service {name!r} is not registered: see steelyard services list")
    return decode_manifest(await FolderBlobs(invocation.settings.blobs_folder).get(Cid(registered.manifest)))


async def _open(
    settings: Settings, manifest: Manifest, slots: int, progress: Progress, stack: AsyncExitStack
) -> tuple[Service, dict[str, Service], str]:
    """The service on the provider's engine, on the validator's by name of their families, and the engines' name."""
    from steelyard.cli.engine_wiring import Engines, Ordered
    from steelyard.cli.settings import NodeSection, ServiceEntry
    from steelyard.engines.llama import ENGINE, LlamaEngine
    from steelyard.engines.llama_server import LlamaOptions
    from steelyard.services.discovery import installed_services
    from steelyard.weights.cache import WeightCache

    kind, cache = installed_services().find(manifest.kind), WeightCache(settings.weights_folder)
    ordered = Ordered(ServiceEntry(name=manifest.name), manifest)

    async def serve(engine: Engine) -> Service:
        service = kind(manifest, engine=engine)
        stack.push_async_callback(service.aclose)
        await service.prepare(progress)
        return service

    async def open_engine(section: NodeSection) -> Engine:
        engines = Engines(section, cache, [ordered])
        stack.push_async_callback(engines.aclose)
        return await engines.open(ordered)

    engine = await open_engine(NodeSection(engine_slots=slots))
    validators = {"": await serve(await open_engine(NodeSection(engine_slots=1)))}
    if engine.info.engine == ENGINE and manifest.kind == "chat" and manifest.weights is not None:
        options = LlamaOptions(context_tokens=manifest.context_tokens, batch_tokens=WIDE_BATCH_TOKENS)
        wide = LlamaEngine(cache.path_of(manifest.weights.sha256), options=options)
        stack.push_async_callback(wide.aclose)
        await wide.prepare(progress)
        validators[OTHER_KERNEL] = kind(manifest, engine=wide)
    return await serve(engine), validators, f"{engine.info.engine} {engine.info.engine_version}"
