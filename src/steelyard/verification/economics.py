"""Why cheating doesn't pay: what it earns until it is convicted, and what it costs then.

1. A cheat is described by its gain g (the share of the price that it saves on a cheated order), the share of orders
   that it cheats on, and how much evidence one audited cheated answer carries. A third of the stake may collude.
2. Ratios are floats, amounts are integer nano; a limit is rounded to the safe side.
3. A provider's stake allows orders up to a price; larger ones are refused.

Law: docs/spec/checking.md, section 10.  Sources: DESIGN.md section 6; Proof of Sampling (arXiv 2405.00295) for p*.
"""

from __future__ import annotations

import math

from steelyard.verification.eprocess import CELLS, SIZES
from steelyard.verification.parameters import BILLION, SHIPPED, WHOLE_BPS, CheckParameters


def seats_odds(share: float, seats: int, votes: int) -> float:
    """Return the chance that holders of a share of the stake (0 to 1) get at least `votes` of `seats`: binomial."""
    return math.fsum(math.comb(seats, k) * share**k * (1 - share) ** (seats - k) for k in range(votes, seats + 1))


def framing_odds(colluders: float, parameters: CheckParameters = SHIPPED, *, draws: int = 1) -> float:
    """Return the chance that colluders with a share of the stake convict an honest account through both stages.

    Args:
        draws: panels that each stage may draw. More than one only where so many jurors abstain or stay away that a
        panel neither convicts nor acquits: then colluders try again.
    """
    first = seats_odds(colluders, parameters.panel_seats, parameters.panel_votes)
    second = seats_odds(colluders, parameters.appeal_seats, parameters.appeal_votes)
    return math.prod(-math.expm1(draws * math.log1p(-odds)) if odds < 1 else 1.0 for odds in (first, second))


def conviction_odds(colluders: float, parameters: CheckParameters = SHIPPED) -> float:
    """Return the chance that a guilty account is convicted through both stages while colluders vote for it."""
    return framing_odds(1.0 - colluders, parameters)


def answers_to_convict(
    log_e: float, fraction: float, *, honest_e: float = 0.0, parameters: CheckParameters = SHIPPED
) -> float:
    """Return how many audited *cheated* answers it takes until the e-process reaches the challenge; inf for never.

    Args:
        log_e: what an audited cheated answer adds to the best bet, in nats.
        fraction: share of the answers that are cheated, above 0 up to 1.
        honest_e: what an honest answer leaves of that bet, 0 to 1; 0 is the worst for us.

    Source: docs/spec/checking.md, section 6: of all sizes s of a bet the one that grows fastest, fraction x
    ln(1 - s + s e) + (1 - fraction) x ln(1 - s + s honest_e), up to ln(threshold) + ln(cells) + ln(k(k+1)).
    """
    growth = max(_grow(size, log_e, fraction, honest_e) for size in SIZES)
    if growth <= 0:
        return math.inf
    needed = math.log(parameters.challenge_e) + math.log(CELLS)
    answers = needed / growth
    for _ in range(64):  # the start's weight depends on how long it takes; this converges from below
        answers = (needed + 2 * math.log(answers + 1)) / growth
    return max(1.0, answers * fraction)


def audited_to_conviction(answers: float, colluders: float = 0.0, parameters: CheckParameters = SHIPPED) -> float:
    """Return the expected number of audited cheated answers until the stake is gone, retries after acquittals
    included.

    Args:
        answers: until the first challenge. colluders: share of the validators' stake that votes to acquit.
    """
    return answers + (1.0 / conviction_odds(colluders, parameters) - 1.0) * parameters.retry_answers


def orders_to_conviction(
    answers: float, fraction: float, colluders: float = 0.0, parameters: CheckParameters = SHIPPED
) -> float:
    """Return the expected number of a cheat's orders, honest ones included, until the stake is gone.

    Colluding validators check nothing of their friend's; boosts and newcomers' checks are left out, which flatters the
    cheat.
    """
    audited = parameters.rate_ppb / BILLION * (1.0 - colluders)
    return audited_to_conviction(answers, colluders, parameters) / (audited * fraction)


def ev_of_cheating_nano(
    order_nano: int,
    stake_nano: int,
    *,
    gain: float,
    fraction: float,
    answers: float,
    colluders: float = 0.0,
    parameters: CheckParameters = SHIPPED,
) -> float:
    """Return what a provider gains over honesty by cheating until it is convicted, in nano; below zero it loses.

    Args:
        order_nano: price of one order. stake_nano: its stake. gain: share of the price that it saves on each cheated
        order. fraction: share of its orders that are cheated. answers: audited cheated answers to the challenge.

    What it would have earned afterwards is left out, which flatters the cheat.
    """
    orders = orders_to_conviction(answers, fraction, colluders, parameters)
    return orders * fraction * gain * order_nano - stake_nano * parameters.slash_bps / WHOLE_BPS


def stake_floor_nano(order_nano: int, parameters: CheckParameters = SHIPPED) -> int:
    """Return the least stake for orders up to a price, both in nano."""
    return order_nano * parameters.stake_floor_orders


def largest_order_nano(stake_nano: int, parameters: CheckParameters = SHIPPED) -> int:
    """Return the highest price of one order (its `max_cost`) that a provider's stake allows, in nano; larger ones are
    refused.
    """
    return max(0, stake_nano) // parameters.stake_floor_orders


def needed_floor_orders(parameters: CheckParameters = SHIPPED, *, gain: float = 1.0) -> float:
    """Return the stake, in order prices, at which the slowest cheat that must be deterred just breaks even.

    Source: S >= g N / (p (1 - r)) of DESIGN.md section 6, with retries, over the slashed share.
    """
    colluders = parameters.colluders_bps / WHOLE_BPS
    orders = orders_to_conviction(parameters.convict_answers, 1.0, colluders, parameters)
    return gain * orders * WHOLE_BPS / parameters.slash_bps


def least_rate(
    gain: float,
    *,
    detection: float,
    colluders: float,
    revenue: float,
    stake: float,
    checkers: int = 1,
    margin: float = 1.25,
) -> float:
    """Return p*, the share of calls to check so that a one-shot lie doesn't pay; above 1 no rate is enough.

    Args:
        gain, revenue, stake: in order prices. detection: chance that an honest check finds the lie. colluders: share of
        stake. checkers: independent checks of one call. margin: how much more than break-even.

    Source: p* = k g / (d (1 - r^n) (R + S)), DESIGN.md section 6.
    """
    return margin * gain / (detection * (1.0 - colluders**checkers) * (revenue + stake))


def least_fraction(log_e: float, *, honest_e: float = 0.0) -> float:
    """Return the share of cheated answers below which a cheat of that strength is never convicted by statistics.

    Source: the share at which no size of bet grows any more.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        grows = max(_grow(size, log_e, middle, honest_e) for size in SIZES) > 0
        low, high = (low, middle) if grows else (middle, high)
    return high


def _grow(size: float, log_e: float, fraction: float, honest_e: float) -> float:
    """Nats that a bet of a size grows by per answer, on average."""
    rest = 1.0 - size
    cheated = log_e + math.log(size) if log_e > 500 else math.log(rest + size * math.exp(log_e))
    honest = math.log(rest + size * honest_e) if rest + size * honest_e > 0 else -math.inf
    return fraction * cheated + ((1.0 - fraction) * honest if fraction < 1 else 0.0)
