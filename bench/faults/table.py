"""The result as one table: a row a fault, a cell a kind, ours beside LiteLLM's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

GREEN, YELLOW, RED, GREY, PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[90m", "\033[0m"
COLOURS = {"pass": GREEN, "safe": YELLOW, "wrong": RED, "-": GREY}
MARKS = {"pass": "pass", "safe": "safe", "wrong": "**wrong**"}
SHORT = {"chat streamed": "stream", "chat whole": "whole", "embeddings": "embed", "rpc": "rpc"}


def print_table(result: dict[str, Any]) -> None:
    """Print every case, and the sums."""
    is_coloured = sys.stdout.isatty()
    ours, theirs = _index(result["steelyard"]), _index(result["litellm"]["cases"] if result["litellm"] else ())
    faults = list(dict.fromkeys(case["fault"] for case in result["steelyard"]))
    for has_second in (True, False):
        told = "with a healthy second provider" if has_second else "without a second provider"
        columns = [("steelyard", kind) for kind in SHORT]
        columns += [("litellm", kind) for kind in SHORT if kind != "rpc"] if theirs else []
        print(f"\n{told}\n{'':18}" + "".join(f"{_head(*column):>10}" for column in columns))
        for fault in faults:
            cells = []
            for who, kind in columns:
                case = (ours if who == "steelyard" else theirs).get((fault, kind, has_second))
                cells.append(_cell(case, is_coloured=is_coloured))
            print(f"{fault:18}" + "".join(cells))
    print("\npass: the whole answer. safe: a clear error. wrong: looks like an answer and isn't, or hangs.")
    print("*: the view, the bill, the receipts or the metrics are not as stated")
    for who, cases in (("steelyard", result["steelyard"]), ("litellm", (result["litellm"] or {}).get("cases", ()))):
        if cases:
            print(f"{who:10} {count(cases)}")


def to_markdown(result: dict[str, Any]) -> str:
    """Return the same as Markdown: with a second provider, and behind the stroke without one."""
    ours, theirs = _index(result["steelyard"]), _index(result["litellm"]["cases"])
    kinds = [kind for kind in SHORT if kind != "rpc"]
    head = ["fault", *SHORT, *(f"LiteLLM, {kind}" for kind in kinds)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for fault in dict.fromkeys(case["fault"] for case in result["steelyard"]):
        cells = [_pair(ours, fault, kind) for kind in SHORT] + [_pair(theirs, fault, kind) for kind in kinds]
        lines.append(f"| {fault} | " + " | ".join(cells) + " |")
    sums = [f"Steelyard: {count(result['steelyard'])}.", f"LiteLLM: {count(result['litellm']['cases'])}."]
    told = f"LiteLLM {result['litellm']['version']}. With a healthy second provider / without one."
    return "\n".join([told, "", *lines, "", *sums]) + "\n"


def _pair(cases: dict[tuple[str, str, bool], dict[str, Any]], fault: str, kind: str) -> str:
    found = [cases.get((fault, kind, has_second)) for has_second in (True, False)]
    return " / ".join("" if case is None else MARKS[case["verdict"]] for case in found).strip(" /")


def count(cases: Sequence[dict[str, Any]]) -> str:
    """Return how many cases came out how."""
    told = [f"{sum(case['verdict'] == verdict for case in cases)} {verdict}" for verdict in ("pass", "safe", "wrong")]
    missed = sum(bool(case.get("misses")) for case in cases)
    return ", ".join(told) + f" of {len(cases)}" + (f"; {missed} not as stated" if missed else "")


def _index(cases: Sequence[dict[str, Any]]) -> dict[tuple[str, str, bool], dict[str, Any]]:
    return {(case["fault"], case["kind"], case["has_second"]): case for case in cases}


def _head(who: str, kind: str) -> str:
    return SHORT[kind] if who == "steelyard" else "L:" + SHORT[kind]


def _cell(case: dict[str, Any] | None, *, is_coloured: bool) -> str:
    verdict = "-" if case is None else case["verdict"]
    text = verdict + ("*" if case is not None and case.get("misses") else "")
    padded = f"{text:>10}"
    colour = RED if text.endswith("*") else COLOURS[verdict]
    return f"{colour}{padded}{PLAIN}" if is_coloured else padded
