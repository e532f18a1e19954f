"""Quality against its price: bytes a passage, or milliseconds a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .axes import BELOW, axis_below, axis_left, left_room
from .scale import is_known, places_for, plain, round_scale, short, units, wide_scale
from .svg import (
    LINE,
    SIZE,
    WIDTH,
    Box,
    along,
    beside,
    box_of,
    figure,
    fit,
    free_spot,
    key,
    line,
    nothing,
    series_mark,
    width_of,
    words,
)

_TALL, _TICKS = 230.0, 5


@dataclass(frozen=True)
class Dot:
    """One choice: its price x, its quality y, the kind that gives it its shape, and its own name."""

    x: float | None
    y: float | None
    kind: str
    label: str


def scatter(
    dots: Sequence[Dot], *, title: str, x_label: str, y_label: str, log_x: bool = True, caption: str = ""
) -> str:
    """Dots, the best of them joined and named: no other is as good at a lower price, or better at the same.

    Unknown values, and prices at 0 or below on a logarithmic axis, are left out; the description says how many.
    """
    placed = [
        (float(dot.x), float(dot.y), dot)
        for dot in dots
        if dot.x is not None and dot.y is not None and is_known(dot.x) and is_known(dot.y) and (dot.x > 0 or not log_x)
    ]
    if not placed:
        return nothing(title, caption, "There is nothing to draw.")
    x_label += " (log scale)" if log_x else ""
    kinds = list(dict.fromkeys(dot.kind for _, _, dot in placed))
    out, top = key(kinds, 0, lines=False, marks=True)
    roof = top + LINE + 12
    foot = roof + _TALL
    y = round_scale([value for _, value, _ in placed], foot, roof, _TICKS)
    left = left_room(y, _TICKS)
    x = wide_scale([price for price, _, _ in placed], left + 14, WIDTH - 14, log_x)
    out.append(words(0, top + SIZE, fit(y_label, WIDTH)))
    out += [*axis_left(y, left, WIDTH, _TICKS), *axis_below(x, foot, x_label)]
    best = pareto([(price, value) for price, value, _ in placed])
    spots = [(x.at(price), y.at(value)) for price, value, _ in placed]
    front = _steps([spots[i] for i in best])
    out.append(line("M" + "L".join(f"{units(a)} {units(b)}" for a, b in front), "soft", 1.5, "4 4"))
    places = places_for(value for _, value, _ in placed)
    for price, value, dot in placed:
        said = f"{dot.kind} {dot.label}: {plain(value, places)} at {short(price)} ({x_label})"
        out.append(series_mark(kinds.index(dot.kind), x.at(price), y.at(value), said, 6))
    out += _names([(*spots[i], placed[i][2].label) for i in best], front, spots, (left, roof - 8, WIDTH, foot))
    described = f"{y_label} by {x_label}, {len(placed):,} points. Best for their price: " + "; ".join(
        f"{placed[i][2].kind} {placed[i][2].label}, {plain(placed[i][1], places)} at {short(placed[i][0])}"
        for i in best
    )
    gone = len(dots) - len(placed)
    missing = f" {gone:,} without a value that can be drawn." if gone else ""
    return figure(out, foot + BELOW, title, f"{described}.{missing}", caption)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points are best for their price (x): no other has at least that y at a lower x, nor more at the same.

    >>> pareto([(1, 0.5), (2, 0.4), (3, 0.7), (3, 0.6), (4, 0.7)])
    [0, 2]
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    best: list[int] = []
    for i in order:
        if not best or points[i][1] > points[best[-1]][1]:
            best.append(i)
    return best


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of what can be had at most for each price.

    >>> _steps([(0, 9), (4, 5)])
    [(0, 9), (4, 9), (4, 5)]
    """
    corners = [points[0]]
    for x, y in points[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return corners


def _names(
    named: Sequence[tuple[float, float, str]],
    front: Sequence[tuple[float, float]],
    dots: Sequence[tuple[float, float]],
    bounds: Box,
) -> list[str]:
    """Names beside the best points, the dearest first, clear of dots and names, and of the steps if possible."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in dots]
    steps = along(front)
    out = []
    for x, y, label in reversed(named):
        text = fit(label, 160)
        wide = width_of(text)
        spots = beside(x, y, wide)
        spot = free_spot(spots, wide, [*taken, *steps], bounds) or free_spot(spots, wide, taken, bounds)
        if spot:
            out.append(words(*spot, text, "ink", halo=True))
            taken.append(box_of(spot, wide))
    return out
