"""One case played: what the client saw, and what the gateway's books and counters say of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cases import Case, Expected
from client import View, ask
from provider import Provider
from tests.gateway_faults import list_rows, settle_spent
from tests.gateway_world import World, until
from world import MODELS, TIMES, open_case

PATIENCE_S = 25.0


@dataclass
class Seen:
    """What came of a case.

    Attributes:
        billed_nano: off the key's budget for good. receipts: "bad" or "good" with how its call ended, each with a
            receipt. counted: the gateway's retries, rescues, errors and refused peers.
        unsettled: money or orders that were not brought to an end; empty.
    """

    view: View
    billed_nano: int
    receipts: tuple[str, ...]
    counted: tuple[str, ...]
    unsettled: str = ""

    def misses(self, expected: Expected) -> list[str]:
        """Return everything that isn't as it must be."""
        pairs = {
            "view": (self.view.name, expected.view),
            "code": (self.view.code, expected.code),
            "billed": (self.billed_nano, expected.billed_nano),
            "counted": (sorted(self.counted), sorted(expected.counted)),
            "unsettled": (self.unsettled, ""),
        }
        found = [f"{name}: {seen!r}, not {wanted!r}" for name, (seen, wanted) in pairs.items() if seen != wanted]
        wanted_receipts = sorted(expected.receipts)
        likely = [seen.startswith(wanted) for seen, wanted in zip(self.receipts, wanted_receipts, strict=False)]
        if len(self.receipts) != len(expected.receipts) or not all(likely):
            found.append(f"receipts: {self.receipts}, not {expected.receipts}")
        if self.view.name == "error" and not self.view.note:
            found.append("an error without a message")
        return found


async def play_case(case: Case, folder: Path, provider: Provider) -> Seen:
    """Play one case in a world of its own."""
    async with open_case(folder, case.kind, provider, case.fault, has_second=case.has_second) as (world, bad, good):
        choice = json.dumps({"order": ["0x" + bad.hex()]})
        view = await ask(
            world.base_url.removesuffix("/v1"),
            case.kind,
            MODELS[case.kind],
            world.secret,
            headers={"x-steelyard-choice": choice},
            timeout_s=PATIENCE_S,
        )
        unsettled = await _settle(world)
        billed = -1 if unsettled else await settle_spent(world)
        rows = await list_rows(world)
        names = {bad: "bad", good: "good"}
        receipts = sorted(f"{names[row.provider]} {row.status}" for row in rows if row.receipt_hash is not None)
        return Seen(view, billed, tuple(receipts), _counted(world), unsettled)


async def _settle(world: World) -> str:
    """Wait until no order is open and no money is held; say what is left otherwise."""
    settlement = world.gateway.settlement
    end_s = time.monotonic() + TIMES["deadline_s"] + TIMES["grace_s"] + 12.0
    while time.monotonic() < end_s:
        with contextlib.suppress(AssertionError):
            await until(lambda: settlement.in_flight == 0 and not settlement.lost, timeout_s=1.0)
            return ""
        await asyncio.sleep(0)
    return f"{settlement.in_flight} open, {len(settlement.lost)} lost"


def _counted(world: World) -> tuple[str, ...]:
    metrics = world.gateway.metrics
    families: tuple[tuple[str, Counter[str]], ...] = (
        ("retries", metrics.retries),
        ("rescues", metrics.rescues),
        ("errors", metrics.errors),
        ("peer_events", metrics.events),
    )
    return tuple(f"{name} {code}={count}" for name, values in families for code, count in sorted(values.items()))
