"""Permit2 as it comes with the package is the one that stands on every public chain."""

from __future__ import annotations

from steelyard.chain.embedded.engine import BlockContext, Call
from steelyard.chain.embedded.nodes import NewNodes
from steelyard.chain.embedded.pyevm import PyEvmEngine
from steelyard.chain.permit2 import (
    CREATE2_FACTORY,
    PERMIT2,
    UPTO_PROXY,
    genesis_codes,
    load_permit2,
    permit2_separator,
)
from steelyard.protocol.hashing import keccak

SENDER = b"\x01" * 20


def test_permit2_creation_code_gives_the_canonical_address() -> None:
    """Factory, salt and the hash of our bytes make the address that wallets know: so the bytes are Uniswap's."""
    build = load_permit2()
    assert keccak(b"\xff" + CREATE2_FACTORY + build.salt + keccak(build.creation))[12:] == PERMIT2


def test_genesis_permit2_is_what_its_constructor_would_leave_there() -> None:
    """Apart from the separator, which names the address, the code is what running the creation gives."""
    engine, nodes = PyEvmEngine(), NewNodes(None)
    root = engine.build_genesis(nodes, {SENDER: 10**18}, genesis_codes(31415))
    context = BlockContext(
        chain_id=31415,
        number=1,
        timestamp_s=1_000,
        base_fee_wei=0,
        gas_limit=30_000_000,
        coinbase=b"\x00" * 20,
        mix_hash=b"\x00" * 32,
        ancestor_hash=lambda number: None,
    )

    def run(to: bytes, data: bytes) -> bytes:
        call = Call(sender=SENDER, to=to, gas=16_000_000, data=data)
        return engine.call(nodes, root, context, call, timeout_s=20).output

    build, placed = load_permit2(), engine.code(nodes, root, PERMIT2)
    made = bytearray(run(b"", build.creation))
    made[build.separator_offset : build.separator_offset + 32] = permit2_separator(31415)
    assert placed == bytes(made)
    assert run(PERMIT2, keccak(b"DOMAIN_SEPARATOR()")[:4]) == permit2_separator(31415)
    assert run(UPTO_PROXY, keccak(b"PERMIT2()")[:4])[12:] == PERMIT2
