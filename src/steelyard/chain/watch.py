"""Gateways' accounts and lanes in the escrow, as they change.

1. Events only say that something must be read again; the figures are always the chain's own, of its newest block.
2. While the chain is silent the last known figures stand; `read_at_s` says how old they are.
3. A rollback reads everything again.

Law: docs/spec/money.md, section 4: credit ends once a withdrawal is announced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from steelyard.chain.deployment import Deployment
from steelyard.chain.escrow import EscrowClient, GatewayAccount, LaneTotals
from steelyard.chain.indexer import Cursor, FollowPolicy, Rollback, follow
from steelyard.chain.records import Log
from steelyard.chain.rpc import ChainRpc
from steelyard.errors import ChainError, ChainUnreachable


class EscrowWatch:
    """Keeps the figures of those gateways and lanes that somebody asked for; `run` is the caller's task.

    Args:
        rpc: its life is the caller's. deployment: which escrow. poll_s: between looks at the chain.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        rpc: ChainRpc,
        deployment: Deployment,
        *,
        poll_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.read_at_s: float | None = None
        self._rpc = rpc
        self._escrow = EscrowClient(rpc, deployment)
        self._policy = FollowPolicy(poll_s=poll_s)
        self._clock = clock
        self._accounts: dict[bytes, GatewayAccount] = {}
        self._lanes: dict[bytes, LaneTotals] = {}
        self._changed = asyncio.Event()

    def account(self, gateway: bytes) -> GatewayAccount | None:
        """Return a watched gateway's account as last read, or None."""
        return self._accounts.get(gateway)

    def lane(self, lane_key: bytes) -> LaneTotals | None:
        """Return a watched lane's totals as last read, or None."""
        return self._lanes.get(lane_key)

    async def add_gateway(self, gateway: bytes) -> GatewayAccount:
        """Watch a gateway's account from now on, and return it as it is now; raises ChainError."""
        self._accounts[gateway] = await self._escrow.fetch_account(gateway)
        return self._accounts[gateway]

    async def add_lane(self, lane_key: bytes) -> LaneTotals:
        """Watch a lane from now on, and return its totals as they are now; raises ChainError."""
        self._lanes[lane_key] = await self._escrow.fetch_lane(lane_key)
        return self._lanes[lane_key]

    def drop_gateway(self, gateway: bytes) -> None:
        """Watch a gateway no more."""
        self._accounts.pop(gateway, None)

    def drop_lane(self, lane_key: bytes) -> None:
        """Watch a lane no more."""
        self._lanes.pop(lane_key, None)

    async def refresh(self) -> None:
        """Read everything that is watched again, now; raises ChainError."""
        await self._read(self._lanes)

    async def wait_change(self) -> None:
        """Return after the next change of any watched figure."""
        await self._changed.wait()

    async def run(self) -> None:
        """Follow the escrow and keep the figures fresh, until cancelled; a silent chain is waited for.

        Raises:
            ChainError: the chain answers nonsense.
        """
        head = await self._begin()
        async for step in follow(
            self._rpc, [self._escrow.contract.address], head.number + 1, cursors=[head], policy=self._policy
        ):
            if isinstance(step, Rollback):
                await self._read_until_heard(self._lanes)
            elif step.logs:
                await self._read_until_heard(self._touched_lanes(step.logs))
            else:
                self.read_at_s = self._clock()

    async def _begin(self) -> Cursor:
        while True:
            try:
                head = await self._rpc.block("latest")
            except ChainUnreachable:
                await asyncio.sleep(self._policy.poll_s)
                continue
            if head is None:
                raise ChainError("the chain has no newest block", code="rpc_malformed")
            await self._read_until_heard(self._lanes)
            return Cursor(head.number, head.hash)

    def _touched_lanes(self, logs: Sequence[Log]) -> list[bytes]:
        keys = {event.values.get("lane") for event in self._escrow.decode_events(logs)}
        return [key for key in self._lanes if key in keys]

    async def _read_until_heard(self, lane_keys: Iterable[bytes]) -> None:
        wanted = list(lane_keys)
        while True:
            try:
                return await self._read(wanted)
            except ChainUnreachable:
                await asyncio.sleep(self._policy.poll_s)

    async def _read(self, lane_keys: Iterable[bytes]) -> None:
        gateways, keys = list(self._accounts), list(lane_keys)
        started_s = self._clock()
        accounts = await self._escrow.fetch_accounts(gateways)
        lanes = await self._escrow.fetch_lanes(keys)
        is_changed = False
        for gateway, account in zip(gateways, accounts, strict=True):
            if gateway in self._accounts and self._accounts[gateway] != account:
                self._accounts[gateway] = account
                is_changed = True
        for key, lane in zip(keys, lanes, strict=True):
            if key in self._lanes and self._lanes[key] != lane:
                self._lanes[key] = lane
                is_changed = True
        self.read_at_s = started_s
        if is_changed:
            self._changed.set()
            self._changed = asyncio.Event()
