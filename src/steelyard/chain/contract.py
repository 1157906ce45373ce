"""A contract at an address: reads, one at a time or in a batch, and sends.

Law: docs/spec/contracts.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steelyard.chain.abi import DecodedEvent, load_abi
from steelyard.chain.artifacts import ContractName
from steelyard.chain.records import Log, TxReceipt, parse_bytes
from steelyard.chain.rpc import BlockTag, ChainRpc, read_call
from steelyard.chain.sender import Sender

Read = tuple[str, Sequence[Any]]


class Contract:
    """One of our contracts at an address.

    Args:
        rpc: for reads; its life is the caller's. name: which ABI. address: 20 bytes.
    """

    __slots__ = ("abi", "address", "name", "rpc")

    def __init__(self, rpc: ChainRpc, name: ContractName, address: bytes) -> None:
        self.rpc = rpc
        self.name = name
        self.address = address
        self.abi = load_abi(name)

    def __repr__(self) -> str:
        return f"{self.name}(0x{self.address.hex()})"

    def encode(self, function: str, *arguments: Any) -> bytes:
        """Return the call data of a function; raises ValueError for arguments that don't fit."""
        return self.abi.functions[function].encode(*arguments)

    async def read(self, function: str, *arguments: Any, block: BlockTag = "latest") -> tuple[Any, ...]:
        """Return a view's values.

        Raises:
            Reverted: the contract refused. ChainUnreachable, ChainError: the chain is silent, or answered nonsense.
        """
        reply = await self.rpc.eth_call(self.address, self.encode(function, *arguments), block)
        return self.abi.functions[function].decode(reply)

    async def read_many(self, reads: Iterable[Read], block: BlockTag = "latest") -> list[tuple[Any, ...]]:
        """Return many views' values in one request, in the order of (function, arguments); raises as `read` does.

        With a block number all of them are of the same block; "latest" may change between them.
        """
        wanted = list(reads)
        calls = [read_call(self.address, self.encode(name, *arguments), block) for name, arguments in wanted]
        replies = await self.rpc.batch_all(calls)
        return [
            self.abi.functions[name].decode(parse_bytes(reply, f"answer to {name}"))
            for (name, _), reply in zip(wanted, replies, strict=True)
        ]

    async def send(self, sender: Sender, function: str, *arguments: Any) -> TxReceipt:
        """Send a transaction that calls a function and return its receipt; raises as `Sender.send` does."""
        return await sender.send(self.address, self.encode(function, *arguments), what=f"{self.name}.{function}")

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return this contract's events among logs, in their order, decoded by its ABI."""
        return self.abi.decode_events([log for log in logs if log.address == self.address])

    def find_event(self, logs: Sequence[Log], name: str) -> DecodedEvent:
        """Return this contract's first event of a name, among the logs of a transaction that must have one."""
        found = [event for event in self.decode_events(logs) if event.name == name]
        return found[0]
