"""A stranger sells a model of their own: from a weight file, or a server they run, to a call that somebody paid for."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.e2e.test_cli_network import Person, on_network
from tests.llama_world import fetch_test_model
from tests.network_world import fetch, until

NODE = "node-9"


async def sell(person: Person, network: Any, name: str, manifest: Path) -> dict[str, Any]:
    """Register, offer and serve what a manifest describes, and return the first answer that is sold."""
    await person.type("services", "register", name, "chat", "--manifest", str(manifest))
    serve = ["node", "run", "--wallet", NODE, "--service", name, "--gateway", network.base_url[:-3]]
    _, error = await person.type(*serve, status=2)
    assert f"{NODE} doesn't offer {name!r}: run steelyard offer set {name}" in error
    assert "loading" not in error
    await person.type("offer", "set", name, "--price-in", "1", "--price-out", "2", "--wallet", NODE)
    node = await network.processes.start(NODE, serve, environment=network.environment)
    assert node.ready["services"] == [name]

    async def is_sold() -> bool:
        listing = await fetch(network, "/models")
        return any(model["id"] == name and model["steelyard"]["providers"] for model in listing["data"])

    await until(is_sold, f"{name} is on sale")
    answer = await person.read("chat", "Say hello", "--model", name, "--max-tokens", "8")
    await network.processes.stop(NODE)
    assert answer["content"]
    assert answer["steelyard"]["cost_nano"] > 0
    return dict(answer)


async def own_wallet(person: Person) -> None:
    """Make a provider's wallet with stake."""
    await person.type("wallet", "new", NODE, "--dev")
    await person.type("wallet", "fund", NODE, "1500")
    await person.type("stake", "provider", "1000", "--wallet", NODE)


@pytest.mark.timeout(300)
def test_own_weights_are_described_registered_offered_served_and_paid(tmp_path: Path) -> None:
    """Every command is what the one before said to type next."""
    weights = asyncio.run(fetch_test_model())
    own = tmp_path / "mine.gguf"
    shutil.copyfile(weights, own)
    with own.open("ab") as file:
        file.write(b"\x00" * 32)  # another hash than any model in the catalogue

    async def story(person: Person, network: Any) -> None:
        await own_wallet(person)
        out = tmp_path / "mine.json"
        words = ("services", "describe", "mine", "chat", "--weights", str(own), "--context", "512", "--out", str(out))
        _, said = await person.type(*words)
        assert f"steelyard services register mine chat --manifest {out}" in said
        assert "its weights are on this machine alone" in said
        manifest = json.loads(out.read_text())
        assert (manifest["weights"]["url"], manifest["context_tokens"]) == (f"file:{own}", 512)
        answer = await sell(person, network, "mine", out)
        (call,) = await person.read("calls", "show", answer["steelyard"]["call_id"])
        assert call["receipt"]["units_out"] <= 8

    on_network(tmp_path / "home", story)


@pytest.mark.timeout(300)
def test_own_server_is_described_registered_offered_served_and_paid(tmp_path: Path) -> None:
    """An OpenAI-compatible server behind a base URL is sold the same way; its settings are what was printed."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "theirs"}]})

    async def chat(request: web.Request) -> web.Response:
        assert (await request.json())["model"] == "theirs"
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}},
        ]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return web.Response(text=body, content_type="text/event-stream")

    async def story(person: Person, network: Any) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            await own_wallet(person)
            upstream = ("--base-url", base_url, "--context", "4096")
            words = ("services", "describe", "served", "chat", *upstream)
            _, error = await person.type(*words, status=2)
            assert "has no model 'served', it has theirs" in error
            out = tmp_path / "served.json"
            _, said = await person.type(*words, "--upstream-model", "theirs", "--out", str(out))
            entry = f'name = "served", base_url = "{base_url}", upstream_model = "theirs"'
            assert entry in said
            config = network.plan.home / "config.toml"
            config.write_text(config.read_text() + "\n[[node.services]]\n" + entry.replace(", ", "\n") + "\n")
            answer = await sell(person, network, "served", out)
            assert (answer["content"], answer["usage"]["prompt_tokens"]) == ("hello", 9)
        finally:
            await runner.cleanup()

    on_network(tmp_path / "home", story)
