"""What a key paid with an order, which is not its cost where an answer took several. Older rows have none: the cost."""

from __future__ import annotations

STATEMENTS: tuple[str, ...] = ("ALTER TABLE calls ADD COLUMN charged_nano BIGINT",)
