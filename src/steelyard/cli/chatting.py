"""``steelyard chat``: one question, or a conversation, over any OpenAI-compatible gateway.

1. The answer is shown as it arrives; then who made it, what it cost, and its receipt.
2. A stream that ends without ``[DONE]``, or with an error, is said to be cut; status 1.
3. Base URL and key: options, else STEELYARD_BASE_URL and STEELYARD_API_KEY, else the network that `steelyard up` runs;
   what a killed one left behind is not believed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next
from steelyard.cli.running import load_state
from steelyard.errors import ConfigError, SteelyardError, Unavailable

if TYPE_CHECKING:
    import aiohttp

MAX_LINE_BYTES = 4 * 1024 * 1024
FAREWELLS = frozenset({"/exit", "/quit", "/bye"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and as whom; `base_url` ends in ``/v1``."""

    base_url: str
    api_key: str

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(slots=True)
class Answer:
    """One answer as it came: its text, and the `steelyard` object of its last chunk."""

    text: str = ""
    stamp: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "chat",
        rich_help_panel="Using a network",
        epilog=example(
            'steelyard chat "What is a steelyard?"', "steelyard chat --model smollm2-135m-instruct --seed 7"
        ),
    )(chat)


def chat(
    context: typer.Context,
    question: Annotated[
        str | None, typer.Argument(help="What to ask; without it a conversation begins, - reads standard input.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The first chat model on sale by default.")] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Like http://127.0.0.1:8080/v1.", envvar="STEELYARD_BASE_URL")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="The key to use.", envvar="STEELYARD_API_KEY", show_envvar=True)
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message to begin with.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0.0, max=2.0)] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1)] = None,
    is_json: JsonFlag = False,
) -> None:
    """Ask a model, and see who answered, what it cost and the receipt that proves it."""
    endpoint = find_endpoint(Invocation.of(context).home, base_url, api_key)
    options = {"seed": seed, "temperature": temperature, "max_tokens": max_tokens}
    asked = {name: value for name, value in options.items() if value is not None}
    if question == "-":
        question = sys.stdin.read().strip()
    messages = [{"role": "system", "content": system}] if system else []
    run(_chat(endpoint, model, messages, question, asked, is_json))


def find_endpoint(home: Path, base_url: str | None, api_key: str | None) -> Endpoint:
    """Return where to ask: what was given, else the running network of a home; raises ConfigError if neither is."""
    if base_url is None:
        running = load_state(home) or {}
        base_url = running.get("base_url")
        api_key = api_key or running.get("api_key")
    if base_url is None:
        raise ConfigError(
            f"no gateway is named and no network runs in {home}: start one with steelyard up, or give --base-url or "
            "STEELYARD_BASE_URL"
        )
    if not base_url.startswith(("http://", "https://")):
        raise ConfigError(f"{base_url!r} is no base URL: it looks like http://127.0.0.1:8080/v1")
    return Endpoint(base_url.rstrip("/"), api_key or os.environ.get("OPENAI_API_KEY", ""))


async def _chat(
    endpoint: Endpoint,
    model: str | None,
    messages: list[dict[str, str]],
    question: str | None,
    options: dict[str, Any],
    is_json: bool,
) -> None:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
    async with aiohttp.ClientSession(timeout=timeout, headers=endpoint.headers, read_bufsize=MAX_LINE_BYTES) as session:
        chosen = model or await _first_model(session, endpoint)
        if question is not None:
            answer = await _ask(session, endpoint, chosen, [*messages, _user(question)], options, is_quiet=is_json)
            if is_json:
                print_json(
                    {
                        "model": chosen,
                        "content": answer.text,
                        "finish_reason": answer.finish_reason,
                        "usage": answer.usage,
                        "steelyard": answer.stamp,
                    }
                )
            elif "call_id" in answer.stamp:
                print_next(f"steelyard calls show {answer.stamp['call_id']}")
            return
        print_line(f"talking with {chosen}; /exit ends")
        while (said := _read_line()) is not None:
            messages.append(_user(said))
            answer = await _ask(session, endpoint, chosen, messages, options, is_quiet=False)
            messages.append({"role": "assistant", "content": answer.text})


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _read_line() -> str | None:
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            return None
        if said in FAREWELLS:
            return None
        if said:
            return said


async def _first_model(session: aiohttp.ClientSession, endpoint: Endpoint) -> str:
    import aiohttp

    try:
        async with session.get(f"{endpoint.base_url}/models") as response:
            body = await response.json(content_type=None)
            if response.status != 200:
                raise read_refusal(response.status, body)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise tell_unreachable(endpoint, error) from error
    models = [str(entry["id"]) for entry in body.get("data", [])]
    chats = [str(e["id"]) for e in body.get("data", []) if e.get("kind", e.get("steelyard", {}).get("kind")) == "chat"]
    if not models:
        raise Unavailable(f"{endpoint.base_url} has no model on sale now: try again once a provider is up")
    return (chats or models)[0]


async def _ask(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    model: str,
    messages: list[dict[str, str]],
    options: dict[str, Any],
    *,
    is_quiet: bool,
) -> Answer:
    import aiohttp

    body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}, **options}
    answer = Answer()
    try:
        async with session.post(f"{endpoint.base_url}/chat/completions", json=body) as response:
            if response.status != 200:
                raise read_refusal(response.status, await response.json(content_type=None))
            async for event in _events(response):
                _take(answer, event, is_quiet)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise tell_unreachable(endpoint, error) from error
    if not is_quiet:
        sys.stdout.write("\n")
        print_line(describe(answer))
    return answer


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            error = event["error"] if isinstance(event["error"], dict) else {"message": str(event["error"])}
            raise SteelyardError(f"the answer was cut: {error.get('message')}", code=str(error.get("code") or "cut"))
        yield event
    raise SteelyardError("the answer was cut: the stream ended before its end was announced", code="cut")


def _take(answer: Answer, event: dict[str, Any], is_quiet: bool) -> None:
    for choice in event.get("choices", ()):
        text = choice.get("delta", {}).get("content") or ""
        answer.text += text
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        if text and not is_quiet:
            sys.stdout.write(text)
            sys.stdout.flush()
    answer.stamp = event.get("steelyard") or answer.stamp
    answer.usage = event.get("usage") or answer.usage


def describe(answer: Answer) -> str:
    """Return one line on who made an answer, what it cost, and its receipt."""
    from steelyard.protocol.pricing import format_yard

    stamp, parts = answer.stamp, []
    if answer.usage:
        parts.append(f"{answer.usage.get('prompt_tokens', 0)}+{answer.usage.get('completion_tokens', 0)} tokens")
    if isinstance(stamp.get("cost_nano"), int):
        parts.append(f"{format_yard(stamp['cost_nano'])} YARD")
    if stamp.get("provider"):
        parts.append(f"provider {stamp['provider']}")
    if stamp.get("grade") is not None:
        parts.append(f"grade {stamp['grade']}")
    if stamp.get("receipt_id"):
        parts.append(f"receipt {stamp['receipt_id']}")
    if answer.finish_reason == "length":
        parts.append("stopped at the token limit")
    return "[" + ", ".join(parts) + "]" if parts else "[this gateway gives no receipts]"


def read_refusal(status: int, body: Any) -> SteelyardError:
    """Return a gateway's error in its own words; `body` is untrusted JSON."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return SteelyardError(f"the gateway answered HTTP {status}: {str(body)[:200]}", code=f"http_{status}")
    return SteelyardError(str(error.get("message")), code=str(error.get("code") or f"http_{status}"))


def tell_unreachable(endpoint: Endpoint, error: Exception) -> SteelyardError:
    """Return what a failed request to an endpoint means, and what to do."""
    if isinstance(error, ValueError):
        return SteelyardError(f"{endpoint.base_url} doesn't speak OpenAI's API: {error}", code="not_openai")
    return Unavailable(
        f"can't reach {endpoint.base_url}: {error or type(error).__name__}; start a gateway there with steelyard up",
        code="gateway_unreachable",
    )
