"""Ledger: roots of what was recorded per epoch, seen from Python.

Law: contracts/src/Ledger.sol; docs/spec/money.md, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.contract import Contract
from steelyard.chain.deployment import Deployment
from steelyard.chain.records import Log, TxReceipt
from steelyard.chain.rpc import BlockTag, ChainRpc
from steelyard.chain.sender import Sender
from steelyard.protocol.hashing import ZERO32


@dataclass(frozen=True, slots=True)
class PostedRoot:
    """A root that a publisher posted: `cid` is the sha256 digest of the leaves' blob, `posted_at_s` Unix seconds."""

    root: bytes
    cid: bytes
    count: int
    posted_at_s: int


class LedgerClient:
    """Reads and sends of the ledger.

    Args:
        rpc: its life is the caller's. deployment: which ledger.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self.contract = Contract(rpc, "Ledger", deployment.ledger)
        self.epoch_s = deployment.epoch_s

    def epoch_at(self, time_s: int) -> int:
        """Return the epoch of a Unix time in seconds, as the contract reckons it."""
        return time_s // self.epoch_s

    async def fetch_root(
        self, publisher: bytes, kind: bytes, epoch: int, block: BlockTag = "latest"
    ) -> PostedRoot | None:
        """Return what a publisher posted for a kind (32 bytes) and epoch, or None."""
        root, cid, count, posted_at_s = (await self.contract.read("rootOf", publisher, kind, epoch, block=block))[0]
        return None if root == ZERO32 else PostedRoot(root, cid, count, posted_at_s)

    async def fetch_included(
        self, publisher: bytes, kind: bytes, epoch: int, item: bytes, proof: Sequence[bytes]
    ) -> bool:
        """Return whether an item (32 bytes, not its leaf) is under the posted root, by its Merkle proof."""
        return bool((await self.contract.read("included", publisher, kind, epoch, item, list(proof)))[0])

    async def post(self, sender: Sender, kind: bytes, epoch: int, root: bytes, cid: bytes, count: int) -> TxReceipt:
        """Post a root under the sender's name, once per kind and epoch."""
        return await self.contract.send(sender, "post", kind, epoch, root, cid, count)

    def decode_events(self, logs: Sequence[Log]) -> list[DecodedEvent]:
        """Return the ledger's events among logs: Posted(publisher, kind, epoch, root, cid, count)."""
        return self.contract.decode_events(logs)
