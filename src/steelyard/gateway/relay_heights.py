"""How high each chain is, as far as this gateway believes: the middle of what its providers said lately.

claims of a chain's height               who gets no call while others are well
---------------------------------------  ----------------------------------------------------------------
fewer than three                         nobody: of two, nothing says who is right
the two middle ones are far apart        nobody
more than `allowed` below the middle     stale: so many blocks behind
more than `allowed` above it, or none    height_outlier: it may have made them up

1. A height is a provider's claim. Of an even number of claims the lower middle one counts, so that one provider alone
   can't lift it where there are two others.
2. It decides what may be kept (`relay_cache`): a block is kept once it lies deep enough below. A claim is forgotten
   after `KEEP_S`; that of a provider who has gone counts until then if fewer than three are left.
3. Allowed are the blocks of `ALLOWED_S` seconds, at least `ALLOWED_BLOCKS`; to each claim the blocks since then are
   added, as if its provider had kept up.

Pure. Law: docs/spec/relay.md, section 7.
"""

from __future__ import annotations

import math
from collections.abc import Collection

NONE = -1
"""The claim of a provider who answers the question for a height with none."""

KEEP_S = 120.0
MAX_CLAIMS = 64
ALLOWED_S = 20.0
ALLOWED_BLOCKS = 3
LEAST_CLAIMS = 3


class Heights:
    """The claims of one gateway's providers, by service."""

    __slots__ = ("_claims",)

    def __init__(self) -> None:
        self._claims: dict[str, dict[bytes, tuple[int, float]]] = {}

    def note(self, service: str, provider: bytes, height: int, now_s: float) -> None:
        """Take a provider's claim; its last one counts."""
        claims = self._claims.setdefault(service, {})
        claims.pop(provider, None)
        claims[provider] = (height, now_s)
        if len(claims) > MAX_CLAIMS:
            del claims[next(iter(claims))]

    def since_s(self, service: str, provider: bytes) -> float:
        """Return when a provider's last claim came."""
        return self._claims.get(service, {}).get(provider, (0, -math.inf))[1]

    def find(self, service: str, now_s: float) -> int | None:
        """Return the height that is believed, or None if nobody said any lately."""
        fresh = self._fresh(service, now_s)
        return fresh[(len(fresh) - 1) // 2][0] if fresh else None

    def judge(self, service: str, linked: Collection[bytes], block_s: float, now_s: float) -> dict[bytes, str]:
        """Return who is too far from the others, and why.

        Args:
            linked: who is linked now; those who have gone are heard only where too few are left.
            block_s: seconds from block to block, as is usual on that chain.
        """
        claims = self._claims.get(service, {})
        everyone = self._fresh(service, now_s)
        fresh = [claim for claim in everyone if claim[2] in linked]
        if len(fresh) < LEAST_CLAIMS:
            fresh = everyone
        doubts = {
            provider: "height_outlier: its answer is no height"
            for provider, (height, since_s) in claims.items()
            if height == NONE and fresh and now_s - since_s < KEEP_S
        }
        if len(fresh) < LEAST_CLAIMS:
            return doubts
        allowed = max(ALLOWED_BLOCKS, math.ceil(ALLOWED_S / block_s))
        now = sorted((height + int((now_s - since_s) / block_s), provider) for height, since_s, provider in fresh)
        middle, _ = now[(len(now) - 1) // 2]
        if now[len(now) // 2][0] - middle > allowed:
            return doubts
        for height, provider in now:
            if height < middle - allowed:
                doubts[provider] = f"stale: {middle - height} blocks behind"
            elif height > middle + allowed:
                doubts[provider] = f"height_outlier: {height - middle} blocks above the others"
        return doubts

    def _fresh(self, service: str, now_s: float) -> list[tuple[int, float, bytes]]:
        claims = self._claims.get(service, {})
        return sorted(
            (height, since_s, provider)
            for provider, (height, since_s) in claims.items()
            if height != NONE and now_s - since_s < KEEP_S
        )
