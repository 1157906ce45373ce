"""anvil, from npm, in a process of its own: the same port over JSON-RPC."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.contracts.evm import CHAIN_ID, GAS_LIMIT, GENESIS_TIME, CallReverted, RawLog, RawReceipt

CONTRACTS = Path(__file__).parents[2] / "contracts"
START_TIMEOUT_S = 20.0


def find_anvil() -> str | None:
    """Return anvil's path: STEELYARD_ANVIL, the one that npm put into contracts/node_modules, or PATH's; else None."""
    told = os.environ.get("STEELYARD_ANVIL")
    if told:
        return told
    shipped = sorted(CONTRACTS.glob("node_modules/@foundry-rs/anvil-*/bin/anvil"))
    return str(shipped[0]) if shipped else shutil.which("anvil")


class Anvil:
    """An `Evm` on anvil, under Prague's rules, with a clock that moves by blocks alone."""

    kind = "anvil"

    def __init__(self, binary: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--port", str(port), "--chain-id", str(CHAIN_ID), "--hardfork", "prague", "--auto-impersonate"]
        options += ["--timestamp", str(GENESIS_TIME), "--gas-limit", str(GAS_LIMIT), "--base-fee", "0", "--silent"]
        self._process = subprocess.Popen([binary, *options, "--accounts", "1"])
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._wait_until_up()
        self._ask("anvil_setBlockTimestampInterval", 1)

    def send(self, sender: bytes, to: bytes | None, data: bytes) -> RawReceipt:
        """Run a transaction in a block of its own; `to` None creates a contract."""
        fields = {"from": _hex(sender), "data": _hex(data), "gas": hex(GAS_LIMIT), "gasPrice": "0x0"}
        if to is not None:
            fields["to"] = _hex(to)
        receipt = self._ask("eth_sendTransactionSync", fields)
        if receipt["status"] != "0x1":
            trace = self._ask("debug_traceTransaction", receipt["transactionHash"], {"tracer": "callTracer"})
            raise CallReverted(_bytes(trace.get("output", "0x")))
        logs = tuple(
            RawLog(_bytes(log["address"]), tuple(map(_bytes, log["topics"])), _bytes(log["data"]))
            for log in receipt["logs"]
        )
        created = None if to is not None else _bytes(receipt["contractAddress"])
        return RawReceipt(int(receipt["gasUsed"], 16), logs, created)

    def call(self, sender: bytes, to: bytes, data: bytes) -> bytes:
        """Return what a call would return now, changing nothing."""
        at = {"time": hex(self.now())}  # anvil would use the machine's clock
        return _bytes(
            self._ask("eth_call", {"from": _hex(sender), "to": _hex(to), "data": _hex(data)}, "latest", {}, at)
        )

    def now(self) -> int:
        """Return the last block's Unix time in seconds."""
        return int(self._ask("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def advance(self, seconds: int) -> None:
        """Add an empty block that many seconds after the last."""
        self._ask("evm_setNextBlockTimestamp", self.now() + seconds)
        self._ask("evm_mine")

    def snapshot(self) -> list[str]:
        """Return a mark of the present state and clock."""
        return [self._ask("evm_snapshot")]

    def revert(self, mark: list[str]) -> None:
        """Go back to a mark; it stays good: anvil forgets it, so it is made again."""
        if not self._ask("evm_revert", mark[0]):
            raise RuntimeError(f"anvil lost snapshot {mark[0]}")
        mark[0] = self._ask("evm_snapshot")
        self._ask("anvil_setChainId", CHAIN_ID)

    def set_code(self, address: bytes, code: bytes) -> None:
        """Put runtime code at an address, for tests that need a hostile contract."""
        self._ask("anvil_setCode", _hex(address), _hex(code))

    def set_chain_id(self, chain_id: int) -> None:
        """Go on under another chain id, as after a fork; `revert` ends it."""
        self._ask("anvil_setChainId", chain_id)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.wait(timeout=10)

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connection.connect()
                return
            except ConnectionRefusedError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def _ask(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
        reply = json.loads(self._connection.getresponse().read())
        if "error" in reply:
            data = reply["error"].get("data")
            if isinstance(data, str) and data.startswith("0x"):
                raise CallReverted(_bytes(data))
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]


def _hex(value: bytes) -> str:
    return f"0x{value.hex()}"


def _bytes(value: str) -> bytes:
    return bytes.fromhex(value.removeprefix("0x"))
