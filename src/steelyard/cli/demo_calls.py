"""The demo's calls: 20 chats and 5 embeddings through the stock `openai` client, and the check of each receipt.

A receipt is checked from the bytes that this client itself sent and received; the gateway's word is not taken.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from steelyard.errors import ConfigError, SteelyardError
from steelyard.protocol.call_proof import verify_call
from steelyard.protocol.signing import Domain

CHATS = 20
EMBEDDING_CALLS = 5
MAX_TOKENS = 24
AT_ONCE = 3
PROOF_TIMEOUT_S = 20.0

QUESTIONS = (
    "What is a steelyard balance?",
    "Name three fruits.",
    "Why is the sky blue?",
    "What does a baker do?",
    "Say hello in French.",
    "What is the capital of Italy?",
    "How many legs has a spider?",
    "What is ice made of?",
    "Name a large river.",
    "What is a market?",
)
SENTENCES = (
    "Gold is weighed on a balance.",
    "A scale compares two weights.",
    "The cat sleeps on the sofa.",
    "Rain falls from dark clouds.",
    "Traders meet at the harbour.",
)


@dataclass(frozen=True, slots=True)
class DemoCall:
    """One call as the client saw it; `problem` is empty once its receipt is verified."""

    label: str
    model: str
    call_id: str
    body: bytes
    content: bytes
    preview: str
    provider: str = ""
    receipt_id: str = ""
    units_in: int = 0
    units_out: int = 0
    cost_nano: int = 0
    problem: str = "not checked"


def find_stock_client() -> Any:
    """Return the class `openai.AsyncOpenAI`; raises ConfigError where the package is not installed."""
    try:
        from openai import AsyncOpenAI
    except ImportError:
        raise ConfigError(
            'the demo talks through the stock client, which is not installed: pip install "steelyard[peers]"'
        ) from None
    return AsyncOpenAI


async def run_calls(
    base_url: str, key: str, progress: Callable[[str, int, int], None], chat: str, embeddings: str
) -> list[DemoCall]:
    """Make every call, a few at once, and return them in order."""
    open_client = find_stock_client()
    gate = asyncio.Semaphore(AT_ONCE)
    done = 0
    async with open_client(base_url=base_url, api_key=key, max_retries=0) as client:

        async def one(number: int) -> DemoCall:
            nonlocal done
            async with gate:
                if number < CHATS:
                    call = await _chat(client, chat, number)
                else:
                    call = await _embed(client, embeddings, number - CHATS)
            done += 1
            progress(f"asking {CHATS} questions, embedding {EMBEDDING_CALLS} sentences", done, CHATS + EMBEDDING_CALLS)
            return call

        return list(await asyncio.gather(*(one(number) for number in range(CHATS + EMBEDDING_CALLS))))


async def check_call(base_url: str, key: str, domain: Domain, call: DemoCall) -> DemoCall:
    """Return the call with its receipt's figures, its problem empty if the proof holds, voucher included."""
    deadline = time.monotonic() + PROOF_TIMEOUT_S
    headers = {"Authorization": f"Bearer {key}"}
    shown: dict[str, Any] = {}
    async with aiohttp.ClientSession(headers=headers) as session:
        while time.monotonic() < deadline and not shown.get("voucher"):
            async with session.get(f"{base_url}/calls/{call.call_id}") as answer:
                shown = await answer.json()
            if not shown.get("voucher"):
                await asyncio.sleep(0.1)
    try:
        receipt = verify_call(shown, domain, model=call.model, content=call.content, body=call.body)
    except SteelyardError as error:
        return replace(call, problem=error.message)
    return replace(
        call,
        provider=shown["provider"],
        receipt_id="0x" + receipt.struct_hash().hex(),
        units_in=receipt.units_in,
        units_out=receipt.units_out,
        cost_nano=receipt.cost,
        problem="" if shown.get("voucher") else "no voucher covers it yet",
    )


async def _chat(client: Any, model: str, number: int) -> DemoCall:
    question = QUESTIONS[number % len(QUESTIONS)]
    is_stream = number % 2 == 1
    raw = await client.chat.completions.with_raw_response.create(
        model=model,
        max_tokens=MAX_TOKENS,
        stream=is_stream,
        seed=number,
        messages=[{"role": "user", "content": question}],
    )
    body = raw.http_request.content
    answer = raw.parse()
    if is_stream:
        text = ""
        stamp: dict[str, Any] = {}
        async for chunk in answer:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            stamp = getattr(chunk, "steelyard", None) or stamp
    else:
        text, stamp = answer.choices[0].message.content or "", answer.steelyard
    label = f"chat {number + 1}" + (", streamed" if is_stream else "")
    return DemoCall(label, model, stamp["call_id"], body, text.encode(), _shorten(text))


async def _embed(client: Any, model: str, number: int) -> DemoCall:
    raw = await client.embeddings.with_raw_response.create(model=model, input=SENTENCES[number])
    vectors = [item.embedding for item in raw.parse().data]
    content = b"".join(struct.pack(f"<{len(vector)}f", *vector) for vector in vectors)
    preview = f"{len(vectors[0])} numbers: {vectors[0][0]:+.3f} {vectors[0][1]:+.3f} …"
    call_id = raw.headers["x-steelyard-call"]
    return DemoCall(f"embedding {number + 1}", model, call_id, raw.http_request.content, content, preview)


def _shorten(text: str, width: int = 34) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
