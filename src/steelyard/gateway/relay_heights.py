"""How high each chain is, as far as this gateway believes: the middle of what its providers said lately.

1. A height is a provider's claim. Of an even number of claims the lower middle one counts, so that one provider alone
   can't lift it where there are two others.
2. It decides what may be kept (`relay_cache`): a block is kept once it lies deep enough below. A claim is forgotten
   after `KEEP_S`.

Law: docs/spec/relay.md, section 2.
"""

from __future__ import annotations

KEEP_S = 120.0
MAX_CLAIMS = 64


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

    def find(self, service: str, now_s: float) -> int | None:
        """Return the height that is believed, or None if nobody said any lately."""
        claims = self._claims.get(service)
        if not claims:
            return None
        fresh = sorted(height for height, since_s in claims.values() if now_s - since_s < KEEP_S)
        return fresh[(len(fresh) - 1) // 2] if fresh else None
