"""What the chain says of the gateways: what they paid, whether they withdraw, whether they still have stake.

1. Payments and withdrawals come by events; stakes are looked at every few seconds, while a gateway is linked or owes.
2. While the chain is silent the last word stands: what a gateway owes is bounded by its window all the same.

Law: docs/spec/money.md, section 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from steelyard.errors import ChainError
from steelyard.node.chain_view import NodeChain
from steelyard.node.credit import Credit
from steelyard.node.settings import NodeSettings
from steelyard.protocol.messages import Lane

STAKE_LOOK_S = 5.0
_log = structlog.get_logger("steelyard.node")


class CreditWatch:
    """The credit of every gateway account, kept true by the chain.

    Args:
        lanes: all lanes of the node. settings: the windows' size.
    """

    def __init__(self, chain: NodeChain, settings: NodeSettings, lanes: Callable[[], Iterable[Lane]]) -> None:
        self._chain = chain
        self._settings = settings
        self._lanes = lanes
        self._credits: dict[bytes, Credit] = {}
        self._unstaked: set[bytes] = set()

    def credit(self, gateway: bytes) -> Credit:
        """Return a gateway's credit; one that nobody watches has none."""
        credit = self._credits.get(gateway)
        if credit is None:
            credit = self._credits[gateway] = Credit(self._settings, distrust="the chain was not asked about it yet")
        return credit

    async def add_gateway(self, gateway: bytes, *, is_staked: bool) -> None:
        """Watch a gateway's account from now on; raises ChainError."""
        await self._chain.watch_gateway(gateway)
        self.credit(gateway)
        self._note_stake(gateway, is_staked)
        self.read()

    async def add_lanes(self, keys: Iterable[bytes]) -> None:
        """Watch what is paid on some lanes from now on; raises ChainError."""
        await asyncio.gather(*(self._chain.watch_lane(key) for key in keys))
        self.read()

    async def run(self) -> None:
        """Follow the chain until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._look())

    def read(self) -> None:
        """Take over the chain's figures as they were last read."""
        paid: dict[bytes, int] = dict.fromkeys(self._credits, 0)
        for lane in self._lanes():
            totals = self._chain.lane(lane.key)
            if totals is not None and lane.gateway in paid:
                paid[lane.gateway] += totals.paid_nano
        for gateway, credit in self._credits.items():
            credit.paid = paid[gateway]
            credit.distrust = self._distrust(gateway)

    async def look(self) -> None:
        """Look at every gateway's stake, and watch the lanes that could not be watched before; raises ChainError."""
        for gateway in list(self._credits):
            self._note_stake(gateway, await self._chain.is_gateway(gateway))
        await self.add_lanes([lane.key for lane in self._lanes() if self._chain.lane(lane.key) is None])

    def _distrust(self, gateway: bytes) -> str:
        account = self._chain.account(gateway)
        if account is None:
            return "the chain was not asked about it yet"
        if account.is_withdrawing:
            return "the gateway announced a withdrawal"
        return "the gateway is not registered, or has too little stake" if gateway in self._unstaked else ""

    def _note_stake(self, gateway: bytes, is_staked: bool) -> None:
        if is_staked == (gateway in self._unstaked):
            (self._unstaked.discard if is_staked else self._unstaked.add)(gateway)
            _log.info("gateway_stake_changed", gateway=gateway.hex(), is_staked=is_staked)

    async def _follow(self) -> None:
        while True:
            await self._chain.wait_change()
            self.read()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(STAKE_LOOK_S)
            try:
                await self.look()
            except ChainError as error:
                _log.warning("chain_unread", code=error.code, reason=error.message)
