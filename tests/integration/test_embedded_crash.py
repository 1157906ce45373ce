"""kill -9 at any moment loses nothing that was acknowledged, and one database has one process."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.chains import RunningChain, open_chain

from steelyard.chain.transaction import Transaction
from steelyard.protocol.signing import SigningKey

KILLS = 6
LOADERS = 3
RECEIVER = bytes([7]) * 20
PROBE = json.loads((Path(__file__).parents[1] / "vectors" / "embedded_probe.json").read_text())["probe"]
EMIT = (3).to_bytes(32, "big") + bytes(32) + (5).to_bytes(32, "big")


def sign(chain: RunningChain, key: SigningKey, nonce: int, to: bytes | None, data: bytes = b"") -> tuple[str, str]:
    """Return (raw, hash) of a transaction with enough gas and fee, in hex."""
    signed = Transaction(
        chain_id=chain.chain_id,
        nonce=nonce,
        max_priority_fee_wei=1,
        max_fee_wei=10**10,
        gas=300_000,
        to=to,
        data=data,
    ).sign(key)
    return "0x" + signed.raw.hex(), "0x" + signed.hash.hex()


async def post(session: aiohttp.ClientSession, url: str, requests: list[tuple[str, list[Any]]]) -> list[dict[str, Any]]:
    """Return the answers to a batch, in order."""
    body = [{"jsonrpc": "2.0", "id": i, "method": name, "params": params} for i, (name, params) in enumerate(requests)]
    async with session.post(url, json=body) as response:
        answers: list[dict[str, Any]] = await response.json()
    return answers


async def load(
    session: aiohttp.ClientSession, chain: RunningChain, key: SigningKey, to: bytes, acknowledged: set[str]
) -> None:
    """Send batches of transactions until the chain dies; note each hash that it acknowledged.

    Each batch holds a run of nonces and one beyond a gap, which the next batch closes.
    """
    try:
        counted = await post(session, chain.url, [("eth_getTransactionCount", ["0x" + key.account.hex(), "latest"])])
        nonce = int(counted[0]["result"], 16)
        while True:
            signed = [sign(chain, key, number, to, EMIT) for number in (nonce, nonce + 1, nonce + 2, nonce + 4)]
            answers = await post(session, chain.url, [("eth_sendRawTransaction", [raw]) for raw, _ in signed])
            for (_, tx_hash), answer in zip(signed, answers, strict=True):
                if answer.get("result") == tx_hash:
                    acknowledged.add(tx_hash)
                else:
                    words = answer["error"]["message"]
                    assert words == "already known" or words.startswith("nonce too low"), answer
            nonce += 3
    except (aiohttp.ClientError, OSError):
        return  # the chain was killed


def check_database(path: Path) -> None:
    """SQLite finds nothing wrong, and blocks, transactions and logs belong together."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count, highest = db.execute("SELECT count(*), max(number) FROM blocks").fetchone()
        assert count == highest + 1
        orphans = "SELECT count(*) FROM {} t WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.number = t.block)"
        for table in ("transactions", "logs"):
            assert db.execute(orphans.format(table)).fetchone() == (0,)


def check_acknowledged(chain: RunningChain, hashes: set[str]) -> None:
    """Every one of them is in a block, with its log."""
    for tx_hash in hashes:
        receipt = chain.call("eth_getTransactionReceipt", tx_hash)
        assert receipt is not None, f"acknowledged and lost: {tx_hash}"
        assert receipt["status"] == "0x1"
        assert len(receipt["logs"]) == 1


@pytest.mark.timeout(120)
def test_chain_killed_under_load_keeps_every_acknowledged_transaction() -> None:
    """Six kill -9 at random moments of a batched load with nonce gaps: what was acknowledged is mined or waits."""
    moments = random.Random(20_261_122)

    async def load_and_kill(chain: RunningChain, to: bytes) -> set[str]:
        acknowledged: set[str] = set()
        async with aiohttp.ClientSession() as session:
            senders = chain.keys[1 : LOADERS + 1]
            tasks = [asyncio.create_task(load(session, chain, key, to, acknowledged)) for key in senders]
            await asyncio.sleep(moments.uniform(0.1, 0.6))
            chain.kill()
            await asyncio.gather(*tasks)
        return acknowledged

    with open_chain("embedded", block_time_s=0.2) as chain:
        raw, _ = sign(chain, chain.keys[0], 0, None, bytes.fromhex(PROBE["init"][2:]))
        deployed = chain.call("eth_getTransactionReceipt", chain.call("eth_sendRawTransaction", raw))
        probe = bytes.fromhex(deployed["contractAddress"][2:])
        total: set[str] = set()
        head = 0
        for _ in range(KILLS):
            acknowledged = asyncio.run(load_and_kill(chain, probe))
            check_database(chain.folder / "chain.sqlite")
            chain.restart()
            reopened = int(chain.call("eth_blockNumber"), 16)
            assert reopened >= head, "the chain went back"
            head = reopened
            for key in chain.keys[1 : LOADERS + 1]:
                close_gap(chain, key, probe)
            check_acknowledged(chain, acknowledged)
            total |= acknowledged
        check_acknowledged(chain, total)
        assert len(total) > KILLS * LOADERS
        print(f"acknowledged and kept: {len(total)}")


def close_gap(chain: RunningChain, key: SigningKey, to: bytes) -> None:
    """Send the nonces that are missing, so that whatever waits behind them is mined."""
    account = "0x" + key.account.hex()
    for _ in range(10):
        nonce = int(chain.call("eth_getTransactionCount", account, "pending"), 16)
        raw, _ = sign(chain, key, nonce, to, EMIT)
        chain.call("eth_sendRawTransaction", raw)
        if chain.call("eth_getTransactionCount", account, "pending") == hex(nonce + 1):
            return
    raise AssertionError("the gap does not close")


def test_chain_reopened_has_its_own_genesis_time_and_queue() -> None:
    """A restart keeps blocks, balances, added time and queued transactions, and ignores another --fund."""
    with open_chain("embedded") as chain:
        sender = chain.keys[1]
        raw, queued = sign(chain, sender, 1, RECEIVER)
        assert chain.call("eth_sendRawTransaction", raw) == queued
        chain.advance_time(86_400)
        genesis = chain.call("eth_getBlockByNumber", "0x0", False)
        head = chain.call("eth_getBlockByNumber", "latest", False)
        chain.kill()
        chain.options = ("--fund", "0x" + "99" * 20)
        chain.restart()
        assert chain.call("eth_getBlockByNumber", "0x0", False) == genesis
        assert chain.call("eth_getBlockByNumber", "latest", False) == head
        assert chain.call("eth_getBalance", "0x" + "99" * 20, "latest") == "0x0"
        assert chain.call("eth_getTransactionByHash", queued)["blockNumber"] is None
        raw, first = sign(chain, sender, 0, RECEIVER)
        chain.call("eth_sendRawTransaction", raw)
        for tx_hash in (first, queued):
            receipt = chain.call("eth_getTransactionReceipt", tx_hash)
            block = chain.call("eth_getBlockByNumber", receipt["blockNumber"], False)
            assert int(block["timestamp"], 16) >= int(head["timestamp"], 16)


def test_chain_stopped_by_signal_ends_well_and_comes_back() -> None:
    """SIGTERM ends the process with status 0 and leaves a chain that opens again."""
    with open_chain("embedded") as chain:
        raw, tx_hash = sign(chain, chain.keys[1], 0, RECEIVER)
        chain.call("eth_sendRawTransaction", raw)
        assert chain.process is not None
        chain.process.send_signal(signal.SIGTERM)
        assert chain.process.wait(timeout=10) == 0
        chain.process = None
        chain.restart()
        assert chain.call("eth_getTransactionReceipt", tx_hash)["status"] == "0x1"


def run_beside(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a second chain process to its end."""
    command = [sys.executable, "-m", "steelyard.chain.embedded", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_second_process_on_one_database_or_port_is_refused_in_one_line(tmp_path: Path) -> None:
    """The same file, the same port, another chain id and a file that is no chain: one line each, exit status 2."""
    with open_chain("embedded") as chain:
        db = str(chain.folder / "chain.sqlite")
        assert chain.process is not None
        same_file = run_beside("--db", db)
        same_port = run_beside("--db", str(tmp_path / "other.sqlite"), "--port", str(chain.port))
        foreign = tmp_path / "notes.txt"
        foreign.write_text("this is no chain" * 100)
        no_chain = run_beside("--db", str(foreign))
        expected = {
            f"already open in process {chain.process.pid}": same_file,
            f"port {chain.port} on 127.0.0.1 is in use": same_port,
            "can't be opened as a chain: file is not a database": no_chain,
        }
        chain.stop()
        expected["has chain id 31415, not 5"] = run_beside("--db", db, "--chain-id", "5")
        expected["'0x12' is no account"] = run_beside("--db", db, "--fund", "0x12")
        for words, ended in expected.items():
            assert ended.returncode == 2, ended
            assert words in ended.stderr
            assert len(ended.stderr.splitlines()) == 1, ended.stderr
            assert ended.stdout == ""
