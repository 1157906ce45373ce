"""A person keeps a network on their own machine: up, a call, down, up again; and what they do wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from steelyard.cli.running import find_supervisor
from steelyard.cli.settings_file import load_settings

FREE_PORTS = ("--port", "0", "--link-port", "0", "--chain-port", "0")
MODEL = "smollm2-135m-instruct"


class Owner:
    """Types commands in one home and reads what they print."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEELYARD_")}
        self._environment = kept | {"STEELYARD_HOME": str(home)}

    def type(self, *words: str, status: int = 0) -> tuple[str, str]:
        """Type a command, expect its status, and return what it printed on both outputs."""
        done = subprocess.run(
            [sys.executable, "-m", "steelyard", *words],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self._environment,
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout, done.stderr

    def read(self, *words: str) -> Any:
        """Type a command with --json and return its one JSON value."""
        return json.loads(self.type(*words, "--json")[0])


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """Give somebody with a fresh home, and leave nothing running."""
    person = Owner(tmp_path / "home")
    yield person
    person.type("down")


def ask(state: dict[str, Any]) -> str:
    """Return the call id of one chat through the stock client."""
    with openai.OpenAI(base_url=state["base_url"], api_key=state["api_key"], max_retries=0) as client:
        answer = client.chat.completions.create(
            model=MODEL, max_tokens=4, messages=[{"role": "user", "content": "Say hello"}]
        )
    stamp: dict[str, Any] = answer.steelyard  # type: ignore[attr-defined]
    return str(stamp["call_id"])


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and that nobody has asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int], seconds: float) -> None:
    """Wait until none of the processes lives; fails the test otherwise."""
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < end, f"still running: {alive}"
        time.sleep(0.1)


def wait_until_started_again(owner: Owner, before: dict[str, Any]) -> dict[str, Any]:
    """Wait until a killed provider serves again beside the processes that were there; return the network's state."""
    end = time.monotonic() + 60
    state: dict[str, Any] = owner.read("up")
    while state["processes"]["node-1"] == before["processes"]["node-1"]:
        assert time.monotonic() < end, "the provider was not started again"
        time.sleep(0.2)
        state = owner.read("up")
    assert {**state["processes"], "node-1": 0} == {**before["processes"], "node-1": 0}
    return state


@pytest.mark.timeout(300)
def test_network_goes_on_where_it_stopped(owner: Owner) -> None:
    """Ports, key, calls and the owner's own settings are there again, a killed provider too; what `up` prints works."""
    first = owner.read("up", "--providers", "1", *FREE_PORTS)
    assert sorted(first["processes"]) == ["chain", "gateway", "node-1"]
    said, _ = owner.type("up")
    (pasted,) = (line for line in said.splitlines() if "from openai import OpenAI" in line)
    run = subprocess.run(pasted, shell=True, capture_output=True, text=True, timeout=60, check=True)  # noqa: S602
    assert run.stdout.strip()
    status = owner.read("status")
    assert (status["chain"]["state"], status["gateway"]["state"]) == ("up", "ready")
    assert status["gateway"]["url"] + "/v1" == first["base_url"]
    (made,) = owner.read("calls", "list")
    owner.type("offer", "set", MODEL, "--price-in", "0.25", "--price-out", "0.75", "--wallet", "node-1")

    assert owner.read("down") == {"stopped": True}
    wait_until_gone([first["pid"], *first["processes"].values()], 1)
    config = owner.home / "config.toml"
    config.write_text(config.read_text().replace("[gateway]", "[gateway]\nmax_calls = 77"))

    second = owner.read("up", "--providers", "1")
    assert {key: second[key] for key in ("base_url", "rpc_url", "api_key")} == {
        key: first[key] for key in ("base_url", "rpc_url", "api_key")
    }
    assert load_settings(owner.home).gateway.max_calls == 77
    again = ask(second)
    assert [call["call_id"] for call in owner.read("calls", "list")] == [again, made["call_id"]]
    offers = {service["name"]: service["offers"] for service in owner.read("services", "list")}
    assert [offer["price_in_nano"] for offer in offers[MODEL]] == [250_000_000]

    os.kill(second["processes"]["node-1"], signal.SIGKILL)
    third = wait_until_started_again(owner, second)
    ask(third)
    os.kill(third["pid"], signal.SIGKILL)
    wait_until_gone([third["pid"], *third["processes"].values()], 20)
    assert find_supervisor(owner.home) is None


def test_up_on_a_taken_port_names_it_and_the_flags(owner: Owner) -> None:
    """One line, before anything is started or written."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        _, error = owner.type("up", "--chain-port", "0", "--link-port", "0", "--port", port, status=2)
    assert error.startswith(f"error: port {port} is in use")
    assert "--chain-port, --port and --link-port" in error
    assert error.count("\n") == 1
    assert not (owner.home / "config.toml").exists()
