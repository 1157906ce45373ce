"""Permit2, and x402's proxy in front of it: what a development chain carries from its first block on.

1. Permit2's creation code is Uniswap's, byte for byte: with the salt it gives the address that Permit2 has everywhere.
2. At the proxy's address stands our own contract (contracts/src/UptoProxy.sol): the same functions and signed types as
   x402's, whose bytecode no package carries. Public chains have x402's own.

Law: docs/spec/x402.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from steelyard.chain.artifacts import load_artifact
from steelyard.protocol.hashing import address_word, keccak, word

CREATE2_FACTORY = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")
PERMIT2 = bytes.fromhex("000000000022d473030f116ddee9f6b43ac78ba3")
UPTO_PROXY = bytes.fromhex("4020a4f3b7b90cca423b9fabcc0ce57c6c240002")

_DOMAIN_TYPE_HASH = keccak(b"EIP712Domain(string name,uint256 chainId,address verifyingContract)")


@dataclass(frozen=True, slots=True)
class Permit2Build:
    """Permit2 as it is deployed.

    Attributes:
        creation: what a factory is given behind `salt`; the code that then runs is its end.
        separator_offset, chain_id_offset: where in that code the two immutables stand.
    """

    salt: bytes
    creation: bytes
    separator_offset: int
    chain_id_offset: int


@cache
def load_permit2() -> Permit2Build:
    """Return Permit2's build, from a file of this package."""
    raw: dict[str, Any] = msgspec.json.decode(resources.files(__package__).joinpath("permit2.json").read_bytes())
    return Permit2Build(
        bytes.fromhex(raw["salt"][2:]),
        bytes.fromhex(raw["creation"][2:]),
        raw["separatorOffset"],
        raw["chainIdOffset"],
    )


def permit2_separator(chain_id: int) -> bytes:
    """Return the EIP-712 domain separator that Permit2 checks signatures under."""
    return keccak(_DOMAIN_TYPE_HASH + keccak(b"Permit2") + word(chain_id) + address_word(PERMIT2))


def genesis_codes(chain_id: int) -> dict[bytes, bytes]:
    """Return the contracts that a new development chain begins with: code by address."""
    build = load_permit2()
    code = bytearray(build.creation[_RUNTIME_OFFSET:])
    code[build.separator_offset : build.separator_offset + 32] = permit2_separator(chain_id)
    code[build.chain_id_offset : build.chain_id_offset + 32] = word(chain_id)
    return {PERMIT2: bytes(code), UPTO_PROXY: load_artifact("UptoProxy").deployed_bytecode}


_RUNTIME_OFFSET = 193  # where the constructor ends
