"""A court for lies that is a dictionary: what desks send there, and how it fails as it is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from steelyard.errors import ChainUnreachable, Reverted
from steelyard.protocol.lies import Lie


@dataclass(eq=False)
class MemoryCourt:
    """A `chain.fault_desk.LieCourt`: `known` are proven lies, `sent` what was sent, `refuses` how it is refused."""

    known: set[bytes] = field(default_factory=set)
    sent: list[Lie] = field(default_factory=list)
    is_silent: bool = False
    refuses: str = ""

    async def is_proven(self, lie_id: bytes) -> bool:
        """Say whether it was proven."""
        if self.is_silent:
            raise ChainUnreachable("the test silenced the chain")
        return lie_id in self.known

    async def prove(self, lie: Lie) -> None:
        """Take a proof, as the contract would."""
        self.sent.append(lie)
        if self.refuses:
            raise Reverted("the test refuses it", reason=self.refuses)
        if lie.id in self.known:
            raise Reverted("the test knows it", reason=f"AlreadyProven(id=0x{lie.id.hex()})")
        self.known.add(lie.id)
