"""What a person gets who has nothing running, a wrong file, or a port in use: one line, and the way on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chains import open_chain

from steelyard.chain.keystore import load_keystore_info


def type_words(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Type a command in a home, without a terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEELYARD_")}
    return subprocess.run(
        [sys.executable, "-m", "steelyard", "--home", str(home), *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment | variables,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Give a port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_wallet_is_made_with_a_passphrase_and_shown_without_a_chain(tmp_path: Path) -> None:
    """A keystore is encrypted under the variable's passphrase, private, and never overwritten."""
    made = type_words(tmp_path, "wallet", "new", "me", "--json", STEELYARD_PASSPHRASE="canary")
    assert made.returncode == 0
    assert "canary" not in made.stdout + made.stderr
    path = tmp_path / "keys" / "me.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(made.stdout)["account"] == "0x" + load_keystore_info(path).account.hex()
    shown = type_words(tmp_path, "wallet", "show")
    assert (shown.returncode, "balances are unknown: there is no deployment" in shown.stdout) == (0, True)
    again = type_words(tmp_path, "wallet", "new", "me", STEELYARD_PASSPHRASE="canary")
    assert (again.returncode, "a key is never overwritten" in again.stderr) == (2, True)


def test_wallet_without_terminal_or_passphrase_is_refused(tmp_path: Path) -> None:
    """A script that forgot the passphrase is told both variables; nothing is made."""
    done = type_words(tmp_path, "wallet", "new", "me")
    assert done.returncode == 2
    assert "set STEELYARD_PASSPHRASE or STEELYARD_PASSPHRASE_FILE" in done.stderr
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("stake", "provider", "10"), 2, "there is no deployment at"),
        (("audit",), 2, "start a network with steelyard up"),
        (("chat", "hello"), 2, "start one with steelyard up"),
        (("node", "run"), 2, "there is no deployment at"),
        (("redeem", "--wallet", "me"), 2, "no node of me ran here"),
        (("models", "pull", "gpt-9"), 1, "no known model is called 'gpt-9'"),
        (("keys", "revoke", "nobody"), 1, "there is no key 'nobody'"),
        (("keys", "create", "a", "--expires", "soon"), 1, "'soon' is no duration"),
        (("calls", "show", "call_" + "0" * 32), 1, "this gateway made no call"),
        (("unstake", "provider"), 1, "say either how much to take out or --finish"),
        (("deposit", "0"), 1, "amount is 0: give an amount above zero"),
        (("services", "register", "a", "echo", "--manifest", "/none", "--split", "1,2,3"), 1, "'1,2,3' is no split"),
        (("backup", "b.tar.gz"), 2, "there is no database at"),
        (("restore", "/none.tar.gz"), 2, "/none.tar.gz is not a whole backup"),
        (("wallet", "show", "../../etc/passwd"), 2, "is no wallet's name"),
    ],
)
def test_command_that_cannot_work_says_why_in_one_line(
    tmp_path: Path, words: tuple[str, ...], status: int, message: str
) -> None:
    """What is missing or wrong is one line on standard error with the value and what to do."""
    done = type_words(tmp_path, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_chain_on_a_taken_port_stops_with_one_line(tmp_path: Path, taken_port: int) -> None:
    """A port in use is named."""
    done = type_words(tmp_path, "chain", "run", "--port", str(taken_port))
    assert (done.returncode, done.stdout) == (2, "")
    assert str(taken_port) in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_doctor_names_a_taken_port_and_ends_with_one(tmp_path: Path, taken_port: int) -> None:
    """A problem has its advice, and a script sees the status."""
    done = type_words(tmp_path, "doctor", "--json", STEELYARD_GATEWAY__PORT=str(taken_port))
    said = json.loads(done.stdout)
    assert (done.returncode, said["problems"]) == (1, 1)
    (problem,) = (check for check in said["checks"] if check["state"] == "problem")
    assert problem["name"] == "gateway port"
    assert "gateway.port" in problem["advice"]


def test_doctor_tells_wrong_settings_as_a_problem(tmp_path: Path) -> None:
    """A wrong key doesn't keep the doctor from looking at the rest."""
    (tmp_path / "config.toml").write_text("[node]\nwalet = 'x'\n")
    done = type_words(tmp_path, "doctor")
    assert done.returncode == 1
    assert "did you mean node.wallet?" in done.stdout


def test_chain_run_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """The embedded chain says that it is ready, funds the wallets of its home, and ends in order."""
    assert type_words(tmp_path, "wallet", "new", "me", "--dev").returncode == 0
    account = "0x" + load_keystore_info(tmp_path / "keys" / "me.json").account.hex()
    command = [sys.executable, "-m", "steelyard", "--home", str(tmp_path), "chain", "run", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["ready"], ready["chain_id"], ready["pid"]) == (True, 31415, process.pid)
        (tmp_path / "deployment.json").write_text("{}")
        shown = type_words(tmp_path, "wallet", "show", "--json", STEELYARD_CHAIN__RPC_URLS=ready["rpc"])
        assert json.loads(shown.stdout)["wallets"][0]["account"] == account
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log


def test_deployment_of_a_wiped_chain_is_told_as_such(tmp_path: Path) -> None:
    """A deployment file that outlived its chain is one line, not a puzzle."""
    zeros = dict.fromkeys(
        ("manager", "yard", "registry", "escrow", "ledger", "court", "proofs", "rewards"), "0x" + "11" * 20
    )
    numbers = {"chain_id": 31415, "block": 0, "epoch_s": 60, "withdraw_delay_s": 1, "unbond_delay_s": 2}
    content = {"format": 3, "development": True, "salt": "0x" + "22" * 32, **zeros, **numbers}
    (tmp_path / "deployment.json").write_text(json.dumps(content))
    with open_chain("embedded", key_count=1) as chain:
        done = type_words(tmp_path, "audit", STEELYARD_CHAIN__RPC_URLS=chain.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is there a contract at this address?" in done.stderr
