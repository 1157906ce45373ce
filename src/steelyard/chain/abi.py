"""How calls, events and errors of our contracts are encoded, by the ABIs in ``artifacts/``.

1. Types and selectors are worked out once per contract; encoding a call looks nothing up.
2. Addresses are 20 bytes on both sides, never strings.
3. What a node sends back is not trusted: bytes that don't decode are a ChainError.

Law: the Solidity contract ABI specification.  Encoding: eth-abi.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from eth_abi.codec import ABICodec
from eth_abi.decoding import AddressDecoder
from eth_abi.encoding import AddressEncoder
from eth_abi.exceptions import DecodingError
from eth_abi.registry import BaseEquals, registry

from steelyard.chain.artifacts import ContractName, load_artifact
from steelyard.chain.records import Log
from steelyard.errors import ChainError
from steelyard.protocol.hashing import keccak

CONTRACTS: tuple[ContractName, ...] = get_args(ContractName)


class _BytesAddress(AddressDecoder):  # type: ignore[misc]  # eth-abi is untyped; its registry wants a subclass
    decoder_fn = staticmethod(bytes)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named ABI type, tuples written out: ``(address,uint64)[]``."""

    name: str
    type: str
    is_indexed: bool = False

    @property
    def is_dynamic(self) -> bool:
        """Whether an indexed one leaves only its hash in a topic."""
        return self.type in ("string", "bytes") or self.type.endswith("]") or self.type.startswith("(")


@dataclass(frozen=True, slots=True)
class Function:
    """A contract's function; `selector` is its first four bytes."""

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def encode(self, *arguments: Any) -> bytes:
        """Return the call data; raises ValueError for arguments that don't fit the types."""
        try:
            encoded: bytes = _codec().encode(self.inputs, arguments)
        except Exception as error:  # eth-abi raises its own unrelated trees for types, counts and ranges
            raise ValueError(f"{self.name}: {error}") from error
        return self.selector + encoded

    def decode(self, reply: bytes) -> tuple[Any, ...]:
        """Return the values of a call's answer; raises ChainError, e.g. where no contract stands at the address."""
        if not reply and self.outputs:
            raise ChainError(f"{self.name} answered nothing: is there a contract at this address?", code="no_contract")
        return _decode(self.outputs, reply, self.name)


@dataclass(frozen=True, slots=True)
class Event:
    """A contract's event as its ABI declares it."""

    name: str
    topic: bytes
    parameters: tuple[Parameter, ...]

    def decode(self, log: Log) -> dict[str, Any]:
        """Return the event's values by name; raises ChainError. Indexed strings and arrays come as their hash."""
        indexed = [p for p in self.parameters if p.is_indexed]
        plain = [p for p in self.parameters if not p.is_indexed]
        if len(log.topics) != 1 + len(indexed):
            raise ChainError(f"{self.name} has {len(log.topics)} topics, not {1 + len(indexed)}", code="rpc_malformed")
        values: dict[str, Any] = {}
        for parameter, topic in zip(indexed, log.topics[1:], strict=True):
            values[parameter.name] = topic if parameter.is_dynamic else _decode((parameter.type,), topic, self.name)[0]
        decoded = _decode(tuple(p.type for p in plain), log.data, self.name)
        values.update(zip([p.name for p in plain], decoded, strict=True))
        return values


@dataclass(frozen=True, slots=True)
class CustomError:
    """A contract's custom error, e.g. ``ERC20InsufficientBalance(address,uint256,uint256)``."""

    name: str
    selector: bytes
    parameters: tuple[Parameter, ...]

    def decode(self, data: bytes) -> dict[str, Any]:
        """Return its values by name from revert data that begins with the selector; raises ChainError."""
        values = _decode(tuple(p.type for p in self.parameters), data[4:], self.name)
        names = [p.name or f"argument{i}" for i, p in enumerate(self.parameters)]
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True, slots=True)
class DecodedEvent:
    """An event and where it stands; `values` by the names of the ABI."""

    name: str
    values: Mapping[str, Any]
    log: Log


@dataclass(frozen=True, slots=True)
class Abi:
    """One contract's functions by name (overloads also by signature), events by topic, errors by selector."""

    functions: Mapping[str, Function]
    events: Mapping[bytes, Event]
    errors: Mapping[bytes, CustomError]

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return the logs that this ABI knows, decoded; those of other contracts are passed over."""
        decoded = []
        for log in logs:
            event = self.events.get(log.topics[0]) if log.topics else None
            if event is not None:
                decoded.append(DecodedEvent(event.name, event.decode(log), log))
        return decoded


@cache
def load_abi(contract: ContractName) -> Abi:
    """Return the ABI of one of `CONTRACTS`, from the package's artifacts."""
    functions: dict[str, Function] = {}
    events: dict[bytes, Event] = {}
    errors: dict[bytes, CustomError] = {}
    for entry in load_artifact(contract).abi:
        kind, name = entry["type"], entry.get("name", "")
        parameters = tuple(_parameter(item) for item in entry.get("inputs", ()))
        signature = f"{name}({','.join(p.type for p in parameters)})"
        digest = keccak(signature.encode())
        if kind == "function":
            outputs = tuple(_parameter(item).type for item in entry["outputs"])
            function = Function(name, digest[:4], tuple(p.type for p in parameters), outputs)
            functions.setdefault(name, function)
            functions[signature] = function
        elif kind == "event":
            events[digest] = Event(name, digest, parameters)
        elif kind == "error":
            errors[digest[:4]] = CustomError(name, digest[:4], parameters)
    return Abi(functions, events, errors)


@cache
def load_errors() -> Mapping[bytes, CustomError]:
    """Return every custom error of every contract by its selector."""
    return {selector: error for contract in CONTRACTS for selector, error in load_abi(contract).errors.items()}


def build_creation(contract: ContractName, *arguments: Any) -> bytes:
    """Return the data that creates a contract: its bytecode and its constructor's arguments."""
    artifact = load_artifact(contract)
    constructor = [entry for entry in artifact.abi if entry["type"] == "constructor"]
    types = [_parameter(item).type for entry in constructor for item in entry["inputs"]]
    encoded: bytes = _codec().encode(types, arguments)
    return artifact.bytecode + encoded


def _parameter(item: Mapping[str, Any]) -> Parameter:
    kind: str = item["type"]
    if kind.startswith("tuple"):
        kind = f"({','.join(_parameter(part).type for part in item['components'])}){kind[5:]}"
    return Parameter(item["name"], kind, bool(item.get("indexed", False)))


@cache
def _codec() -> Any:
    ours = registry.copy()
    ours.unregister("address")
    ours.register(BaseEquals("address"), AddressEncoder, _BytesAddress, label="address")
    return ABICodec(ours)


def decode_values(types: Sequence[str], data: bytes, what: str) -> tuple[Any, ...]:
    """Return ABI values, addresses as 20 bytes; raises ChainError naming `what`."""
    return _decode(tuple(types), data, what)


def _decode(types: tuple[str, ...], data: bytes, what: str) -> tuple[Any, ...]:
    try:
        values: tuple[Any, ...] = _codec().decode(types, data)
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise ChainError(f"{what} answered bytes that don't decode: {error}", code="rpc_malformed") from error
    return values
