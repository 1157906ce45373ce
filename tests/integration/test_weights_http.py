"""Downloads over HTTP, against a real server on this machine that cuts connections, changes files and lies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from steelyard.errors import ConfigError
from steelyard.weights.cache import WeightCache
from steelyard.weights.fetch import fetch_weights

DATA = bytes(hashlib.shake_256(b"weights").digest(3_000_000))
SHA = hashlib.sha256(DATA).hexdigest()


class FileServer:
    """Serves one file by ranges, and misbehaves as told."""

    def __init__(self) -> None:
        self.data = DATA
        self.etag: str | None = '"one"'
        self.cut_after = 0  # bytes per answer, then the connection is aborted; 0: never
        self.knows_ranges = True
        self.status = 0
        self.starts: list[int] = []
        self.paths: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        if self.status:
            return web.Response(status=self.status)
        start, wanted = 0, request.headers.get("Range")
        if_range = request.headers.get("If-Range")
        if wanted and self.knows_ranges and (if_range is None or if_range == self.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.starts.append(start)
        headers = {"ETag": self.etag} if self.etag else {}
        headers["Content-Length"] = str(len(self.data) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        end = min(len(self.data), start + self.cut_after) if self.cut_after else len(self.data)
        for at in range(start, end, 100_000):
            await response.write(self.data[at : min(end, at + 100_000)])
        if end < len(self.data):
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
        return response


@asynccontextmanager
async def serving() -> AsyncIterator[FileServer]:
    """Run the server on a free port."""
    server, application = FileServer(), web.Application()
    application.router.add_get("/{folder:.*}model.gguf", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/model.gguf"
    try:
        yield server
    finally:
        await runner.cleanup()


async def fetch(server: FileServer, folder: Path, *, sha256: str = SHA, **more: Any) -> Path:
    """Fetch the server's file into a cache."""
    seen = more.pop("seen", [])
    got = await fetch_weights(server.url, WeightCache(folder), lambda *step: seen.append(step), sha256=sha256, **more)
    return got.path


def test_download_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    """A server that cuts every 700 kB is asked for the rest each time; no byte travels twice, and progress only
    grows.
    """
    seen: list[tuple[str, int, int]] = []

    async def run() -> FileServer:
        async with serving() as server:
            server.cut_after = 700_000
            path = await fetch(server, tmp_path, seen=seen, size_bytes=len(DATA))
            assert path.read_bytes() == DATA
            return server

    server = asyncio.run(run())
    assert server.starts == [0, 700_000, 1_400_000, 2_100_000, 2_800_000]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("model.gguf", len(DATA), len(DATA))
    assert not list(tmp_path.glob("*.part*"))


def test_download_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What a process fetched before it gave up is kept, and the next one goes on from there."""

    async def run() -> FileServer:
        async with serving() as server:
            server.cut_after = 1_000_000
            server.knows_ranges = True
            task = asyncio.create_task(fetch(server, tmp_path))
            while len(server.starts) < 2:  # noqa: ASYNC110 - the server's own list is all there is to look at
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.cut_after = 0
            kept = next(tmp_path.glob("*.part")).stat().st_size
            assert kept >= 1_000_000
            server.starts.clear()
            assert (await fetch(server, tmp_path)).read_bytes() == DATA
            assert server.starts == [kept]
            return server

    asyncio.run(run())


def test_file_that_changed_meanwhile_starts_over(tmp_path: Path) -> None:
    """`If-Range` binds the rest to the same file: another ETag brings the whole new file, never a mix of two."""
    new = bytes(hashlib.shake_256(b"new weights").digest(2_000_000))

    async def run() -> None:
        async with serving() as server:
            server.cut_after = 1_000_000
            old_handle = server.starts
            task = asyncio.create_task(fetch(server, tmp_path, sha256=hashlib.sha256(new).hexdigest()))
            while not old_handle:  # noqa: ASYNC110 - the server's own list is all there is to look at
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.03)
            server.data, server.etag, server.cut_after = new, '"two"', 0
            assert (await task).read_bytes() == new
            assert server.starts == [0, 0]

    asyncio.run(run())


def test_server_without_ranges_starts_over(tmp_path: Path) -> None:
    """No ETag, or no ranges: the second try takes the whole file."""
    for case, change in enumerate(({"etag": None}, {"knows_ranges": False})):

        async def run(change: dict[str, Any] = change, case: int = case) -> None:
            async with serving() as server:
                for name, value in change.items():
                    setattr(server, name, value)
                server.cut_after = 1_000_000
                task = asyncio.create_task(fetch(server, tmp_path / str(case)))
                while not server.starts:  # noqa: ASYNC110 - the server's own list is all there is to look at
                    await asyncio.sleep(0.005)
                server.cut_after = 0
                assert (await task).read_bytes() == DATA
                assert set(server.starts) == {0}

        asyncio.run(run())


def test_cuts_that_bring_nothing_give_up_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers 503 for ever ends in one line that says what is kept."""
    monkeypatch.setattr("steelyard.weights.http._FIRST_PAUSE_S", 0.01)

    async def run() -> None:
        async with serving() as server:
            server.status = 503
            with pytest.raises(ConfigError, match=r"can't be fetched \(the server answered 503\): 0 bytes are kept"):
                await fetch(server, tmp_path)

    asyncio.run(run())


@pytest.mark.parametrize(("status", "words"), [(404, "no such file"), (401, "needs an account"), (403, "refused")])
def test_refusal_is_one_line(tmp_path: Path, status: int, words: str) -> None:
    """What no retry can mend is not retried."""

    async def run() -> None:
        async with serving() as server:
            server.status = status
            with pytest.raises(ConfigError, match=words):
                await fetch(server, tmp_path)

    asyncio.run(run())


def test_file_that_is_not_the_promised_one_is_deleted(tmp_path: Path) -> None:
    """A wrong hash, a wrong size, or more bytes than promised: refused, and nothing of it stays."""

    async def run() -> None:
        async with serving() as server:
            with pytest.raises(ConfigError, match="hash to"):
                await fetch(server, tmp_path, sha256="00" * 32)
            with pytest.raises(ConfigError, match="at most 1000 are expected"):
                await fetch(server, tmp_path, size_bytes=1000)
            with pytest.raises(ConfigError, match="expected 4000000"):
                await fetch(server, tmp_path, size_bytes=4_000_000)
        assert not list(tmp_path.glob("*.gguf"))

    asyncio.run(run())


def test_disk_that_is_too_small_is_found_before_the_download(tmp_path: Path) -> None:
    """The line says how much is free and how much is needed."""

    async def run() -> None:
        async with serving() as server:
            with pytest.raises(ConfigError, match=r"MiB free, .* MiB are needed"):
                await fetch(server, tmp_path, size_bytes=2**60)
            assert server.starts == []

    asyncio.run(run())


def test_hugging_face_url_is_fetched_from_its_endpoint_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf:` names owner, repository, file and revision; HF_ENDPOINT leads to a mirror, here one that cuts."""

    async def run() -> FileServer:
        async with serving() as server:
            server.cut_after = 2_000_000
            monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/model.gguf") + "/")
            for url in ("hf:owner/repo/model.gguf@v2", "hf:owner/repo/deep/model.gguf"):
                cache = WeightCache(tmp_path / url.rpartition("/")[2])
                got = await fetch_weights(url, cache, lambda *step: None, sha256="")
                assert (got.sha256, got.path.read_bytes()) == (SHA, DATA)
            return server

    server = asyncio.run(run())
    assert server.starts == [0, 2_000_000] * 2
    assert list(dict.fromkeys(server.paths)) == [
        "/owner/repo/resolve/v2/model.gguf",
        "/owner/repo/resolve/main/deep/model.gguf",
    ]
