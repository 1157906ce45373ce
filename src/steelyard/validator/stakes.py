"""What validators have at stake at a time, as far as it counts: nothing below the role's minimum.

1. The stakes at an epoch's start never change once it has begun: they are read once, and kept for the last epochs.

Law: docs/spec/checking.md, section 2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from steelyard.chain.registry import RegistryClient, Role

EPOCHS_KEPT = 256


class ValidatorStakes:
    """Reads validators' stakes.

    Args:
        validators: everyone who ever staked as one. epoch_s: of the deployment.
    """

    def __init__(
        self, registry: RegistryClient, validators: Callable[[], Awaitable[list[bytes]]], epoch_s: int
    ) -> None:
        self.validators = validators
        self._registry = registry
        self._epoch_s = epoch_s
        self._least = 0
        self._known: dict[int, Mapping[bytes, int]] = {}

    async def fetch_weight(self, account: bytes, time_s: int) -> int:
        """Return a stake at the end of a past Unix second in nano, 0 below the minimum; raises ChainError."""
        if not self._least:
            self._least = max(1, await self._registry.fetch_min_stake(Role.VALIDATOR))  # it never changes
        stake = await self._registry.fetch_stake_at(account, Role.VALIDATOR, time_s)
        return stake if stake >= self._least else 0

    async def at_start(self, epoch: int) -> Mapping[bytes, int]:
        """Return the stakes that count in an epoch that has begun, by account; raises ChainError."""
        known = self._known.get(epoch)
        if known is None:
            time_s = epoch * self._epoch_s - 1
            found = {account: await self.fetch_weight(account, time_s) for account in await self.validators()}
            known = self._known[epoch] = {account: stake for account, stake in found.items() if stake}
            for old in sorted(self._known)[:-EPOCHS_KEPT]:
                del self._known[old]
        return known
