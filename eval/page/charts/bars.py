"""Slices of a set: a bar for the gain of each group of queries, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .axes import BELOW, Gain, axis_below, gain_places, gain_scale, interval, zero_line
from .scale import Scale, is_known, units
from .svg import LINE, SIZE, WIDTH, figure, fit, line, nothing, stretch, target, tip, width_of, words

_BAR, _ROW, _GAP = 14.0, 26.0, 12.0


@dataclass(frozen=True)
class BarGroup:
    """Queries that have something in common; `gains` are those of the systems, by name."""

    label: str
    n_queries: int
    gains: Mapping[str, Gain]


def bars(groups: Sequence[BarGroup], *, title: str, x_label: str, caption: str = "") -> str:
    """Groups from top to bottom as given, a bar for each system.

    A bar is full where its interval leaves 0 out, hollow where it does not; systems are named where there are several.
    """
    found = [gain for group in groups for gain in group.gains.values()]
    if not found:
        return nothing(title, caption, "There are no groups of queries to compare.")
    places = gain_places(found)
    scale = gain_scale(found, places)
    several = len({system for group in groups for system in group.gains}) > 1
    out, top = [], 0.0
    for group in groups:
        pieces, top = _group(group, top, scale, places, several)
        out += pieces
    out += axis_below(scale, top, x_label, 4)
    said = " ".join(_said(group, places, several) for group in groups)
    looks = "Full bars: the 95 % interval leaves 0 out; hollow bars: it does not."
    return figure(out, top + BELOW, title, f"{x_label}, with 95 % interval. {said}", f"{caption} {looks}".strip())


def _queries(amount: int) -> str:
    return f"{amount:,} {'query' if amount == 1 else 'queries'}"


def _said(group: BarGroup, places: int, several: bool) -> str:
    parts = [(f"{system} " if several else "") + gain.in_words(places) for system, gain in group.gains.items()]
    return f"{group.label}, {_queries(group.n_queries)}: {', '.join(parts) or 'not known'}."


def _group(group: BarGroup, top: float, scale: Scale, places: int, several: bool) -> tuple[list[str], float]:
    """The group's pieces and where the next one begins."""
    amount = _queries(group.n_queries)
    rule = [line(stretch(0, top - _GAP / 2, WIDTH, top - _GAP / 2), "line")] if top else []
    out = [
        *rule,
        words(0, top + SIZE, fit(group.label, WIDTH - width_of(amount) - 20), "ink"),
        words(WIDTH, top + SIZE, amount, anchor="end"),
    ]
    top += LINE + 2
    for system, gain in group.gains.items():
        if several:
            out.append(words(10, top + SIZE, fit(system, WIDTH - 20)))
            top += LINE
        out += _bar(gain, top, scale, places)
        out.append(target(0, top, WIDTH, _ROW, f"{group.label}, {system}: {gain.in_words(places)} ({amount})"))
        top += _ROW
    return out, top + _GAP


def _bar(gain: Gain, top: float, scale: Scale, places: int) -> list[str]:
    middle = top + _ROW / 2 - 2
    out = [zero_line(scale, top, top + _ROW - 4)]
    if gain.value is not None and is_known(gain.value):
        colour = "soft" if not gain.sure else "good" if gain.value > 0 else "bad"
        ends = sorted((scale.at(0.0), scale.at(gain.value)))
        fill = f'fill="var(--{colour})"' if gain.sure else 'fill="var(--surface)"'
        out.append(
            f'<rect x="{units(ends[0])}" y="{units(middle - _BAR / 2)}" width="{units(ends[1] - ends[0])}" '
            f'height="{units(_BAR)}" {fill} stroke="var(--{colour})" stroke-width="1.5">'
            f"{tip(gain.in_words(places))}</rect>"
        )
    out += interval(scale, middle, gain, "ink")
    out.append(words(WIDTH, middle + 5, gain.in_words(places), anchor="end"))
    return out
