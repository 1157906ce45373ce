"""Real chains for tests: the embedded one and anvil, each its own process on a free port.

    from tests.chains import CHAIN_KINDS, open_chain

    @pytest.mark.parametrize("kind", CHAIN_KINDS)
    def test_transfer_by_owner_moves_coin(kind: str) -> None:
        with open_chain(kind) as chain:
            asyncio.run(story(chain.url, chain.keys[0]))

`chain.keys` are funded development keys (gas coin only; YARD comes with a deployment: `deploy_on(chain)` mints it all
to `chain.keys[0]`). `chain.kill()` is kill -9, `chain.restart()` brings the same chain back on the same port: the
embedded one with everything it acknowledged, anvil with what it dumped last. `chain.advance_time(seconds)` lets time
pass and mines a block. Blocks are mined for transactions alone, unless `block_time_s` is given.
STEELYARD_TEST_CHAINS=embedded (or anvil) narrows `CHAIN_KINDS`, for a quick run.

1. Each chain has its own temporary folder, so tests run in parallel.
2. Where anvil is missing its tests are skipped with the reason; with CI=true it is installed (`npm ci` in contracts/).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from steelyard.chain.deploy import deploy
from steelyard.chain.deployment import Deployment
from steelyard.chain.keystore import derive_development_key
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.protocol.signing import SigningKey

CONTRACTS_FOLDER = Path(__file__).parents[1] / "contracts"
CHAIN_KINDS = tuple(os.environ.get("STEELYARD_TEST_CHAINS", "embedded,anvil").split(","))
CHAIN_IDS = {"embedded": 31415, "anvil": 31337}
SEED = b"steelyard tests"
FUND_WEI = 10_000 * 10**18
START_TIMEOUT_S = 30.0


@dataclass
class RunningChain:
    """A chain process: where it answers, whom it funded, and how to hurt it."""

    kind: str
    folder: Path
    keys: tuple[SigningKey, ...]
    block_time_s: float
    options: tuple[str, ...]
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its JSON-RPC address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def chain_id(self) -> int:
        """31415 embedded, 31337 anvil."""
        return CHAIN_IDS[self.kind]

    def call(self, method: str, *params: Any) -> Any:
        """Return one JSON-RPC result, without any of our own code between; raises RuntimeError with the error."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            reply = json.load(response)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["result"]

    def advance_time(self, seconds: int) -> None:
        """Let chain time pass: the next block, mined at once, is so many seconds later."""
        self.call("evm_increaseTime", seconds)
        self.call("evm_mine")

    def kill(self) -> None:
        """End the process as a power cut would: kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        """End the process politely: SIGTERM, then kill -9 after ten seconds."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        self.kill()

    def restart(self) -> None:
        """Start it again on the same port with the same state."""
        self.start()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        assert self.process is None, "it runs already"
        log = self.folder / "chain.log"
        with log.open("ab") as errors:
            self.process = subprocess.Popen(self._command(), stdout=errors, stderr=errors)
        deadline = time.monotonic() + START_TIMEOUT_S
        if self.port == 0:
            self.port = self._read_port(log, deadline)
        while True:
            try:
                assert int(self.call("eth_chainId"), 16) == self.chain_id
                break
            except OSError:
                self._check_alive(log, deadline)
                time.sleep(0.02)
        if self.kind == "anvil":
            for key in self.keys:
                address = "0x" + key.account.hex()
                if int(self.call("eth_getBalance", address, "latest"), 16) == 0:
                    self.call("anvil_setBalance", address, hex(FUND_WEI))

    def _command(self) -> list[str]:
        if self.kind == "anvil":
            state = ["--state", str(self.folder / "anvil.json")]
            if self.block_time_s:
                state += ["--mixed-mining", "--block-time", str(self.block_time_s)]
            common = ["--accounts", "1", "--hardfork", "prague", "--chain-id", str(self.chain_id)]
            return [str(find_anvil()), "--port", str(self.port), *common, *state, *self.options]
        command = [sys.executable, "-m", "steelyard.chain.embedded", "--db", str(self.folder / "chain.sqlite")]
        funds = [part for key in self.keys for part in ("--fund", "0x" + key.account.hex())]
        command += ["--port", str(self.port), "--chain-id", str(self.chain_id), "--dev-time"]
        return [*command, "--heartbeat-s", str(self.block_time_s), *funds, *self.options]

    def _read_port(self, log: Path, deadline: float) -> int:
        while True:
            for line in log.read_text("utf-8", "replace").splitlines():
                if "127.0.0.1:" in line:
                    digits = line.split("127.0.0.1:", 1)[1]
                    return int("".join(c for c in digits[:6] if c.isdigit()))
            self._check_alive(log, deadline)
            time.sleep(0.02)

    def _check_alive(self, log: Path, deadline: float) -> None:
        assert self.process is not None
        if self.process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text("utf-8", "replace")[-2000:]
            self.kill()
            raise RuntimeError(f"the {self.kind} chain did not start: {words}")


@contextmanager
def open_chain(
    kind: str, *, key_count: int = 10, block_time_s: float = 0, options: tuple[str, ...] = ()
) -> Iterator[RunningChain]:
    """Start a chain of a kind and stop it afterwards; its folder goes with it.

    Args:
        kind: one of `CHAIN_KINDS`. key_count: funded development keys, always the same ones.
        block_time_s: an empty block so often; 0 makes none. options: further command-line words for that kind.
    """
    if kind == "anvil":
        require_anvil()
    with tempfile.TemporaryDirectory(prefix="steelyard-chain-") as folder:
        keys = tuple(derive_development_key(SEED, index) for index in range(key_count))
        chain = RunningChain(kind, Path(folder), keys, block_time_s, options)
        try:
            chain.start()
            yield chain
        finally:
            chain.stop()


def deploy_on(chain: RunningChain, parameters: DeploymentParameters | None = None) -> Deployment:
    """Deploy our contracts with `chain.keys[0]`, which holds the whole supply and every role."""

    async def story() -> Deployment:
        async with ChainRpc([chain.url], chain_id=chain.chain_id) as rpc:
            return await deploy(Sender(rpc, chain.keys[0]), parameters or DeploymentParameters())

    return asyncio.run(story())


def find_anvil() -> Path | None:
    """Return anvil's binary: STEELYARD_ANVIL, the PATH, or contracts/node_modules."""
    named = os.environ.get("STEELYARD_ANVIL") or shutil.which("anvil")
    if named:
        return Path(named)
    return next(iter(sorted(CONTRACTS_FOLDER.glob("node_modules/@foundry-rs/anvil-*/bin/anvil"))), None)


def require_anvil() -> None:
    """Skip the test where anvil is missing; with CI=true install it, and fail if that doesn't help."""
    if find_anvil() is not None:
        return
    if os.environ.get("CI") != "true":
        pytest.skip("anvil is missing: run npm ci in contracts/")
    subprocess.run(["npm", "ci"], cwd=CONTRACTS_FOLDER, check=True, timeout=300)
    if find_anvil() is None:
        pytest.fail("npm ci in contracts/ brought no anvil for this machine")
