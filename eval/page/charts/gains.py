"""A forest plot: the mean difference of every (set, system) to the reference, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .axes import BELOW, Gain, axis_below, gain_places, gain_scale, interval, zero_line
from .scale import Scale, is_known
from .svg import SIZE, WIDTH, figure, fit, line, mark, nothing, stretch, target, width_of, words

_ROW = 56.0
# a verdict's shape and colour; another word, or none, is a soft circle
_LOOKS = {"better": ("up", "good"), "worse": ("down", "bad"), "no difference shown": ("bar", "soft")}


@dataclass(frozen=True)
class GainRow:
    """One row: a system on a set. `verdict` is said as it is, with a shape for the three known ones."""

    set: str
    system: str
    gain: Gain
    verdict: str = ""


def gains(rows: Sequence[GainRow], *, title: str, x_label: str, caption: str = "") -> str:
    """Rows from top to bottom as given; names and verdicts above each interval, figures at its right.

    `x_label` says what differs, e.g. "nDCG@10 less base's".
    """
    if not rows:
        return nothing(title, caption, "There is nothing to compare.")
    found = [row.gain for row in rows]
    places = gain_places(found)
    scale = gain_scale(found, places)
    names = _names(rows)
    foot = _ROW * len(rows) + 2
    out = axis_below(scale, foot, x_label, 4)
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        out += _row(row, name, _ROW * i, scale, places)
    said = " ".join(f"{_said(row, name, places)}." for row, name in zip(rows, names, strict=True))
    return figure(out, foot + BELOW, title, f"{x_label}: mean and 95 % interval. {said}", caption)


def _names(rows: Sequence[GainRow]) -> list[str]:
    """The set alone where there is only one system."""
    several = len({row.system for row in rows}) > 1
    return [f"{row.set} · {row.system}" if several else row.set for row in rows]


def _said(row: GainRow, name: str, places: int) -> str:
    return f"{name}: {row.gain.in_words(places)}" + (f", {row.verdict}" if row.verdict else "")


def _row(row: GainRow, name: str, top: float, scale: Scale, places: int) -> list[str]:
    shape, colour = _LOOKS.get(row.verdict, ("circle", "soft"))
    base, middle = top + SIZE + 3, top + 37
    out = [zero_line(scale, middle - 12, middle + 12)]
    if top:
        out.append(line(stretch(0, top, WIDTH, top), "line"))
    if row.verdict:
        verdict = fit(row.verdict, 190)
        left = WIDTH - width_of(verdict)
        out += [
            mark(shape, left - 12, base - 5, colour),
            words(WIDTH, base, verdict, "ink", anchor="end"),
        ]
    else:
        left = WIDTH
    out.append(words(0, base, fit(name, left - 30), "ink"))
    out += interval(scale, middle, row.gain, colour)
    if row.gain.value is not None and is_known(row.gain.value):
        out.append(mark(shape, scale.at(row.gain.value), middle, colour, radius=6))
    out.append(words(WIDTH, middle + 5, row.gain.in_words(places), anchor="end"))
    out.append(target(0, top, WIDTH, _ROW, _said(row, name, places)))
    return out
