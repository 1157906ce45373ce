"""Which evidence is demanded of a provider on chain, and still open.

The chain is the memory: whoever is restarted reads the demands of the deployment again, and asks how far each one is.

Law: docs/spec/node.md, section 8; contracts/src/Demands.sol.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.chain.deployment import Deployment
from steelyard.chain.indexer import fetch_events
from steelyard.chain.proofs import Demand, DemandState, ProofsClient
from steelyard.chain.rpc import ChainRpc

OVERLAP_BLOCKS = 64
"""Read again with every look: a demand that a reorganisation moved is found where it is now."""


@dataclass(frozen=True, slots=True)
class OpenDemand:
    """Evidence of a receipt that somebody demands of us, until a Unix second."""

    id: bytes
    receipt_hash: bytes
    demand: Demand


class DemandWatch:
    """Finds the demands that are open against one provider.

    Args:
        rpc: its life is the caller's. deployment: which contracts.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self._rpc = rpc
        self._proofs = ProofsClient(rpc, deployment)
        self._from_block = self._next_block = deployment.block
        self._pending: dict[bytes, bytes] = {}

    async def look(self, provider: bytes) -> list[OpenDemand]:
        """Return what is open, the nearest deadline first; raises ChainError."""
        head = await self._rpc.block_number()
        start = max(self._from_block, self._next_block - OVERLAP_BLOCKS)
        async for logs in fetch_events(self._rpc, [self._proofs.contract.address], start, head):
            for event in self._proofs.decode_events(logs):
                if event.name == "EvidenceDemanded" and event.values["provider"] == provider:
                    self._pending[event.values["id"]] = event.values["receipt"]
        self._next_block = head + 1
        found = [
            OpenDemand(id_, receipt, await self._proofs.fetch_demand(id_)) for id_, receipt in self._pending.items()
        ]
        self._pending = {item.id: item.receipt_hash for item in found if item.demand.state is DemandState.OPEN}
        return sorted((item for item in found if item.id in self._pending), key=lambda item: item.demand.until_s)
