"""What a validator chooses: how often it looks, what it buys, and how long it waits.

Law: docs/spec/validator.md, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorSettings:
    """A validator's own terms; times in seconds.

    Args:
        poll_s: between looks at a gateway's feed. beat_s: between looks at the chain, for epochs and cases.
        probes_per_hour: how many calls it buys as an ordinary client; zero buys none. probe_key: its API key there.
        secrets_ahead: for how many coming epochs a secret is committed.
        is_challenging: open cases on chain when the evidence suffices. is_demanding: demand evidence that is not
            served. checks_at_once: replays side by side.
        is_proving: prove lies of providers on chain as they are found; they are kept in any case.
        keep_days: how long the calls behind verdicts are kept, for challenges; the verdicts stay.
        seen_keep_days: how long batches and receipts of the feeds are kept, to hold later ones against them.
    """

    poll_s: float = 2.0
    beat_s: float = 5.0
    probes_per_hour: float = 0.0
    secrets_ahead: int = 3
    is_challenging: bool = True
    is_demanding: bool = True
    is_proving: bool = True
    checks_at_once: int = 1
    keep_days: int = 30
    seen_keep_days: int = 7

    def __post_init__(self) -> None:
        if self.poll_s <= 0 or self.beat_s <= 0:
            raise ConfigError("validator.poll_s and validator.beat_s must be above zero")
        if self.probes_per_hour < 0:
            raise ConfigError(f"validator.probes_per_hour is {self.probes_per_hour}: it is zero or more")
        if not 1 <= self.secrets_ahead <= 64:
            raise ConfigError(f"validator.secrets_ahead is {self.secrets_ahead}: it lies between 1 and 64")
        if self.checks_at_once < 1:
            raise ConfigError(f"validator.checks_at_once is {self.checks_at_once}: it is at least 1")
        if self.keep_days < 1 or self.seen_keep_days < 1:
            raise ConfigError(
                f"validator.keep_days is {self.keep_days}, seen_keep_days {self.seen_keep_days}: each is at least 1"
            )
