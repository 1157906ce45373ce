"""Where a deployment stands: one small JSON file that every process of a network is given.

1. Addresses, chain id and deployment id: no secret is in it.
2. What is loaded is checked field by field; `deploy.verify_deployment` then asks the chain itself.

Law: docs/spec/contracts.md, "Deployment".
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.errors import ConfigError
from steelyard.protocol.ids import format_hex
from steelyard.protocol.signing import Domain

FORMAT = 3
_CONTRACTS = ("manager", "yard", "registry", "escrow", "ledger", "court", "proofs", "rewards")
_SIZES = {"salt": 32, **dict.fromkeys(_CONTRACTS, 20)}
_INTEGERS = ("chain_id", "block", "epoch_s", "withdraw_delay_s", "unbond_delay_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One set of contracts on one chain.

    Attributes:
        salt: the deployment id, 32 bytes, in every signature's domain.
        block: the first block that can hold an event of it.
        is_development: made for a development chain; development keys are accepted.
    """

    chain_id: int
    salt: bytes
    manager: bytes
    yard: bytes
    registry: bytes
    escrow: bytes
    ledger: bytes
    court: bytes
    proofs: bytes
    rewards: bytes
    block: int
    epoch_s: int
    withdraw_delay_s: int
    unbond_delay_s: int
    is_development: bool = False

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of its messages."""
        return Domain(self.chain_id, self.salt)

    @property
    def contracts(self) -> tuple[bytes, ...]:
        """The addresses whose events tell the whole story: yard, registry, escrow, ledger, court, proofs, rewards."""
        return (self.yard, self.registry, self.escrow, self.ledger, self.court, self.proofs, self.rewards)

    def to_json(self) -> str:
        """Return it as the JSON text of a deployment file."""
        content: dict[str, Any] = {"format": FORMAT}
        content |= {name: getattr(self, name) for name in _INTEGERS}
        content |= {name: format_hex(getattr(self, name)) for name in _SIZES}
        content["development"] = self.is_development
        return json.dumps(content, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write the file, atomically; raises ConfigError if it can't be written."""
        write_atomically(path, self.to_json().encode())

    @classmethod
    def parse(cls, text: str, source: str = "the deployment") -> Deployment:
        """Return the deployment in a JSON text; raises ConfigError naming `source` and the field."""
        try:
            content = json.loads(text)
        except ValueError:
            raise ConfigError(f"{source} is no JSON") from None
        if isinstance(content, dict) and content.get("format") in range(1, FORMAT):
            raise ConfigError(
                f"{source} was made by an earlier version, whose contracts were others, and can't be used by this "
                "one: take out what it holds with the version that made it, and begin a new network in another home"
            )
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ConfigError(f"{source} is no deployment file of format {FORMAT}")
        expected = {"format", "development", *_SIZES, *_INTEGERS}
        if content.keys() != expected:
            odd = ", ".join(sorted(content.keys() ^ expected))
            raise ConfigError(f"{source} lacks or has too much: {odd}")
        if not isinstance(content["development"], bool):
            raise ConfigError(f"{source}: development must be true or false")
        fields: dict[str, Any] = {"is_development": content["development"]}
        for name in _INTEGERS:
            value = content[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{source}: {name} must be a whole number, not {value!r}")
            fields[name] = value
        for name, size in _SIZES.items():
            fields[name] = _bytes(content[name], size, f"{source}: {name}")
        return cls(**fields)

    @classmethod
    def load(cls, path: Path) -> Deployment:
        """Return the deployment in a file; raises ConfigError."""
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise ConfigError(f"there is no deployment at {path}: start a network with steelyard up") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"can't read the deployment {path}: {error}") from None
        return cls.parse(text, str(path))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by `content`, whole or not at all; raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from error


def _bytes(value: object, size: int, what: str) -> bytes:
    if isinstance(value, str) and value.startswith("0x") and len(value) == 2 + 2 * size:
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise ConfigError(f"{what} must be 0x and {2 * size} hex digits, not {str(value)[:80]!r}")
