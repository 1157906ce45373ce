"""The peers that we are measured beside: nginx as a plain reverse proxy, and LiteLLM in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
LITELLM_VENV = HERE / ".litellm"

NGINX = """
daemon off; pid {folder}/nginx-{port}.pid; error_log {folder}/error.log warn; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location / {{ proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

LITELLM = """
model_list:
  - model_name: echo
    litellm_params: {{model: openai/echo, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, drop_params: true}}
"""


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: list[str], port: int, *, timeout_s: float, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Run a server until the block ends, from the moment its port answers."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | (environment or {})
    )
    try:
        wait_for_port(port, process, timeout_s)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait until a loopback port accepts; raises RuntimeError when its process ends or time runs out."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not open port {port} in {timeout_s} s")


@contextlib.contextmanager
def upstream(folder: Path, body: bytes, kind: str) -> Iterator[int]:
    """Run an HTTP server that answers these bytes, ``bare`` or ``uvicorn``; yields its port."""
    answer = folder / "answer.json"
    answer.write_bytes(body)
    port = free_port()
    with running([sys.executable, str(HERE / "upstream.py"), str(port), str(answer), kind], port, timeout_s=10):
        yield port


@contextlib.contextmanager
def nginx(folder: Path, upstream_port: int) -> Iterator[str]:
    """Run nginx with one worker before the upstream; yields its base URL."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if program is None:
        raise RuntimeError("nginx is missing: install it (Debian: apt-get install nginx)")
    port = free_port()
    config = folder / f"nginx-{port}.conf"
    config.write_text(NGINX.format(folder=folder, upstream=upstream_port, port=port))
    with running([program, "-c", str(config), "-p", str(folder)], port, timeout_s=10):
        yield f"http://127.0.0.1:{port}"


def nginx_version() -> str:
    """Return nginx's own version line."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    return subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr.strip()


def install_litellm() -> str:
    """Install LiteLLM's proxy into an environment of its own, once; returns its version."""
    python = LITELLM_VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(LITELLM_VENV)], check=True)
    show = [str(python), "-c", "from importlib.metadata import version; print(version('litellm'))"]
    found = subprocess.run(show, capture_output=True, text=True)
    if found.returncode:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "litellm[proxy]"], check=True)
        found = subprocess.run(show, capture_output=True, text=True, check=True)
    return found.stdout.strip()


@contextlib.contextmanager
def litellm(folder: Path, upstream_port: int, key: str) -> Iterator[str]:
    """Run LiteLLM's proxy with one worker before the upstream; yields its base URL."""
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(LITELLM.format(upstream=upstream_port, key=key))
    command = [str(LITELLM_VENV / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    with running(command, port, timeout_s=90, environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"}):
        _warm_up(f"http://127.0.0.1:{port}", key)
        yield f"http://127.0.0.1:{port}"


def _warm_up(url: str, key: str) -> None:
    body = b'{"model":"echo","messages":[{"role":"user","content":"warm"}]}'
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
