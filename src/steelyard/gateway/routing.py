"""Who gets the next call: price, recent speed, failures and load, with a breaker and a little exploration.

1. `choose` is pure: it sees candidates as numbers, and takes its luck as an argument.
2. A provider's share is (cheapest price / its price)^2 x (fastest / its time per unit) x its health x a quarter and
   three quarters of the network's quality. Nobody who is well falls below `EXPLORE_SHARE` of the best one's share, so
   that yesterday's slow provider is measured again; but for who disagreed with two others (`trust`).
3. Of two drawn by share, the less busy one takes the call: shares may be a little old, load never is.
4. A conversation goes back to where its prefix is warm (weighted rendezvous), unless that provider is much busier. Its
   weights follow the shares only once those changed by `WARM_DRIFT`: a cache is worth more than a little speed.
5. Three failures in a row, or half of the recent calls, open the breaker; after a pause one single call tries again.
   `busy` and `credit_window` are no failures: they rest a provider for a moment.

Source: research/relay.md section 3 (OpenRouter's shares, LiteLLM's cooldowns). Law: docs/spec/gateway.md, section 4.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from steelyard.gateway.operator_cap import cap_shares
from steelyard.protocol.rendezvous import rendezvous_order

EXPLORE_SHARE = 0.05
QUALITY_FLOOR = 0.25
"""What is left of a share at no quality at all: a newcomer must be called in order to be checked."""

EWMA_WEIGHT = 0.2
FAILURES_TO_OPEN = 3
FAILURE_RATE_TO_OPEN = 0.5
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
SHORTEST_REST_S = 0.05
WARM_SLACK_CALLS = 4
"""How many calls busier than the idlest a warm provider may be before a conversation leaves it."""

RESTING_CODES = frozenset({"busy", "credit_window"})
BLAMELESS_CODES = frozenset({"invalid_request", "cancelled", "lane_lost", "order_too_large"})
"""Failures that say nothing about the provider: the request itself was at fault, or a new lane mends it."""

RECENT_CALLS = 64
"""Of so many calls the times are kept, for `recent_s`."""

LATE_PART = 0.95
LATE_EVERY = 16
"""After so many calls `late_s` is computed again."""

WARM_DRIFT = 2.0
"""By what factor a share has to change before conversations are moved for it."""

_SHARE_AGE_S = 0.1


@dataclass(slots=True)
class Record:
    """What this gateway saw of one provider at one service; it steers this gateway alone and is no verdict.

    `bar`: why it gets no call at all. `doubt`: why it gets none while others are well. `is_archival`: whether it has
    old blocks, None if it wasn't asked. `trust`: part of its share that `disagreements` left it. `recent_s`: how long
    its last calls took; `late_s`: what 95 % of them stayed below.
    """

    unit_s: float = 0.0
    failure_rate: float = 0.0
    failures_in_row: int = 0
    successes: int = 0
    failures: int = 0
    open_until_s: float = 0.0
    pause_s: float = 0.0
    is_trying: bool = False
    rest_until_s: float = 0.0
    last_reason: str = ""
    first_s: float = 0.0
    bar: str = ""
    doubt: str = ""
    is_archival: bool | None = None
    trust: float = 1.0
    disagreements: int = 0
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_CALLS))
    late_s: float = 0.0

    def add_success(self, seconds: float, units: int, first_s: float | None = None) -> None:
        """Note a finished call: how long it took, how many units it made, and when its first piece came if earlier."""
        unit_s = seconds / units if units > 1 else seconds
        first_s = seconds if first_s is None else first_s
        self.unit_s = unit_s if not self.successes else self.unit_s + EWMA_WEIGHT * (unit_s - self.unit_s)
        self.first_s = first_s if not self.successes else self.first_s + EWMA_WEIGHT * (first_s - self.first_s)
        self.failure_rate -= EWMA_WEIGHT * self.failure_rate
        self.recent_s.append(seconds)
        self.successes += 1
        if self.successes % LATE_EVERY == 0:
            self.late_s = sorted(self.recent_s)[int(LATE_PART * len(self.recent_s))]
        self.failures_in_row = 0
        if self.pause_s:
            self.is_trying = False
            self.pause_s = self.open_until_s = 0.0

    def add_failure(self, code: str, now_s: float, retry_after_s: float = 0.0) -> None:
        """Note a call without a receipt, or one whose receipt was refused."""
        self.is_trying = False
        if code in BLAMELESS_CODES:
            return
        self.last_reason = code
        if code in RESTING_CODES:
            self.rest_until_s = now_s + max(retry_after_s, SHORTEST_REST_S)
            return
        self.failures += 1
        self.failures_in_row += 1
        self.failure_rate += EWMA_WEIGHT * (1.0 - self.failure_rate)
        if self.failures_in_row >= FAILURES_TO_OPEN or self.failure_rate >= FAILURE_RATE_TO_OPEN or self.pause_s:
            self.pause_s = min(self.pause_s * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            self.open_until_s = now_s + self.pause_s

    def why_not(self, now_s: float) -> str:
        """Return why this provider gets no call now, or an empty string."""
        if self.bar:
            return self.bar
        if self.rest_until_s > now_s:
            return self.last_reason
        if self.pause_s:
            if self.open_until_s > now_s:
                return f"breaker_open ({self.last_reason}), tried again in {self.open_until_s - now_s:.1f} s"
            if self.is_trying:
                return f"breaker_half_open ({self.last_reason}), one call is trying it"
        return ""

    def ready_in_s(self, now_s: float) -> float:
        """Return after how many seconds it may be asked again."""
        return max(self.rest_until_s - now_s, self.open_until_s - now_s if self.pause_s else 0.0, 0.0)


@dataclass(slots=True)
class Standing:
    """One candidate as `choose` sees it; `quality` is the network's, 0 to 1, and 1 where the network has no opinion."""

    price_nano: int
    record: Record
    quality: float = 1.0


def shares(standings: Sequence[Standing]) -> list[float]:
    """Return each candidate's share of the calls (not normalised), by rule 2; prices are nano per unit mix."""
    cheapest = min(max(standing.price_nano, 1) for standing in standings)
    known = [standing.record.unit_s for standing in standings if standing.record.successes]
    fastest = max(min(known), 1e-6) if known else 1.0
    result = []
    for standing in standings:
        record = standing.record
        price = cheapest / max(standing.price_nano, 1)
        speed = fastest / max(record.unit_s, fastest) if record.successes else 1.0
        trust = QUALITY_FLOOR + (1.0 - QUALITY_FLOOR) * standing.quality
        result.append(price * price * speed * trust * (1.0 - record.failure_rate) ** 2)
    floor = max(result) * EXPLORE_SHARE
    return [max(share, floor) * standing.record.trust for share, standing in zip(result, standings, strict=True)]


def pick_two(cumulative: Sequence[float], luck: float) -> tuple[int, int]:
    """Return two indices drawn by their share, from one number in [0, 1); they may be the same."""
    total = cumulative[-1]
    first = bisect(cumulative, luck * total)
    second = bisect(cumulative, (luck * 65_537.0) % 1.0 * total)
    last = len(cumulative) - 1
    return min(first, last), min(second, last)


def choose_warm(prefix: bytes, ids: Sequence[bytes], weights: Sequence[float], loads: Sequence[int]) -> int:
    """Return the index of the provider that a conversation's prefix belongs to, passing over much busier ones."""
    most = min(loads) + WARM_SLACK_CALLS
    place = {provider: index for index, provider in enumerate(ids)}
    pairs = [(provider, int(weight * 1_000_000) + 1) for provider, weight in zip(ids, weights, strict=True)]
    order = [place[provider] for provider in rendezvous_order(prefix, pairs)]
    return next((index for index in order if loads[index] <= most), order[0])


@dataclass(slots=True)
class ShareTable:
    """The shares of one service's providers, computed again when they are older than a tenth of a second."""

    made_s: float = -1.0
    keys: tuple[int, ...] = ()
    weights: list[float] = field(default_factory=list)
    cumulative: list[float] = field(default_factory=list)
    warm: dict[bytes, float] = field(default_factory=dict)
    warm_now: list[float] | None = None

    def refresh(
        self, keys: tuple[int, ...], standings: Sequence[Standing], now_s: float, *, is_capped: bool = False
    ) -> None:
        """Bring the table up to date for the candidates that are well now (`keys` names them)."""
        if keys == self.keys and now_s - self.made_s < _SHARE_AGE_S:
            return
        self.keys, self.made_s, self.warm_now = keys, now_s, None
        self.weights = cap_shares(shares(standings)) if is_capped else shares(standings)
        total, self.cumulative = 0.0, []
        for weight in self.weights:
            total += weight
            self.cumulative.append(total)

    def warm_weights(self, providers: Sequence[bytes], shares: Sequence[float], *, is_learning: bool) -> list[float]:
        """Return the weights by which conversations are spread: the shares as they were until they changed much.

        `is_learning` is False for a choice among some only, whose shares are relative to others.
        """
        if is_learning and self.warm_now is not None:
            return self.warm_now
        weights = []
        for provider, share in zip(providers, shares, strict=True):
            kept = self.warm.get(provider, 0.0)
            if not kept / WARM_DRIFT <= share <= kept * WARM_DRIFT:
                if is_learning:
                    self.warm[provider] = kept = share
                else:
                    kept = kept or share
            weights.append(kept)
        if is_learning:
            self.warm_now = weights
        return weights
