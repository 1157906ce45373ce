"""The contracts as they are deployed: ABI and bytecode, built from contracts/ and committed: users need no Node.js.

1. An artefact is only ever written by contracts/build.mjs; tests/contracts/test_artifacts.py rebuilds and compares.
2. Loading one reads a file of this package and nothing else.

Law: docs/spec/contracts.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import msgspec

ContractName = Literal[
    "AccessManager", "Yard", "Registry", "Escrow", "Ledger", "Court", "Proofs", "Rewards", "UptoProxy"
]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One built contract.

    Attributes:
        name: the contract's name, as in ``contracts/src``.
        abi: its interface, in Solidity's JSON form.
        bytecode: what is deployed, before the constructor's encoded arguments.
        deployed_bytecode: what then runs; immutables are zero in it.
        compiler: the solc version that built it.
        metadata: solc's metadata JSON: settings, and the hash of every source.
    """

    name: ContractName
    abi: list[dict[str, Any]]
    bytecode: bytes
    deployed_bytecode: bytes
    compiler: str
    metadata: str


def load_artifact(name: ContractName) -> Artifact:
    """Return one contract's artefact from this package.

    Raises:
        FileNotFoundError: there is no contract of that name.
    """
    raw = msgspec.json.decode(resources.files(__package__).joinpath(f"{name}.json").read_bytes())
    return Artifact(
        name=name,
        abi=raw["abi"],
        bytecode=bytes.fromhex(raw["bytecode"].removeprefix("0x")),
        deployed_bytecode=bytes.fromhex(raw["deployedBytecode"].removeprefix("0x")),
        compiler=raw["compiler"],
        metadata=raw["metadata"],
    )
