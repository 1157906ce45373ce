"""Weighted rendezvous hashing: a choice that anyone can recompute and that moves little when the crowd changes.

u = keccak(seed || candidate) / 2^256 and score = -ln(u) / weight; the lowest scores win. A candidate of twice the
weight is chosen twice as often; adding or removing one moves only its own share.

Source: DESIGN.md section 6 (panels), research "relay" section 7. Law: docs/spec/messages.md, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from steelyard.protocol.hashing import keccak


def rendezvous_order(seed: bytes, candidates: Iterable[tuple[bytes, int]]) -> list[bytes]:
    """Return the candidates from most to least preferred.

    Args:
        seed: any bytes; who must not foresee the choice must not know it.
        candidates: (id, weight) pairs; a weight of zero or less is left out. Equal scores go to the lower id.
    """
    scored = [(rendezvous_score(seed, candidate, weight), candidate) for candidate, weight in candidates if weight > 0]
    return [candidate for _, candidate in sorted(scored)]


def rendezvous_score(seed: bytes, candidate: bytes, weight: int) -> float:
    """Return -ln(u) / weight for one candidate, weight above zero; lower wins."""
    # the top 53 bits, so that the same double comes out on every machine; +1 keeps u above zero
    u = ((int.from_bytes(keccak(seed + candidate)[:8], "big") >> 11) + 1) / (1 << 53)
    return -math.log(u) / weight
