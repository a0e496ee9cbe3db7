"""Recall against speed as an SVG, drawn by hand: both axes logarithmic, the right end is better."""

from __future__ import annotations

import math
from html import escape

from analysis import Point, front

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 230, 40, 50
RECALL_TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995)
PEER_COLOURS = (
    "#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#888888", "#994455", "#997700",
    "#6699cc", "#117733", "#555555", "#cc99bb",
)  # fmt: skip
OUR_COLOURS = ("#e8000b", "#ff7f0e", "#d62790", "#7f0000", "#ff4f70")


def svg(title: str, curves: dict[str, list[Point]], ours: set[str]) -> str:
    """One line per configuration through its front of medians; bars span slowest to fastest pass."""
    fronts = {name: front(points) for name, points in curves.items() if points}
    shown = [point for points in fronts.values() for point in points if point.recall >= 0.78]
    if not shown:
        raise SystemExit("nothing reaches a recall of 0.78: no plot")
    rates = [rate for point in shown for rate in point.qps]
    low, high = math.log10(min(rates)) - 0.03, math.log10(max(rates)) + 0.03

    def x_of(recall: float) -> float:
        start, end = math.log10(1 - 0.78), math.log10(1 - 0.9997)
        share = (math.log10(max(1 - recall, 2e-4)) - start) / (end - start)
        return LEFT + min(share, 1.02) * (WIDTH - LEFT - RIGHT)

    def y_of(rate: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(rate) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    parts += grid(x_of, y_of, low, high)
    peer_count = our_count = 0
    for row, (name, points) in enumerate(fronts.items()):
        if name in ours:
            colour, width = OUR_COLOURS[our_count % len(OUR_COLOURS)], 3
            our_count += 1
        else:
            colour, width = PEER_COLOURS[peer_count % len(PEER_COLOURS)], 1.5
            peer_count += 1
        parts += curve([point for point in points if point.recall >= 0.78], colour, width, x_of, y_of)
        y = TOP + 14 + 18 * row
        x = WIDTH - RIGHT + 22
        parts.append(
            f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" '
            f'stroke-width="{width}"/><text x="{x + 28}" y="{y}">{escape(name)}</text>'
        )
    parts.append("</svg>\n")
    return "\n".join(parts)


def grid(x_of, y_of, low: float, high: float) -> list[str]:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for recall in RECALL_TICKS:
        x = x_of(recall)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#dddddd"/>'
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{recall}</text>'
        )
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            rate = digit * 10.0**power
            if low <= math.log10(rate) <= high:
                y = y_of(rate)
                parts.append(
                    f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
                    f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{rate:,.0f}</text>'
                )
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">recall@10</text>')
    parts.append(f'<text x="8" y="{TOP - 8}">queries/s, one thread</text>')
    return parts


def curve(points: list[Point], colour: str, width: float, x_of, y_of) -> list[str]:
    if not points:
        return []
    path = " ".join(f"{x_of(point.recall):.1f},{y_of(point.middle()):.1f}" for point in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>']
    for point in points:
        x = x_of(point.recall)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y_of(min(point.qps)):.1f}" '
            f'y2="{y_of(max(point.qps)):.1f}" stroke="{colour}" stroke-opacity="0.5"/>'
            f'<circle cx="{x:.1f}" cy="{y_of(point.middle()):.1f}" r="2.5" fill="{colour}"/>'
        )
    return parts
