"""The same upstream faults through LiteLLM's proxy, set up for failing over as its documentation recommends.

Per fault two models: `with-<fault>` has two deployments, the faulty one first (`order`), and a fallback to a healthy
model group; `alone-<fault>` has the faulty one and nothing else. `num_retries`, `timeout` and `stream_timeout` are set
at the bench's scale. Its environment is bench/gateway's own, in no lock.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "gateway"))

import peers
from cases import FAULTS, UPSTREAM
from client import CHAT_STREAM, CHAT_WHOLE, EMBEDDINGS, View, ask
from provider import HEALTHY, Provider

KINDS = (CHAT_STREAM, CHAT_WHOLE, EMBEDDINGS)
KEY = "sk-bench-faults"
PATIENCE_S = 60.0
SETTINGS = {"num_retries": 2, "timeout": 3, "stream_timeout": 2, "allowed_fails": 3, "cooldown_time": 1}
NAMES = tuple(fault.name for fault in FAULTS if fault.where == UPSTREAM and fault.name != "deadline")


def build_config(provider: Provider) -> dict[str, Any]:
    """Return the proxy's configuration; JSON is YAML."""

    def deployment(model: str, fault: str, order: int) -> dict[str, Any]:
        parameters = {"model": "openai/m", "api_base": provider.url(fault) + "/v1", "api_key": "none", "order": order}
        return {"model_name": model, "litellm_params": parameters}

    models, fallbacks = [deployment(HEALTHY, HEALTHY, 1)], []
    for name in NAMES:
        models += [deployment(f"with-{name}", name, 1), deployment(f"with-{name}", HEALTHY, 2)]
        models.append(deployment(f"alone-{name}", name, 1))
        fallbacks.append({f"with-{name}": [HEALTHY]})
    return {
        "model_list": models,
        "router_settings": {**SETTINGS, "fallbacks": fallbacks},
        "litellm_settings": {"drop_params": True, "telemetry": False},
        "general_settings": {"master_key": KEY},
    }


@contextmanager
def open_litellm(folder: Path, provider: Provider) -> Iterator[str]:
    """Run LiteLLM's proxy, one worker; yields its base URL."""
    port = peers.free_port()
    config = folder / "litellm.yaml"
    config.write_text(json.dumps(build_config(provider)))
    command = [str(peers.LITELLM_VENV / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    with peers.running(command, port, timeout_s=120, environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"}):
        yield f"http://127.0.0.1:{port}"


async def play_litellm(url: str, fault: str, kind: str, *, has_second: bool) -> View:
    """Send one request through LiteLLM, and say what came."""
    model = f"{'with' if has_second else 'alone'}-{fault}"
    return await ask(url, kind, model, KEY, headers={}, timeout_s=PATIENCE_S)


def judge(view: View) -> str:
    """Return `pass` for a whole answer, `safe` for a clear failure, `wrong` for what only looks like an answer."""
    return {"whole": "pass", "error": "safe", "cut": "safe"}.get(view.name, "wrong")
