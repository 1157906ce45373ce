"""Why a call went to its provider: a few bytes beside its row. Calls from before this migration have none."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = ("ALTER TABLE calls ADD COLUMN why {blob}",)
