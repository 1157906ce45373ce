"""What honest answers look like where nobody can recompute them: nodes of one chain that differ now and then.

1. A validator asks a node of its own. An honest provider's node may differ from it: a block by number is reorganised, a
   bug of one client. So a difference alone proves nothing, and the bound of their expected share is declared, not
   measured.
2. A single difference is about 14 to 1 over all bets; it takes several, over several answers, to challenge anybody.

Law: docs/spec/validator.md, section 3; docs/spec/checking.md, section 5.
"""

from __future__ import annotations

from steelyard.verification.null import Null
from steelyard.verification.scores import PLAIN_STRATA, SCORES, Clips, Regime

MISMATCH_PPB = 10_000_000
"""Of an honest provider's pinned answers, at most one in a hundred differs from another honest node's."""

OWN_NODE = "own node"


def consensus_null(manifest: bytes) -> Null:
    """Return the null of a service whose answers are compared with the validator's own node's; 32 bytes, its digest."""
    bounds = tuple(
        tuple((MISMATCH_PPB,) * PLAIN_STRATA.bins(score) if name == "mismatch" else (None,) * PLAIN_STRATA.bins(score)
              for _ in Regime)
        for score, name in enumerate(SCORES)
    )  # fmt: skip
    return Null(
        manifest=manifest.hex(),
        provider_engine="relay",
        validator_engine=OWN_NODE,
        families=("declared",),
        answers=0,
        tokens=0,
        confidence_ppt=1,
        safety_bps=10_000,
        clips=Clips(),
        strata=PLAIN_STRATA,
        bounds_ppb=bounds,
    )
