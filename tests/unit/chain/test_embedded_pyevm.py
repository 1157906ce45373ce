"""The engine behind its port: calls, gas, time limits, recursion, precompiles, and state that stays as it was."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.chain.embedded.engine import Account, BlockContext, Call
from steelyard.chain.embedded.estimating import estimate_gas
from steelyard.chain.embedded.nodes import NewNodes
from steelyard.chain.embedded.pyevm import PyEvmEngine
from steelyard.chain.embedded.transactions import Transaction, contract_address, decode_transaction
from steelyard.chain.transaction import Transaction as Unsigned
from steelyard.errors import Refusal, Reverted
from steelyard.protocol.hashing import keccak
from steelyard.protocol.signing import SigningKey

PROBE = json.loads((Path(__file__).parents[2] / "vectors" / "embedded_probe.json").read_text())["probe"]
KEY = SigningKey(b"\x01" * 32)
RICH = 10**24
CONTEXT = BlockContext(
    chain_id=31415,
    number=9,
    timestamp_s=1_000,
    base_fee_wei=7,
    gas_limit=30_000_000,
    coinbase=b"\x0c" * 20,
    mix_hash=b"\x0d" * 32,
    ancestor_hash={8: b"\x08" * 32, 7: b"\x07" * 32}.get,
)


def word(value: int) -> bytes:
    """Return a 32-byte word."""
    return value.to_bytes(32, "big")


def signed(nonce: int, to: bytes | None, data: bytes = b"", *, fee: int = 10**9, gas: int = 1_000_000) -> Transaction:
    """Return a transaction of the rich account."""
    unsigned = Unsigned(chain_id=31415, nonce=nonce, max_priority_fee_wei=1, max_fee_wei=fee, gas=gas, to=to, data=data)
    return decode_transaction(unsigned.sign(KEY).raw, 31415)


class World:
    """A state with one rich account and a probe."""

    def __init__(self) -> None:
        self.engine, self.nodes = PyEvmEngine(), NewNodes(None)
        self.genesis = self.engine.build_genesis(self.nodes, {KEY.account: RICH, b"\x05" * 20: 1})
        block = self.engine.open_block(self.nodes, self.genesis, CONTEXT)
        assert block.apply(signed(0, None, bytes.fromhex(PROBE["init"][2:]))).status == 1
        self.root = block.seal()
        self.probe = contract_address(KEY.account, 0)

    def call(self, data: bytes, *, gas: int = 30_000_000, timeout_s: float = 20.0, **fields: int) -> tuple[bytes, str]:
        """Return (output, error) of a call to the probe."""
        call = Call(sender=KEY.account, to=self.probe, gas=gas, data=data, **fields)
        outcome = self.engine.call(self.nodes, self.root, CONTEXT, call, timeout_s=timeout_s)
        return outcome.output, outcome.error

    def precompile(self, number: int, data: bytes) -> bytes:
        """Return what a precompiled contract gives."""
        call = Call(sender=KEY.account, to=word(number)[12:], gas=1_000_000, data=data)
        return self.engine.call(self.nodes, self.root, CONTEXT, call, timeout_s=20.0).output


@pytest.fixture(scope="module")
def world() -> World:
    """One world for all tests: none of them changes its root."""
    return World()


def test_genesis_holds_what_it_was_given(world: World) -> None:
    """Balances, and nothing for anybody else."""
    assert world.engine.account(world.nodes, world.genesis, KEY.account) == Account(0, RICH)
    assert world.engine.account(world.nodes, world.genesis, b"\x06" * 20) == Account(0, 0)
    assert world.engine.code(world.nodes, world.genesis, world.probe) == b""
    assert world.engine.code(world.nodes, world.root, world.probe).hex() == PROBE["runtime"][2:]


def test_call_sees_its_block(world: World) -> None:
    """Time, number, ancestor, fee, randomness, beneficiary and chain id are those of the context; a call is free."""
    output, error = world.call(word(6))
    seen = [int.from_bytes(output[i : i + 32], "big") for i in range(0, 256, 32)]
    assert error == ""
    assert seen[:3] == [1_000, 9, int.from_bytes(b"\x08" * 32, "big")]
    assert seen[3:] == [0, int.from_bytes(b"\x0d" * 32, "big"), int.from_bytes(b"\x0c" * 20, "big"), 31_415, 0]
    output, _ = world.call(word(6), max_fee_per_gas=100, max_priority_fee_per_gas=5)
    assert int.from_bytes(output[96:128], "big") == 7
    assert int.from_bytes(output[224:256], "big") == 12


def test_call_changes_nothing(world: World) -> None:
    """A call that writes leaves the state as it was, nonce and storage alike."""
    assert world.call(word(1) + word(3) + word(4)) == (b"", "")
    assert world.engine.storage(world.nodes, world.root, world.probe, 3) == 0
    assert world.engine.account(world.nodes, world.root, KEY.account).nonce == 1


def test_call_errors_are_in_geths_words(world: World) -> None:
    """Each way to fail has the name that geth gives it."""
    assert world.call(word(4) + b"why") == (b"why", "execution reverted")
    assert world.call(word(11)) == (b"", "invalid opcode")
    assert world.call(word(5), gas=50_000) == (b"", "out of gas")
    assert world.call(word(4), value=1)[1] == "execution reverted"


def test_call_that_cannot_start_is_refused(world: World) -> None:
    """Too little gas, a fee below the base fee, and value that isn't there."""
    with pytest.raises(Refusal, match="intrinsic gas too low: have 20000, want 21"):
        world.call(word(6), gas=20_000)
    with pytest.raises(Refusal, match="max fee per gas less than block base fee"):
        world.call(word(6), max_fee_per_gas=6)
    with pytest.raises(Refusal, match=r"insufficient funds for gas \* price \+ value"):
        world.call(word(6), value=RICH + 1)


def test_call_that_loops_is_stopped_by_the_clock(world: World) -> None:
    """30 million gas of a tight loop would last long; the time limit ends it."""
    started = time.monotonic()
    with pytest.raises(Refusal, match=r"execution aborted \(timeout = 0.2s\)"):
        world.call(word(5), timeout_s=0.2)
    assert time.monotonic() - started < 2


def test_call_nested_to_the_limit_comes_back(world: World) -> None:
    """A contract that calls itself until nothing is left ends in good order: neither stack nor process breaks."""
    output, error = world.call(word(12))
    assert (len(output), error) == (32, "")


def test_transient_storage_lives_for_one_transaction(world: World) -> None:
    """What TSTORE leaves is gone in the next transaction of the same block."""
    block = world.engine.open_block(world.nodes, world.root, CONTEXT)
    for nonce in (1, 2):
        assert block.apply(signed(nonce, world.probe, word(14))).status == 1  # slot 5 = 1 + TLOAD(0); TSTORE(0, 9)
    assert world.engine.storage(world.nodes, block.seal(), world.probe, 5) == 1


def test_apply_unfit_transaction_is_refused_and_leaves_no_trace(world: World) -> None:
    """A wrong nonce, a low fee and an empty account are refused; the block goes on as if they never came."""
    block = world.engine.open_block(world.nodes, world.root, CONTEXT)
    refused = [
        (signed(0, world.probe), "nonce too low: next nonce 1, tx nonce 0"),
        (signed(2, world.probe), "nonce too high: next nonce 1, tx nonce 2"),
        (signed(1, world.probe, fee=6), "max fee per gas less than block base fee"),
        (signed(1, world.probe, fee=RICH), "insufficient funds"),
    ]
    for tx, words in refused:
        with pytest.raises(Refusal, match=words):
            block.apply(tx)
    assert block.seal() == world.root


def test_apply_transaction_that_breaks_the_engine_is_taken_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If py-evm itself fails half way, what the transaction did is undone and the next one runs on a clean state."""
    from steelyard.chain.embedded.pyevm_state import PlainExecutor

    block = world.engine.open_block(world.nodes, world.root, CONTEXT)
    with monkeypatch.context() as patch:
        patch.setattr(PlainExecutor, "finalize_computation", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            block.apply(signed(1, world.probe, word(1) + word(1) + word(1)))
    other = world.engine.open_block(world.nodes, world.root, CONTEXT)
    for opened in (block, other):
        assert opened.apply(signed(1, world.probe, word(1) + word(2) + word(2))).status == 1
    assert block.seal() == other.seal()


def test_gas_of_data_heavy_transaction_is_the_floor(world: World) -> None:
    """EIP-7623: calldata that runs little code costs ten gas a token."""
    block = world.engine.open_block(world.nodes, world.root, CONTEXT)
    execution = block.apply(signed(1, b"\x09" * 20, b"\x01" * 1_000))
    assert execution.gas_used == 21_000 + 10 * 4 * 1_000


def test_precompiles_answer(world: World) -> None:
    """The precompiled contracts that our contracts and their libraries use give known answers."""
    digest = keccak(b"message")
    signature = KEY.sign(digest)
    recovered = world.precompile(1, digest + word(signature[64]) + signature[:64])
    assert recovered == b"\x00" * 12 + KEY.account
    assert world.precompile(2, b"").hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert world.precompile(4, b"same") == b"same"
    assert world.precompile(5, word(1) + word(1) + word(1) + b"\x03\x05\x07") == bytes([3**5 % 7])
    assert world.precompile(6, word(1) + word(2) + word(0) + word(0)) == word(1) + word(2)
    assert world.precompile(8, b"") == word(1)


def test_estimate_search_closes_in_where_the_need_depends_on_the_gift() -> None:
    """A call that needs more at hand than it spends gets a limit within 1.5 percent above its need."""
    from steelyard.chain.embedded.engine import CallOutcome

    runs = []

    def run(gas: int) -> CallOutcome:
        runs.append(gas)
        return CallOutcome(output=b"", gas_spent=min(gas, 100_000), error="" if gas >= 163_000 else "out of gas")

    estimate = estimate_gas(run, cap=30_000_000, floor=21_000)
    assert 163_000 <= estimate <= 163_000 * 1.016
    assert len(runs) < 15


def test_estimate_refuses_in_geths_words(world: World) -> None:
    """A revert keeps its data, running out says the allowance, another failure its name."""
    engine, nodes = world.engine, world.nodes

    def estimate(data: bytes, cap: int) -> int:
        call = Call(sender=KEY.account, to=world.probe, gas=0, data=data)
        return estimate_gas(
            lambda gas: engine.call(nodes, world.root, CONTEXT, replace(call, gas=gas), timeout_s=20),
            cap=cap,
            floor=22_000,
        )

    with pytest.raises(Reverted, match="execution reverted") as reverted:
        estimate(word(4) + b"\x01\x02\x03\x04", 100_000)
    assert reverted.value.data == b"\x01\x02\x03\x04"
    with pytest.raises(Refusal, match=r"gas required exceeds allowance \(60000\)"):
        estimate(word(5), 60_000)
    with pytest.raises(Refusal, match=r"gas required exceeds allowance \(21999\)"):
        estimate(word(6), 21_999)
    with pytest.raises(Refusal, match="invalid opcode"):
        estimate(word(11), 60_000)
