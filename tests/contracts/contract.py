"""A deployed contract under test: calls by name, events and custom errors decoded by its ABI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from eth_abi import decode, encode
from tests.contracts.evm import CallReverted, Evm, RawLog, RawReceipt

from steelyard.chain.artifacts import Artifact
from steelyard.protocol.hashing import keccak

PANIC, ERROR = bytes.fromhex("4e487b71"), bytes.fromhex("08c379a0")


@dataclass(frozen=True, slots=True)
class Event:
    """One decoded event."""

    name: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a successful transaction left."""

    gas_used: int
    events: tuple[Event, ...]

    def only(self, name: str) -> dict[str, Any]:
        """Return the arguments of the one event of that name."""
        found = [event.args for event in self.events if event.name == name]
        assert len(found) == 1, f"{len(found)} events {name}, not one"
        return found[0]

    def all(self, name: str) -> list[dict[str, Any]]:
        """Return the arguments of every event of that name, in order."""
        return [event.args for event in self.events if event.name == name]


class Interface:
    """Every function, event and error that an ABI names; knows nothing of addresses."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.functions: dict[str, tuple[bytes, list[str], list[str]]] = {}
        self.events: dict[bytes, dict[str, Any]] = {}
        self.errors: dict[bytes, tuple[str, list[str]]] = {}
        self.constructor: list[str] = []
        for entry in artifact.abi:
            inputs = [canonical(part) for part in entry.get("inputs", ())]
            signature = f"{entry.get('name')}({','.join(inputs)})".encode()
            if entry["type"] == "function":
                outputs = [canonical(part) for part in entry["outputs"]]
                value = (keccak(signature)[:4], inputs, outputs)
                self.functions[signature.decode()] = value
                self.functions.setdefault(entry["name"], value)
            elif entry["type"] == "event":
                self.events[keccak(signature)] = entry
            elif entry["type"] == "error":
                self.errors[keccak(signature)[:4]] = (entry["name"], inputs)
            elif entry["type"] == "constructor":
                self.constructor = inputs

    def selector(self, name: str) -> bytes:
        """Return the 4 bytes that name a function."""
        return self.functions[name][0]


class Contract:
    """One contract on one EVM; `contract.send("deposit", gateway, 5, sender=alice)`."""

    def __init__(self, evm: Evm, interface: Interface, address: bytes, peers: list[Contract]) -> None:
        self.evm, self.interface, self.address = evm, interface, address
        self._peers = peers  # those whose events and errors may come out of our calls

    def send(self, name: str, *args: Any, sender: bytes) -> Receipt:
        """Run a transaction; raises CallReverted."""
        raw = self.evm.send(sender, self.address, self.encode(name, *args))
        return self.receipt(raw)

    def call(self, name: str, *args: Any, sender: bytes = b"\x11" * 20) -> Any:
        """Return a function's result: a value, or a tuple where there are several."""
        output = self.evm.call(sender, self.address, self.encode(name, *args))
        values = _value(decode(self.interface.functions[name][2], output))
        return values[0] if len(values) == 1 else values

    def encode(self, name: str, *args: Any) -> bytes:
        """Return a call's bytes."""
        selector, inputs, _ = self.interface.functions[name]
        return selector + encode(inputs, args)

    def receipt(self, raw: RawReceipt) -> Receipt:
        """Decode a transaction's events, ours and our peers'; a stranger's is called Unknown."""
        by_address = {peer.address: peer.interface for peer in self._peers}
        return Receipt(raw.gas_used, tuple(_event(by_address.get(log.address), log) for log in raw.logs))

    def reason(self, data: bytes) -> str:
        """Return revert bytes as `StillOwing(5)`; byte strings in hex."""
        for peer in (self, *self._peers):
            if data[:4] in peer.interface.errors:
                name, kinds = peer.interface.errors[data[:4]]
                return f"{name}({','.join(map(_show, decode(kinds, data[4:])))})"
        if data[:4] == PANIC:
            return f"Panic({int.from_bytes(data[4:], 'big'):#x})"
        if data[:4] == ERROR:
            return f"Error({decode(['string'], data[4:])[0]})"
        return f"0x{data.hex()}"

    @contextmanager
    def refuses(self, reason: str) -> Iterator[None]:
        """Expect the block to be refused for exactly this reason (or, without parentheses, this error)."""
        with pytest.raises(CallReverted) as caught:
            yield
        actual = self.reason(caught.value.data)
        assert actual == reason or actual.split("(")[0] == reason, f"refused by {actual}, not {reason}"


def canonical(part: dict[str, Any]) -> str:
    """Return an ABI parameter's type as signatures write it, tuples spelled out."""
    kind: str = part["type"]
    if kind.startswith("tuple"):
        return f"({','.join(map(canonical, part['components']))}){kind[5:]}"
    return kind


def _event(interface: Interface | None, log: RawLog) -> Event:
    if interface is None:
        return Event("Unknown", {"address": log.address, "data": log.data})
    entry = interface.events[log.topics[0]]
    args: dict[str, Any] = {}
    plain = [part for part in entry["inputs"] if not part["indexed"]]
    topics = iter(log.topics[1:])
    for part in entry["inputs"]:
        if part["indexed"]:
            args[part["name"]] = _value(decode([canonical(part)], next(topics))[0])
    for part, value in zip(plain, decode([canonical(part) for part in plain], log.data), strict=True):
        args[part["name"]] = _value(value)
    return Event(entry["name"], args)


def _value(value: Any) -> Any:
    """Turn eth-abi's hex addresses into 20 bytes, however deep."""
    if isinstance(value, tuple):
        return tuple(map(_value, value))
    return bytes.fromhex(value[2:]) if isinstance(value, str) and len(value) == 42 and value[:2] == "0x" else value


def _show(value: Any) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
