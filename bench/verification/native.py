"""llama.cpp's own loop and sampler, through its server: what our stepping is measured against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from steelyard.engines.llama_server import LlamaOptions

Native = Callable[[list[list[int]], int], Awaitable[None]]


@asynccontextmanager
async def opened_native(path: Path, slots: int, context_tokens: int) -> AsyncIterator[Native]:
    """Open a server with batches as long as ours, and give what answers that many prompts at once."""
    import xllamacpp

    options = LlamaOptions(slots=slots, context_tokens=context_tokens)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = options.slots
    params.n_ctx = options.context_tokens * options.slots
    params.n_batch = params.n_ubatch = options.batch_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.fit_params = params.warmup = params.cache_idle_slots = params.ui = False
    params.cache_ram_mib, params.n_threads_http, params.verbosity, params.port = 0, 1, -1, 0
    params.hostnames = ["127.0.0.1"]
    server = [await asyncio.to_thread(xllamacpp.Server, params)]

    async def answer(prompts: list[list[int]], tokens: int) -> None:
        body = {"max_tokens": tokens, "ignore_eos": True, "cache_prompt": True, "temperature": 0.8, "top_p": 0.95}
        body["prompt"] = prompts if len(prompts) > 1 else prompts[0]
        answer = await asyncio.to_thread(server[0].handle_completions, body)
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * len(prompts), answer

    try:
        yield answer
    finally:
        await asyncio.to_thread(server.clear)
