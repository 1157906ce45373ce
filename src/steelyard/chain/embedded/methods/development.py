"""Methods that move the chain's clock: for tests of delays and epochs, behind a flag.

1. Time moves forward only, and what was added survives a restart.
"""

from __future__ import annotations

from typing import Any

from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.jsonrpc import Method
from steelyard.chain.embedded.params import expect, number_or_quantity, optional
from steelyard.errors import BadRequest

MAX_STEP_S = 10 * 365 * 86_400


class DevelopmentMethods:
    """`evm_*`, as the other development chains have them."""

    def __init__(self, chain: EmbeddedChain) -> None:
        self._chain = chain

    def table(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {"evm_increaseTime": self.increase_time, "evm_mine": self.mine}

    async def increase_time(self, params: list[Any]) -> int:
        """Add seconds to the chain's clock from the next block on; return all that was ever added."""
        expect(params, 1, 1)
        seconds = number_or_quantity(params[0], "seconds")
        if seconds > MAX_STEP_S:
            raise BadRequest(f"invalid seconds: {seconds} is more than ten years", param="seconds")
        return await self._chain.increase_time(seconds)

    async def mine(self, params: list[Any]) -> str:
        """Seal a block now; a timestamp moves the clock there first."""
        expect(params, 0, 1)
        timestamp = optional(params, 0)
        if timestamp is not None:
            wanted = number_or_quantity(timestamp, "timestamp")
            now = max(self._chain.now_s, self._chain.head.timestamp_s)
            if not now <= wanted <= now + MAX_STEP_S:
                raise BadRequest(f"invalid timestamp: {wanted} lies before the chain's time, {now}", param="timestamp")
            await self._chain.increase_time(wanted - self._chain.now_s)
        await self._chain.mine()
        return "0x0"
