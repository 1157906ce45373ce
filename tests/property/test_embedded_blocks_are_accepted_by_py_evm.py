"""A law: every block that we build is one that py-evm's own chain accepts, bit for bit.

We bypass py-evm's chain classes for speed; here they import our blocks with full validation: gas, receipts, blooms,
state roots, transaction roots and header fields must all come out the same.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")

import rlp
from eth.chains.base import MiningChain
from eth.db.atomic import AtomicDB
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.blocks import PragueBlock, PragueBlockHeader
from hypothesis import given
from hypothesis import strategies as st

from steelyard.chain.embedded.header import Header
from steelyard.chain.embedded.nodes import NewNodes
from steelyard.chain.embedded.pyevm import PyEvmEngine
from steelyard.chain.embedded.receipts import SealedBlock
from steelyard.chain.embedded.sealing import build_block, build_genesis, next_context
from steelyard.chain.embedded.transactions import Transaction, contract_address, decode_transaction
from steelyard.chain.permit2 import genesis_codes
from steelyard.chain.transaction import Transaction as Unsigned
from steelyard.protocol.signing import SigningKey

CHAIN_ID = 31415
KEYS = [SigningKey(bytes([i]) * 32) for i in range(1, 4)]
PROBE = json.loads((Path(__file__).parents[1] / "vectors" / "embedded_probe.json").read_text())["probe"]
INIT = bytes.fromhex(PROBE["init"][2:])
PROBE_ADDRESS = contract_address(KEYS[0].account, 0)
TIPS = (0, 1, 10**9)


class _ReferenceChain(MiningChain):  # type: ignore[misc]  # py-evm is followed as Any
    chain_id = CHAIN_ID
    vm_configuration = ((0, PragueVM),)


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


calls = st.one_of(
    st.builds(lambda slot, value: _word(1) + _word(slot) + _word(value), st.integers(0, 3), st.integers(0, 2)),
    st.builds(lambda topic, value: _word(3) + _word(topic) + _word(value), st.integers(0, 2**256 - 1), st.just(7)),
    st.builds(lambda reason: _word(4) + reason, st.binary(max_size=40)),
    st.builds(lambda count: _word(7) + _word(count) + _word(5), st.integers(0, 6)),
    st.builds(lambda inner: _word(8) + _word(1) + _word(inner) + _word(inner), st.integers(0, 3)),
    st.builds(lambda reason: _word(8) + _word(4) + reason, st.binary(max_size=10)),
    st.sampled_from([_word(5), _word(6), _word(11), _word(10) + b"\x00" * 12 + KEYS[2].account, _word(13) + _word(9)]),
    st.builds(
        lambda code: _word(9) + code, st.sampled_from([b"", INIT, b"\xfe", bytes.fromhex("6000ff"), b"\x33\xff"])
    ),
    st.binary(max_size=200),
)
steps = st.lists(
    st.tuples(
        st.integers(0, 2),  # who sends
        st.one_of(
            st.tuples(st.sampled_from(["send", "send-new"]), st.integers(0, 10**18)),
            st.tuples(st.just("call"), calls),
            st.tuples(st.just("create"), st.sampled_from([INIT, b"", b"\xfe", bytes.fromhex("60016000f3"), b"\xef"])),
        ),
        st.sampled_from(TIPS),
        st.booleans(),  # a new block before it
    ),
    max_size=12,
)


def _sign(who: int, nonce: int, step: tuple[str, int | bytes], tip: int) -> Transaction:
    kind, detail = step
    to: bytes | None = PROBE_ADDRESS
    value, data = 0, b""
    if kind == "send":
        to, value = KEYS[(who + 1) % 3].account, int(detail)
    elif kind == "send-new":
        to, value = bytes([9]) * 19 + bytes([nonce & 255]), int(detail) % 2
    else:
        data = bytes(detail)  # type: ignore[arg-type]  # calls and creations carry bytes
        to = PROBE_ADDRESS if kind == "call" else None
    unsigned = Unsigned(
        chain_id=CHAIN_ID,
        nonce=nonce,
        max_priority_fee_wei=tip,
        max_fee_wei=3 * 10**9,
        gas=400_000,
        to=to,
        value_wei=value,
        data=data,
    )
    return decode_transaction(unsigned.sign(KEYS[who]).raw, CHAIN_ID)


def _as_reference(block: SealedBlock) -> PragueBlock:
    header = rlp.decode(block.header.encode(), PragueBlockHeader)
    builder = PragueVM.get_transaction_builder()
    bodies = [builder.decode(mined.transaction.raw) for mined in block.transactions]
    return PragueBlock(header, bodies, [], [])


def _start() -> tuple[PyEvmEngine, NewNodes, SealedBlock, _ReferenceChain]:
    engine, nodes = PyEvmEngine(), NewNodes(None)
    balances = {key.account: 10**21 for key in KEYS}
    genesis = build_genesis(engine, nodes, balances, genesis_codes(CHAIN_ID), gas_limit=30_000_000, now_s=1_000)
    database = AtomicDB()
    for key, value in nodes.written.items():
        database[key] = value
    reference = _ReferenceChain.from_genesis_header(database, _as_reference(genesis).header)
    assert reference.get_canonical_head().hash == genesis.header.hash
    return engine, nodes, genesis, reference


@given(steps)
def test_built_block_imported_by_py_evm_unchanged(plan: list[tuple[int, tuple[str, int | bytes], int, bool]]) -> None:
    """Transfers, calls, reverts, creations and self-destructions in blocks of any size: py-evm's chain takes each."""
    engine, nodes, genesis, reference = _start()
    parent: Header = genesis.header
    hashes = {0: parent.hash}
    nonces = [1, 0, 0]
    waiting = [_sign(0, 0, ("create", INIT), 1)]
    for who, step, tip, is_new_block in [*plan, (0, ("send", 0), 0, True)]:
        if is_new_block:
            context = next_context(parent, CHAIN_ID, parent.timestamp_s + 1, hashes.get)
            built = build_block(engine, nodes, parent, context, waiting)
            assert not built.refused
            assert len(built.block.transactions) == len(waiting)
            reference.import_block(_as_reference(built.block), perform_validation=True)
            assert reference.get_canonical_head().hash == built.block.header.hash
            parent, waiting = built.block.header, []
            hashes[parent.number] = parent.hash
        waiting.append(_sign(who, nonces[who], step, tip))
        nonces[who] += 1
