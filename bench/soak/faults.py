"""The schedule of faults: what breaks, when and for how long. It follows from the seed and the length alone.

1. Kinds come from a shuffled deck, so that even a short run has some of each; a new deck is shuffled when it is empty.
2. Gateway, chain and the first node are killed in the first part only: what they hold is measured over a long life.
3. A fault that finds its target still starting waits for it; the schedule itself never changes.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

DECK = {
    "kill-node": 4,
    "kill-gateway": 1,
    "kill-chain": 1,
    "cut-links": 2,
    "cut-clients": 2,
    "hold-links": 1,
    "freeze-node": 1,
    "refuse-links": 1,
}
"""How many of each kind a deck has. `hold-links`: connections that look alive and pass nothing on."""

KILLS_UNTIL = 0.55
"""The share of the run in which gateway, chain and the first node are killed."""

QUIET_S = 6.0
"""Nothing breaks in the first and the last seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: at which second of the run, on what, and how long it lasts."""

    at_s: float
    kind: str
    target: str
    for_s: float

    def to_json(self) -> dict[str, Any]:
        """Return it for the report."""
        return asdict(self)


def plan_faults(seed: int, seconds: float, nodes: list[str]) -> list[Fault]:
    """Return the faults of a run, in order.

    Args:
        seconds: how long the load runs. nodes: their names; the first is the one that is spared later.
    """
    draw = random.Random(seed)
    mean_s = max(3.5, seconds / 100)
    faults: list[Fault] = []
    deck: list[str] = []
    at_s = QUIET_S
    while at_s < seconds - QUIET_S:
        if not deck:
            deck = [kind for kind, count in DECK.items() for _ in range(count)]
            draw.shuffle(deck)
        is_early = at_s < KILLS_UNTIL * seconds
        kind = deck.pop()
        if not is_early and kind in ("kill-gateway", "kill-chain"):
            kind = draw.choice(("cut-links", "cut-clients"))
        targets = nodes if is_early or len(nodes) == 1 else nodes[1:]
        target = draw.choice(targets) if kind.endswith("-node") else kind.partition("-")[2]
        faults.append(Fault(round(at_s, 2), kind, target, round(draw.uniform(0.2, 3.0), 2)))
        at_s += draw.uniform(0.4, 1.6) * mean_s
    return faults
