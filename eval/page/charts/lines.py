"""Curves: training loss, dev metrics by step, and quality by share of the tuned weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .axes import BELOW, axis_below, axis_left, left_room
from .scale import Scale, is_known, known, places_for, plain, round_scale, short, thin, units, wide_scale
from .svg import (
    LINE,
    SIZE,
    WIDTH,
    Spot,
    along,
    beside,
    box_of,
    figure,
    fit,
    free_spot,
    key,
    line,
    nothing,
    series_colour,
    series_dash,
    series_mark,
    stretch,
    target,
    tip,
    width_of,
    words,
)

_TALL, _TICKS = 210.0, 5
_MOST = 300  # points a series
_MARKED = 24  # points: where no series has more, each is marked
_SAID = 60  # points a series that say their value where they are not marked

Point = tuple[float, "float | None"]


@dataclass(frozen=True)
class Mark:
    """Something to point out: a level (only y), a place on the x axis (only x), or a point (both)."""

    text: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class _Plot:
    x: Scale
    y: Scale
    roof: float
    foot: float
    x_label: str
    places: int
    marked: bool


def lines(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    marks: Sequence[Mark] = (),
    caption: str = "",
) -> str:
    """Series of (x, y) in the order of x; a y of None is a gap. Of many points 300, evenly picked, are drawn.

    On a logarithmic axis points at 0 or below are left out, and the description says how many.
    """
    x_label += " (log scale)" if log_x else ""
    drawn = {name: _usable(points, log_x) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if known(y for _, y in points)}
    if not drawn:
        return nothing(title, caption, "There is nothing to draw.")
    marks = [one for one in marks if _has_place(one, log_x)]
    plot, out = _frame(drawn, x_label, y_label, log_x, marks)
    out += [_curve(i, points, plot) for i, points in enumerate(drawn.values())]
    for i, (name, points) in enumerate(drawn.items()):
        out += _points(i, name, points, plot)
    out += _marks(marks, drawn.values(), plot)
    said = " ".join(_said(name, points, plot) for name, points in drawn.items())
    pointed = "".join(f" Marked: {one.text}." for one in marks)
    left_out = sum(log_x and x <= 0 for points in series.values() for x, _ in points)
    missing = f" Left out, at 0 or below: {left_out:,}." if left_out else ""
    described = f"{y_label} by {x_label}. {said}{pointed}{missing}"
    return figure(out, plot.foot + BELOW, title, described, caption)


def _usable(points: Sequence[Point], log_x: bool) -> list[Point]:
    """Those with a place on the x axis, sorted and thinned; an unknown y is None."""
    kept = [(float(x), y if is_known(y) else None) for x, y in points if is_known(x) and (x > 0 or not log_x)]
    return thin(sorted(kept, key=lambda point: point[0]), _MOST)


def _has_place(one: Mark, log_x: bool) -> bool:
    given = [value for value in (one.x, one.y) if value is not None]
    return bool(given) and all(map(is_known, given)) and not (log_x and one.x is not None and one.x <= 0)


def _frame(
    drawn: Mapping[str, Sequence[Point]], x_label: str, y_label: str, log_x: bool, marks: Sequence[Mark]
) -> tuple[_Plot, list[str]]:
    """The key, both axes, and the scales."""
    marked = max(len(points) for points in drawn.values()) <= _MARKED
    out, top = key(list(drawn), 0, lines=True, marks=marked)
    ys = known([y for points in drawn.values() for _, y in points] + [one.y for one in marks])
    xs = known([x for points in drawn.values() for x, _ in points] + [one.x for one in marks])
    roof = top + LINE + 12
    foot = roof + _TALL
    y = round_scale(ys, foot, roof, _TICKS)
    left = left_room(y, _TICKS)
    x = wide_scale(xs, left + 8, WIDTH - 10, log_x)
    out.append(words(0, top + SIZE, fit(y_label, WIDTH)))
    out += axis_left(y, left, WIDTH, _TICKS)
    out += axis_below(x, foot, x_label)
    return _Plot(x, y, roof, foot, x_label, places_for(ys), marked), out


def _runs(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """Stretches without a gap.

    >>> _runs([(0, 1.0), (1, None), (2, 3.0), (3, 4.0)])
    [[(0, 1.0)], [(2, 3.0), (3, 4.0)]]
    """
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _curve(i: int, points: Sequence[Point], plot: _Plot) -> str:
    path = "".join(
        "M" + "L".join(f"{units(plot.x.at(x))} {units(plot.y.at(y))}" for x, y in run) for run in _runs(points)
    )
    return line(path, series_colour(i), 2, series_dash(i))


def _points(i: int, name: str, points: Sequence[Point], plot: _Plot) -> list[str]:
    """Marks that say their value; where there are too many, unseen targets, and marks for lone points only."""
    found = [(x, y) for run in _runs(points) for x, y in run]
    alone = {run[0] for run in _runs(points) if len(run) == 1}
    shown = found if plot.marked else sorted({*thin(found, _SAID), *alone})
    out = []
    for x, y in shown:
        said = f"{name}: {plain(y, plot.places)} at {plot.x_label} {short(x)}"
        if plot.marked or (x, y) in alone:
            out.append(series_mark(i, plot.x.at(x), plot.y.at(y), said))
        else:
            out.append(target(plot.x.at(x) - 4, plot.y.at(y) - 6, 8, 12, said))
    return out


def _marks(marks: Sequence[Mark], drawn: Iterable[Sequence[Point]], plot: _Plot) -> list[str]:
    """Lines and rings for what is pointed out, each with its words, off the curves where there is room."""
    runs = [[(plot.x.at(x), plot.y.at(y)) for x, y in run] for points in drawn for run in _runs(points)]
    taken = [box for run in runs for box in along([run[0], *run])]
    bounds = (plot.x.start - 8, plot.roof - 6, WIDTH, plot.foot)
    out: list[str] = []
    for one in marks:
        text = fit(one.text, (bounds[2] - bounds[0]) * 0.8)
        wide = width_of(text)
        shape, spots = _pointed(one, wide, plot)
        spot = free_spot(spots, wide, taken, bounds) or (min(max(0.0, spots[0][0]), WIDTH - wide), spots[0][1])
        taken.append(box_of(spot, wide))
        out += [shape, words(*spot, text, "ink", halo=True)]
    return out


def _pointed(one: Mark, wide: float, plot: _Plot) -> tuple[str, list[Spot]]:
    """The line or ring, and where its words may stand."""
    left, right = plot.x.start - 8, WIDTH
    if one.x is None:
        assert one.y is not None
        y = plot.y.at(one.y)
        starts = (right - wide, left + 4, (left + right - wide) / 2)
        spots = [(start, base) for start in starts for base in (y - 6, y + SIZE + 2)]
        return line(stretch(left, y, right, y), "ink", 1.5, "6 4"), spots
    x = plot.x.at(one.x)
    if one.y is None:
        inside = [start for start in (x + 6, x - 6 - wide) if left <= start <= right - wide] or [left]
        bases = (plot.roof + SIZE, plot.foot - 6, (plot.roof + plot.foot) / 2)
        return line(stretch(x, plot.roof, x, plot.foot), "ink", 1.5, "3 3"), [(a, b) for b in bases for a in inside]
    y = plot.y.at(one.y)
    ring = f'<circle cx="{units(x)}" cy="{units(y)}" r="9" fill="none" stroke="var(--ink)" stroke-width="2">'
    return f"{ring}{tip(one.text)}</circle>", beside(x, y, wide, 13)


def _said(name: str, points: Sequence[Point], plot: _Plot) -> str:
    """The first, last, lowest and highest value of a series."""
    found = [(x, y) for x, y in points if y is not None]
    first, last = found[0], found[-1]
    if len(found) == 1:
        return f"{name}: {plain(first[1], plot.places)} at {short(first[0])}."
    low, high = min(y for _, y in found), max(y for _, y in found)
    return (
        f"{name}: from {plain(first[1], plot.places)} at {short(first[0])} to {plain(last[1], plot.places)} at "
        f"{short(last[0])}, lowest {plain(low, plot.places)}, highest {plain(high, plot.places)}."
    )
