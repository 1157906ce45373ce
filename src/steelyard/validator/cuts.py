"""What redemptions of checked work paid to the pot of rewards, by epoch, provider and service: from events alone.

1. A cut is floored per lane and redemption, as the escrow floors it, and counts in the epoch of its block.
2. It counts only while the pot is where the escrow's protocol share goes, and while the provider's standing offer is of
   a grade that is checked.

Law: docs/spec/checking.md, section 8; docs/spec/contracts.md, sections 3 and 9.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from steelyard.chain.abi import DecodedEvent
from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient
from steelyard.chain.indexer import fetch_events
from steelyard.chain.registry import RegistryClient
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import ChainError
from steelyard.protocol.messages import Grade
from steelyard.verification.standing import Pair

UNREWARDED = frozenset({Grade.UNCHECKED, Grade.LOGPROBS})
_WHOLE_BPS = 10_000


class Cuts:
    """Follows escrow and registry.

    Args:
        rpc: its life is the caller's.
    """

    def __init__(self, rpc: ChainRpc, deployment: Deployment) -> None:
        self._rpc = rpc
        self._deployment = deployment
        self._escrow = EscrowClient(rpc, deployment)
        self._registry = RegistryClient(rpc, deployment)
        self._next_block = deployment.block
        self._pot = b""
        self._lanes: dict[bytes, Pair] = {}
        self._grades: dict[Pair, int] = {}
        self._bps: dict[bytes, int] = {}
        self._times: dict[int, int] = {}
        self._cuts: dict[int, dict[Pair, int]] = defaultdict(lambda: defaultdict(int))

    async def refresh(self) -> None:
        """Read what happened since the last time; raises ChainError."""
        head = await self._rpc.block_number()
        addresses = [self._deployment.escrow, self._deployment.registry]
        start = self._next_block
        async for logs in fetch_events(self._rpc, addresses, start, head):
            events = [*self._escrow.decode_events(logs), *self._registry.decode_events(logs)]
            events.sort(key=lambda event: (event.log.block_number, event.log.index))
            redeemed = {event.log.block_number for event in events if event.name == "LaneRedeemed"}
            times = {number: await self._time(number) for number in redeemed}
            for event in events:  # without waiting in between: a chain that falls silent leaves no half of it
                self._take(event, times)
            self._next_block = max((event.log.block_number + 1 for event in events), default=self._next_block)
        self._next_block = max(self._next_block, head + 1)

    def of_epoch(self, epoch: int) -> Mapping[Pair, int]:
        """Return the cuts of an epoch that is over, by (provider, service id), in nano."""
        return self._cuts.get(epoch, {})

    def epochs(self, first: int, last: int) -> list[int]:
        """Return the epochs with any cut from one to another, both included, in order."""
        return sorted(epoch for epoch in self._cuts if first <= epoch <= last)

    def _take(self, event: DecodedEvent, times: Mapping[int, int]) -> None:
        name, values = event.name, event.values
        if name == "ProtocolPotSet":
            self._pot = values["pot"]
        elif name == "ServiceRegistered":
            self._bps[values["serviceId"]] = values["splitBps"][3]
        elif name == "OfferSet":
            self._grades[(values["provider"], values["serviceId"])] = values["grade"]
        elif name == "LaneOpened":
            self._lanes[values["lane"]] = (values["provider"], values["serviceId"])
        elif name == "LaneRedeemed":
            pair = self._lanes[values["lane"]]
            cut = values["paid"] * self._bps.get(pair[1], 0) // _WHOLE_BPS
            grade = self._grades.get(pair, int(Grade.UNCHECKED))
            if cut and self._pot == self._deployment.rewards and grade not in UNREWARDED:
                self._cuts[times[event.log.block_number] // self._deployment.epoch_s][pair] += cut

    async def _time(self, number: int) -> int:
        block = await self._rpc.block(number)
        if block is None:
            raise ChainError(f"the endpoint lost block {number}", code="block_unknown")
        return block.timestamp_s
