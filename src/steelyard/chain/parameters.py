"""What a deployment is made with: delays, least stakes, the length of an epoch, who holds which role.

1. All of it is fixed at deployment; another value is another deployment.
2. Unbonding must outlast the withdrawal delay, or a gateway could leave with its stake while it can still be owed; and
   all that a case may take, or a provider could leave before its judges have met.

Law: docs/spec/money.md, section 5; docs/spec/contracts.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from steelyard.chain.reward_terms import RewardTerms
from steelyard.chain.terms import CourtTerms
from steelyard.errors import ConfigError
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.pricing import NANO_PER_YARD

ZERO_ADDRESS = b"\x00" * 20
_MAX_UINT48 = 2**48 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentParameters:
    """The constants of a deployment; the defaults are a development chain's.

    Args:
        withdraw_delay_s, unbond_delay_s: seconds. epoch_s: seconds of an epoch.
        min_stakes_nano: of a provider, a gateway and a validator.
        court, rewards: the terms of the court and of the pot of rewards.
        initial_supply_nano: minted to `treasury` once.
        treasury, admin: 20 bytes; None is the deployer. `admin` may grant and change roles, and mint.
        salt: 32 bytes, the deployment id; zero draws one.
    """

    withdraw_delay_s: int = 600
    unbond_delay_s: int = 3600
    epoch_s: int = 60
    min_stakes_nano: tuple[int, int, int] = (100 * NANO_PER_YARD, 100 * NANO_PER_YARD, 100 * NANO_PER_YARD)
    court: CourtTerms = field(default_factory=CourtTerms)
    rewards: RewardTerms = field(default_factory=RewardTerms)
    initial_supply_nano: int = 1_000_000_000 * NANO_PER_YARD
    treasury: bytes | None = None
    admin: bytes | None = None
    salt: bytes = field(default=ZERO32)

    def __post_init__(self) -> None:
        for name in ("withdraw_delay_s", "unbond_delay_s", "epoch_s"):
            value = getattr(self, name)
            if not 0 < value <= _MAX_UINT48:
                raise ConfigError(f"{name} is {value}: it must be at least one second", param=name)
        if self.unbond_delay_s <= self.withdraw_delay_s:
            raise ConfigError(
                f"unbond_delay_s is {self.unbond_delay_s}: it must be longer than withdraw_delay_s, "
                f"{self.withdraw_delay_s}, or a gateway's stake could leave before its vouchers are paid",
                param="unbond_delay_s",
            )
        needed_s = self.court.needed_s(self.epoch_s)
        if self.unbond_delay_s <= needed_s:
            raise ConfigError(
                f"unbond_delay_s is {self.unbond_delay_s}: it must be longer than the {needed_s} s that an epoch, "
                "evidence, a panel and an appeal take by the court's terms, or stake could leave before its case ends",
                param="unbond_delay_s",
            )
        if self.unbond_delay_s <= self.rewards.challenge_s:
            raise ConfigError(
                f"unbond_delay_s is {self.unbond_delay_s}: it must be longer than rewards.challenge_s, "
                f"{self.rewards.challenge_s}, or a proposer's stake could leave before its root is challenged",
                param="unbond_delay_s",
            )
        if any(stake < 0 or stake >= 2**128 for stake in self.min_stakes_nano) or len(self.min_stakes_nano) != 3:
            raise ConfigError("min_stakes_nano is three amounts in nano, none below zero", param="min_stakes_nano")
        if not 0 <= self.initial_supply_nano < 2**128:
            raise ConfigError("initial_supply_nano must be between 0 and 2^128", param="initial_supply_nano")
        for name in ("treasury", "admin"):
            account = getattr(self, name)
            if account is not None and (len(account) != 20 or account == ZERO_ADDRESS):
                raise ConfigError(f"{name} is no account: 20 bytes are needed, not all zero", param=name)
        if len(self.salt) != 32:
            raise ConfigError("salt must be 32 bytes", param="salt")
