"""Downloading over HTTP, resumed where it was cut.

1. What has arrived stays in the part file across cuts and restarts; the rest is asked for by `Range`, bound to the
   same file by `If-Range` with the ETag (or date) of the first answer. A server that changed its file, or knows no
   ranges, starts over.
2. A cut is retried while each try brings new bytes; a few in a row that bring none give up, and keep the part.
3. The size is bounded from the first byte on, whatever the server says.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import aiohttp
import msgspec

from steelyard.errors import ConfigError
from steelyard.weights.cache import WeightCache, hash_file

Progress = Callable[[str, int, int], None]

FRUITLESS_TRIES = 5
_FIRST_PAUSE_S = 0.2
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class HttpSource(msgspec.Struct, frozen=True, kw_only=True):
    """What to download to where: at most `limit` bytes, exactly `size_bytes` if that is not 0."""

    url: str
    part: Path
    limit: int
    size_bytes: int = 0


class _Cut(Exception):
    """The connection ended before the file did; never leaves this module."""


class _Note(msgspec.Struct):
    """What is remembered beside a part file: which file of which URL it is a part of."""

    url: str
    validator: str


async def download(source: HttpSource, cache: WeightCache, progress: Progress) -> str:
    """Fill the part file and return its SHA-256.

    Raises:
        ConfigError: not found, refused, too large, no space, or cut too often without progress.
    """
    fruitless = 0
    async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True, auto_decompress=False) as http:
        while True:
            before = _size(source.part)
            try:
                await _fetch_once(http, source, cache, progress)
                break
            except (aiohttp.ClientError, TimeoutError, ConnectionError, _Cut) as error:
                fruitless = 0 if _size(source.part) > before else fruitless + 1
                if fruitless >= FRUITLESS_TRIES:
                    what = str(error) or type(error).__name__
                    raise ConfigError(
                        f"{source.url} can't be fetched ({what}): {_size(source.part)} bytes are kept, try again"
                    ) from error
                await asyncio.sleep(_FIRST_PAUSE_S * 2**fruitless)
    _note_path(source.part).unlink(missing_ok=True)
    return await asyncio.to_thread(hash_file, source.part)


async def _fetch_once(http: aiohttp.ClientSession, source: HttpSource, cache: WeightCache, progress: Progress) -> None:
    note = _load_note(source)
    have = _size(source.part) if note is not None else 0
    headers = {"Accept-Encoding": "identity"}
    if have and note is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": note.validator}
    async with http.get(source.url, headers=headers) as response:
        if response.status == 416 and have:
            source.part.unlink()  # longer than the file, or of another one: from the start again
            raise _Cut("the server has no such range")
        start, total = _place(response, source, have)
        if total and total > source.limit:
            raise ConfigError(f"{source.url} has {total} bytes, at most {source.limit} are expected")
        if total:
            cache.check_space(total - start)
        validator = response.headers.get("ETag", "") or response.headers.get("Last-Modified", "")
        if validator.startswith("W/"):
            validator = response.headers.get("Last-Modified", "")  # a weak ETag can't bind a range
        if start == 0:
            _save_note(source, validator)
        with source.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            arrived = await _write(response, file, source, start, total, progress)
    if total and arrived < total:
        raise _Cut(f"cut at {arrived} of {total} bytes")


def _place(response: aiohttp.ClientResponse, source: HttpSource, have: int) -> tuple[int, int]:
    """Where the answer's bytes belong, and the whole file's size (0: not said)."""
    if response.status == 200:
        return 0, response.content_length or 0
    if response.status == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found and int(found[1]) == have:
            return have, 0 if found[2] == "*" else int(found[2])
        raise _Cut("the server sent another range than was asked for")
    if response.status in (429, 500, 502, 503, 504):
        raise _Cut(f"the server answered {response.status}")
    hint = {401: ": it needs an account", 403: ": access is refused", 404: ": there is no such file"}
    raise ConfigError(f"{source.url} answered {response.status}{hint.get(response.status, '')}")


async def _write(
    response: aiohttp.ClientResponse, file: BinaryIO, source: HttpSource, start: int, total: int, progress: Progress
) -> int:
    arrived = start
    label = source.url.rpartition("/")[2].partition("?")[0]
    async for block in response.content.iter_chunked(256 * 1024):
        arrived += len(block)
        if arrived > source.limit:
            raise ConfigError(f"{source.url} sends more than the {source.limit} bytes that are expected")
        try:
            file.write(block)
        except OSError as error:
            raise ConfigError(f"{source.part} can't be written: {error.strerror}") from error
        progress(label, arrived, total or source.size_bytes)
    return arrived


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _load_note(source: HttpSource) -> _Note | None:
    """What the part is of, if it can be gone on with."""
    try:
        note = msgspec.json.decode(_note_path(source.part).read_bytes(), type=_Note)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return note if note.url == source.url and note.validator else None


def _save_note(source: HttpSource, validator: str) -> None:
    _note_path(source.part).write_bytes(msgspec.json.encode(_Note(source.url, validator)))
