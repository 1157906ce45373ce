"""How far a deployment has come, in a file, so that a killed one goes on where it stopped.

A journal counts only for the same chain (its first block's hash), deployer and parameters. Losing a step costs the gas
of one orphaned contract, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steelyard.chain.deployment import write_atomically
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.sender import Sender
from steelyard.errors import ChainError, ConfigError
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import format_hex


class Journal:
    """The steps that are done; each is on disk before the next begins.

    Attributes:
        salt: the deployment id. block: the chain's height when it began. addresses: what stands already.
    """

    def __init__(self, path: Path | None, key: str, salt: bytes, block: int, addresses: dict[str, bytes]) -> None:
        self._path = path
        self._key = key
        self.salt = salt
        self.block = block
        self.addresses = addresses

    @classmethod
    async def open(
        cls,
        path: Path | None,
        sender: Sender,
        parameters: DeploymentParameters,
        entropy: Callable[[int], bytes],
    ) -> Journal:
        """Return the journal in a file, or begin one.

        Raises:
            ConfigError: the file is damaged, or of another deployer or other parameters on this same chain.
        """
        first = await sender.rpc.block(0)
        head = await sender.rpc.block("latest")
        if first is None or head is None:
            raise ChainError("the chain has no blocks yet", code="rpc_error")
        chain = first.hash.hex()
        key = keccak(repr((chain, sender.account, parameters)).encode()).hex()
        known = None if path is None else _load(path)
        if known is not None and known["chain"] == chain:
            if known["key"] != key:
                raise ConfigError(f"{path} began with another deployer or other parameters: delete it to begin anew")
            addresses = {name: bytes.fromhex(address[2:]) for name, address in known["addresses"].items()}
            return cls(path, f"{chain} {key}", bytes.fromhex(known["salt"][2:]), known["block"], addresses)
        salt = parameters.salt if parameters.salt != ZERO32 else entropy(32)
        journal = cls(path, f"{chain} {key}", salt, head.number, {})
        journal._save()
        return journal

    def record(self, name: str, address: bytes) -> None:
        """Remember that a contract stands."""
        self.addresses[name] = address
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        chain, key = self._key.split()
        content = {
            "chain": chain,
            "key": key,
            "salt": format_hex(self.salt),
            "block": self.block,
            "addresses": {name: format_hex(address) for name, address in self.addresses.items()},
        }
        write_atomically(self._path, json.dumps(content, indent=1).encode())


def _load(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
        if {"chain", "key", "salt", "block", "addresses"} != content.keys():
            raise ValueError("fields")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError):
        raise ConfigError(f"{path} is no deployment journal: delete it to begin anew") from None
    loaded: dict[str, Any] = content
    return loaded
