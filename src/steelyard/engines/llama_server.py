"""One llama.cpp server inside this process, for what its C API doesn't do: tokenizer, chat template and embeddings.

1. Heavy: the library is imported only when a server is opened, with `OMP_WAIT_POLICY=PASSIVE` set before, since
   threads that spin on busy cores bring it to its knees.
2. It insists on an HTTP port. It gets a free one on 127.0.0.1 and a random key that never leaves this process;
   without the key it answers nothing but its health. We use that port only for its tokenizer and its template.
3. Embedding blocks, so it runs in a thread and releases the interpreter; a call that was begun runs to its end.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from steelyard.errors import BadRequest, ConfigError, Unavailable

_HTTP_TIMEOUT = aiohttp.ClientTimeout(total=60)
_QUIET = -1

REFUSED = "engine_refused"
"""The code of a request that the server understood and would not do."""


class LlamaOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a context is opened: sequences at once, compute threads, context per sequence, and tokens per batch.

    Below 64 tokens a batch computes the very bits that one token alone gets; from there on llama.cpp's attention takes
    another kernel, 0.1 nats away on SmolLM2-135M. So what a slot happens to have cached, who shares its batch, and
    whether an answer was stepped or scored leaves no trace. A prompt takes 5 % longer than in batches of 256.
    """

    slots: int = 1
    threads: int = 1
    context_tokens: int = 2048
    batch_tokens: int = 48


class LlamaServer:
    """A loaded model in llama.cpp's own server; owned by one engine."""

    def __init__(self, server: Any, api_key: str) -> None:
        self._server = server
        self._api_key = api_key
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="llama-server")
        self._http: aiohttp.ClientSession | None = None
        self.base_url = str(server.listening_address)

    async def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the embeddings of texts as OpenAI's JSON.

        Raises:
            BadRequest: it refused a text.
            Unavailable: it failed, or is closed.
        """
        if self._server is None:
            raise _closed()
        loop = asyncio.get_running_loop()
        answer: dict[str, Any] = await loop.run_in_executor(
            self._pool, self._server.handle_embeddings, {"input": list(texts)}
        )
        if error := answer.get("error"):
            message = str(error.get("message", error))
            if error.get("type") in ("exceed_context_size_error", "invalid_request_error"):
                raise BadRequest(f"the engine refused the text: {message}", param="input")
            raise Unavailable(f"the engine failed: {message}", code="engine_failed")
        return answer

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the server's own port (tokenizer, template) and return its JSON.

        Raises:
            Unavailable: it is closed, or answered with an error.
        """
        if self._server is None:
            raise _closed()
        if self._http is None:
            headers = {"Authorization": f"Bearer {self._api_key}"}
            # The library closes connections that it kept alive without a word; a request on its way is then lost.
            connector = aiohttp.TCPConnector(force_close=True)
            self._http = aiohttp.ClientSession(headers=headers, timeout=_HTTP_TIMEOUT, connector=connector)
        try:
            async with self._http.post(self.base_url + path, json=body) as response:
                if response.status != 200:
                    message = (await response.content.read(4096)).decode("utf-8", "replace")
                    raise Unavailable(f"llama.cpp answered {response.status} to {path}: {message}", code=REFUSED)
                return await response.json()  # type: ignore[no-any-return]  # JSON objects, by its documentation
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"llama.cpp did not answer {path}: {error}", code="engine_failed") from error

    async def aclose(self) -> None:
        """Let calls that run come to their end, then unload the model; safe to call twice."""
        server, self._server = self._server, None
        if self._http is not None:
            await self._http.close()
            self._http = None
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        if server is not None:
            holder = [server]
            del server
            await asyncio.to_thread(holder.clear)


async def open_llama_server(path: Path, options: LlamaOptions, *, embeds: bool) -> LlamaServer:
    """Load a model file and return its server; one that doesn't embed leaves the weights where they are on disk.

    Raises:
        ConfigError: xllamacpp is not installed, or the file can't be loaded.
    """
    api_key = secrets.token_hex(32)
    server = await asyncio.to_thread(_load, path, options, api_key, embeds)
    return LlamaServer(server, api_key)


def _closed() -> Unavailable:
    return Unavailable("the model engine is closed", code="engine_closed")


def _load(path: Path, options: LlamaOptions, api_key: str, embeds: bool) -> Any:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import xllamacpp
    except ImportError as error:
        raise ConfigError(f"the llama.cpp engine is not installed ({error}): pip install 'steelyard[node]'") from error
    if not path.is_file():
        raise ConfigError(f"weight file {path} does not exist")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = options.slots
    params.n_ctx = options.context_tokens * options.slots
    params.n_batch = params.n_ubatch = options.batch_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.fit_params = False
    params.warmup = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.verbosity = _QUIET
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [api_key]
    params.n_threads_http = 2
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.no_extra_bufts = not embeds  # no copy of the weights in another layout
    if embeds:
        params.embedding = True
        params.embd_normalize = 2
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ConfigError(
            f"llama.cpp can't load {path}: the file is damaged, of an unknown architecture, or needs more memory"
        ) from error
