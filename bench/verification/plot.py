"""Draw how soon cheats are challenged: share of providers by audited tokens, one curve a cheat, as SVG by hand."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 260, 52, 40, 40
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8d5b9f", "#d4a017", "#3d405b", "#7f7f7f")


def draw(rows: Sequence[dict[str, Any]], tokens: Sequence[int], path: Path) -> None:
    """Write the plot; one panel for each validator's engine.

    Args:
        rows: `caught.catch`'s results. tokens: the places of their `curve`.
    """
    validators = sorted({row["validator"] for row in rows})
    names = sorted({row["provider"] for row in rows})
    full = len(validators) * (WIDTH + LEFT + GAP)
    legend = -(-len(names) // 4) * 18
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{HEIGHT + TOP + 60 + legend}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{LEFT}" y="18" font-size="14">'
        "Share of cheating providers challenged, by audited tokens (three gateways, honest start)</text>",
    ]
    for place, validator in enumerate(validators):
        left = LEFT + place * (WIDTH + LEFT + GAP)
        out += _axes(left, f"replayed by {validator}", tokens[-1])
        for row in (found for found in rows if found["validator"] == validator):
            points = " ".join(
                f"{left + WIDTH * at / tokens[-1]:.1f},{TOP + HEIGHT * (1 - share):.1f}"
                for at, share in zip(tokens, row["curve"], strict=True)
            )
            colour, dash = _style(row["provider"], names)
            out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    for index, name in enumerate(names):
        colour, dash = _style(name, names)
        x, y = LEFT + index % 4 * 200, TOP + HEIGHT + 50 + index // 4 * 18
        out.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 26}" y2="{y - 4}" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(f'<text x="{x + 32}" y="{y}">{escape(name)}</text>')
    path.write_text("\n".join([*out, "</svg>"]) + "\n")


def _style(name: str, names: Sequence[str]) -> tuple[str, str]:
    weights = sorted({other.removesuffix("+prefill") for other in names})
    colour = COLOURS[weights.index(name.removesuffix("+prefill")) % len(COLOURS)]
    return colour, ' stroke-dasharray="5 4"' if name.endswith("+prefill") else ""


def _axes(left: int, title: str, most: int) -> list[str]:
    out = [f'<text x="{left}" y="{TOP - 6}" fill="#444">{escape(title)}</text>']
    for step in range(5):
        y = TOP + HEIGHT * (1 - step / 4)
        out.append(f'<line x1="{left}" y1="{y}" x2="{left + WIDTH}" y2="{y}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{25 * step} %</text>')
        x = left + WIDTH * step / 4
        out.append(f'<text x="{x}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{most * step // 4}</text>')
    at = left + WIDTH * 1000 / most
    out.append(f'<line x1="{at}" y1="{TOP}" x2="{at}" y2="{TOP + HEIGHT}" stroke="#999" stroke-dasharray="2 3"/>')
    return out
