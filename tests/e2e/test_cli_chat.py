"""`steelyard chat` against a server that misbehaves: what was cut is never shown as whole."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"half an "},"finish_reason":null}]}\n\n'
ERROR = b'data: {"error":{"message":"the provider went away","code":"provider_lost"}}\n\n'


@contextmanager
def serve(body: bytes, status: int = 200) -> Iterator[str]:
    """Serve one canned stream for every chat, on a free port; gives the base URL."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), 0

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "canned"}]})

    async def chat(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, content_type="text/event-stream")

    async def start() -> web.AppRunner:
        nonlocal port
        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        ready.set()
        return runner

    def work() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def chat(home: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask, as a user would."""
    command = [sys.executable, "-m", "steelyard", "--home", str(home), "chat", "hello", "--base-url", url, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_whole_answer_of_any_server_is_shown(tmp_path: Path) -> None:
    """A server without receipts is told as such, status 0."""
    with serve(CHUNK + b"data: [DONE]\n\n") as url:
        done = chat(tmp_path, url)
    assert (done.returncode, done.stdout) == (0, "half an \n[this gateway gives no receipts]\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (CHUNK, "error: the answer was cut: the stream ended before its end was announced\n"),
        (CHUNK + ERROR, "error: the answer was cut: the provider went away\n"),
    ],
)
def test_cut_answer_ends_with_an_error(tmp_path: Path, body: bytes, message: str) -> None:
    """A stream without its end, or with an error in it, is one clear line and status 1."""
    with serve(body) as url:
        done = chat(tmp_path, url)
    assert (done.returncode, done.stderr) == (1, message)


def test_refusal_is_told_in_the_gateways_words(tmp_path: Path) -> None:
    """An error in OpenAI's shape keeps its message and code."""
    body = json.dumps({"error": {"message": "the key's budget is spent", "code": "budget_exceeded"}}).encode()
    with serve(body, 402) as url:
        done = chat(tmp_path, url, "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr) == {"error": {"code": "budget_exceeded", "message": "the key's budget is spent"}}


def test_silent_server_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Nobody there is one line that says how to start somebody."""
    done = chat(tmp_path, "http://127.0.0.1:9/v1")
    assert done.returncode == 1
    assert "can't reach http://127.0.0.1:9/v1" in done.stderr
    assert "steelyard up" in done.stderr
    assert done.stderr.count("\n") == 1
