"""Every fault that a provider can have, played against the gateway; the upstreams' through LiteLLM too.

`python bench/faults/run.py [--without-litellm] [--faults a,b] [--at-once 4]`, or `make bench-faults`.

cases.py states beforehand what must come of each case: what the client sees, the bill, receipts and metrics. The
status is 1 if one of ours is not as stated. All is written to results/faults.json. See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import litellm_proxy
import peers
import structlog
from cases import FAULTS, Case, Expected, list_cases
from observe import play_case
from provider import Provider, open_provider
from table import print_table, to_markdown
from world import TIMES, UPSTREAM_SILENCE_S

RESULTS = Path(__file__).parent / "results" / "faults.json"


async def play_ours(case: Case, expected: Expected, folder: Path, provider: Provider) -> dict[str, Any]:
    """Return what came of a case, and what of it is not as stated."""
    seen = await play_case(case, folder, provider)
    return {
        **asdict(case),
        "verdict": litellm_proxy.judge(seen.view),
        "stated": asdict(expected),
        "seen": {
            "view": seen.view.name,
            "code": seen.view.code,
            "note": seen.view.note,
            "billed_nano": seen.billed_nano,
            "receipts": seen.receipts,
            "counted": seen.counted,
            "seconds": round(seen.view.seconds, 2),
        },
        "misses": seen.misses(expected),
    }


async def play_theirs(url: str, fault: str, kind: str, *, has_second: bool) -> dict[str, Any]:
    """Return what came of a case through LiteLLM."""
    view = await litellm_proxy.play_litellm(url, fault, kind, has_second=has_second)
    return {
        "fault": fault,
        "kind": kind,
        "has_second": has_second,
        "verdict": litellm_proxy.judge(view),
        "seen": {"view": view.name, "code": view.code, "note": view.note, "seconds": round(view.seconds, 2)},
    }


async def play_all(works: list[Callable[[], Awaitable[dict[str, Any]]]], at_once: int) -> list[dict[str, Any]]:
    """Do all, so many at once, in order; say what was done."""
    turns = asyncio.Semaphore(at_once)
    done = 0

    async def play(work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        nonlocal done
        async with turns:
            found = await work()
        done += 1
        told = f"{found['fault']}, {found['kind']}, {'second' if found['has_second'] else 'alone'}: {found['verdict']}"
        missed = "; ".join(found.get("misses", ()))
        print(f"{done}/{len(works)} {told}" + (f"  NOT AS STATED: {missed}" if missed else ""), file=sys.stderr)
        return found

    return list(await asyncio.gather(*(play(work) for work in works)))


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Play every case and return the whole result."""
    wanted = set(filter(None, arguments.faults.split(",")))
    faults = tuple(fault for fault in FAULTS if not wanted or fault.name in wanted)
    begun_s = time.monotonic()
    litellm: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory(prefix="steelyard-faults-") as folder:
        async with open_provider() as provider:

            def ours(number: int, case: Case, expected: Expected) -> Callable[[], Awaitable[dict[str, Any]]]:
                return lambda: play_ours(case, expected, Path(folder) / str(number), provider)

            works = [ours(number, case, expected) for number, (case, expected) in enumerate(list_cases(faults))]
            found = await play_all(works, arguments.at_once)
            if not arguments.without_litellm:
                version = await asyncio.to_thread(peers.install_litellm)
                with ExitStack() as stack:
                    proxy = litellm_proxy.open_litellm(Path(folder), provider)
                    url = await asyncio.to_thread(stack.enter_context, proxy)

                    def theirs(case: Case) -> Callable[[], Awaitable[dict[str, Any]]]:
                        return lambda: play_theirs(url, case.fault, case.kind, has_second=case.has_second)

                    cases = [
                        case for case, _ in list_cases(faults, litellm_proxy.KINDS) if case.fault in litellm_proxy.NAMES
                    ]
                    played = await play_all([theirs(case) for case in cases], arguments.at_once)
                litellm = {"version": version, "settings": litellm_proxy.SETTINGS, "cases": played}
    return {
        "versions": {"python": platform.python_version(), "litellm": litellm["version"] if litellm else None},
        "times": {**TIMES, "upstream_silence_s": UPSTREAM_SILENCE_S},
        "seconds": round(time.monotonic() - begun_s),
        "steelyard": found,
        "litellm": litellm,
    }


def main() -> None:
    """Run the bench from the command line."""
    parser = argparse.ArgumentParser(description="Every fault that a provider can have.")
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--faults", default="", help="some of them, by name, with commas between")
    parser.add_argument("--at-once", type=int, default=4)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    result = asyncio.run(run(arguments))
    print_table(result)
    if not arguments.faults and not arguments.without_litellm:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        RESULTS.with_suffix(".md").write_text(to_markdown(result))
        print(f"written: {RESULTS}")
    if any(case["misses"] for case in result["steelyard"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
