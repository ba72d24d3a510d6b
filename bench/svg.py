"""Charts as SVG, without a library: bars in groups, and lines; several on a page.

    page([bars(...), lines(...)]) -> the file's text

A panel is WIDE x HIGH; numbers on the axes are round. Names and words may hold anything: they are escaped.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDE, HIGH = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 64          # margins of the plot in its panel
COLORS = ("#9a9a9a", "#1668b8", "#d9661f", "#2a8a4a", "#8b4fb0", "#b8a11a", "#c0304a", "#38a3a5")
Point = tuple[float, float]


class Panel(NamedTuple):
    body: str
    names: list[str]


def word(x: float, y: float, text: str, anchor: str = "middle", size: int = 11, turn: float = 0) -> str:
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{turned}>{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, color: str = "#ddd") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def ticks(most: float) -> list[float]:
    """Four to eight round numbers from 0 to at least `most`."""
    if not most > 0 or not math.isfinite(most):
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(most / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if most / (step * factor) <= 7)
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]


def number(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"


def frame(title: str, unit: str, scale: list[float]) -> tuple[list[str], float]:
    """The panel's title, its vertical axis with `unit`, and pixels for each of them."""
    height = HIGH - TOP - BOTTOM
    each = height / scale[-1]
    out = [word(WIDE / 2, 16, title, size=13), word(14, TOP + height / 2, unit, turn=-90)]
    for value in scale:
        y = HIGH - BOTTOM - value * each
        out += [line(LEFT, y, WIDE - RIGHT, y), word(LEFT - 5, y + 4, number(value), "end", 10)]
    return out, each


def bars(title: str, unit: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> Panel:
    """A bar for each series in each group; None leaves a gap. A group's name may have two lines."""
    values = [v for each in series.values() for v in each if v is not None]
    out, each = frame(title, unit, ticks(max(values, default=0)))
    room = (WIDE - LEFT - RIGHT) / max(len(groups), 1)
    width = room * 0.8 / max(len(series), 1)
    for g, group in enumerate(groups):
        x = LEFT + g * room + room * 0.1
        for s, heights in enumerate(series.values()):
            value = heights[g]
            if value is not None:
                out.append(f'<rect x="{x + s * width:.1f}" y="{HIGH - BOTTOM - value * each:.1f}" width="{width * 0.94:.1f}" '
                           f'height="{value * each:.1f}" fill="{COLORS[s % len(COLORS)]}"><title>{value:.4g}</title></rect>')
        for i, part in enumerate(group.split("\n")):
            out.append(word(LEFT + (g + 0.5) * room, HIGH - BOTTOM + 14 + 12 * i, part, size=10))
    return Panel("".join(out), list(series))


def lines(title: str, unit: str, axis: str, series: Mapping[str, Sequence[Point]], logarithmic: bool = False) -> Panel:
    """Points by x, which `axis` names; a logarithmic x shows the values that there are."""
    points = [p for each in series.values() for p in each]
    out, each = frame(title, unit, ticks(max((y for _, y in points), default=0)))
    xs = sorted({x for x, _ in points}) or [0.0]
    low, high = (math.log10(max(xs[0], 1)), math.log10(max(xs[-1], 10))) if logarithmic else (0.0, ticks(xs[-1])[-1])

    def at(x: float) -> float:
        share = ((math.log10(max(x, 1)) if logarithmic else x) - low) / (high - low) if high > low else 0.5
        return LEFT + 10 + share * (WIDE - LEFT - RIGHT - 20)
    for x in xs if logarithmic else ticks(xs[-1]):
        out.append(word(at(x), HIGH - BOTTOM + 14, number(x), size=10))
    out.append(word(LEFT + (WIDE - LEFT - RIGHT) / 2, HIGH - BOTTOM + 30, axis))
    for s, one in enumerate(series.values()):
        color = COLORS[s % len(COLORS)]
        way = " ".join(f"{at(x):.1f},{HIGH - BOTTOM - y * each:.1f}" for x, y in one)
        out.append(f'<polyline points="{way}" fill="none" stroke="{color}" stroke-width="2"/>')
        if len(one) <= 12:
            out += [f'<circle cx="{at(x):.1f}" cy="{HIGH - BOTTOM - y * each:.1f}" r="3" fill="{color}"/>' for x, y in one]
    return Panel("".join(out), list(series))


def legend(names: Sequence[str]) -> str:
    out, x, y = [], float(LEFT), HIGH - 16.0
    for s, name in enumerate(names):
        need = 24 + 6.2 * len(name)
        if x + need > WIDE and x > LEFT:
            x, y = float(LEFT), y + 13
        out.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" fill="{COLORS[s % len(COLORS)]}"/>')
        out.append(word(x + 14, y, name, "start", 10))
        x += need
    return "".join(out)


def page(panels: Sequence[Panel], across: int = 2) -> str:
    """The panels in rows."""
    rows = -(-len(panels) // across)
    wide, high = WIDE * min(across, max(len(panels), 1)), HIGH * max(rows, 1)
    body = "".join(f'<g transform="translate({i % across * WIDE} {i // across * HIGH})">{panel.body}{legend(panel.names)}</g>\n'
                   for i, panel in enumerate(panels))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" '
            f'font-family="sans-serif" fill="#222"><rect width="{wide}" height="{high}" fill="#fff"/>\n{body}</svg>\n')
