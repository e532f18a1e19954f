"""Each query's difference to the reference, from the most won to the most lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .axes import BELOW, axis_below, axis_left, left_room
from .scale import Scale, known, places_for, round_scale, signed, thin, units
from .svg import LINE, SIZE, WIDTH, figure, fit, nothing, target, words

_TALL, _GAP, _HEAD = 120.0, 16.0, 10.0
_TICKS = 4
_MOST = 400  # steps drawn
_TARGETS = 40  # boxes that say a value


@dataclass(frozen=True)
class Counts:
    """On how many queries a system is better than the reference, worse, and neither."""

    won: int
    lost: int
    tied: int

    @property
    def total(self) -> int:
        return self.won + self.lost + self.tied

    def in_words(self) -> str:
        """
        >>> Counts(1200, 3, 0).in_words()
        '1,200 won, 3 lost, 0 tied'
        """
        return f"{self.won:,} won, {self.lost:,} lost, {self.tied:,} tied"


def differences(
    series: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    reference: str,
    metric: str,
    counts: Mapping[str, Counts] | None = None,
    caption: str = "",
) -> str:
    """A panel for each system, all with the same axis of differences.

    Args:
        series: system -> differences in any order; of many at most 400, evenly picked, are drawn.
        counts: the exact ones of each system where `series` holds only a part; else they are counted.
    """
    panels = {system: sorted(known(values), reverse=True) for system, values in series.items()}
    panels = {system: values for system, values in panels.items() if values}
    if not panels:
        return nothing(title, caption, "There are no queries to compare.")
    exact = {system: (counts or {}).get(system) or _count(values) for system, values in panels.items()}
    everything = [value for values in panels.values() for value in values]
    places, y_scale = places_for(everything), round_scale(everything, 0, 0, _TICKS, zero=True)
    left = left_room(y_scale, _TICKS)
    out, top = [words(0, SIZE, fit(f"{metric} less {reference}'s", WIDTH))], LINE + 6
    for system, values in panels.items():
        x_scale = Scale(0.0, float(exact[system].total), left, WIDTH - 4)
        out += _panel(system, values, exact[system], top, x_scale, y_scale, reference, places)
        foot = top + LINE + _HEAD + _TALL
        out += axis_below(x_scale, foot, "queries, the most won first", min(5, exact[system].total))
        top = foot + BELOW + _GAP
    said = " ".join(
        f"{system}: {exact[system].in_words()}, from {signed(values[0], places)} to {signed(values[-1], places)}."
        for system, values in panels.items()
    )
    described = f"Difference in {metric} to {reference} for each query, from the most won to the most lost. {said}"
    return figure(out, top - _GAP, title, described, caption)


def _count(values: Sequence[float]) -> Counts:
    won, lost = sum(value > 1e-9 for value in values), sum(value < -1e-9 for value in values)
    return Counts(won, lost, len(values) - won - lost)


def _panel(
    system: str,
    values: Sequence[float],
    counts: Counts,
    top: float,
    x_scale: Scale,
    y_scale: Scale,
    reference: str,
    places: int,
) -> list[str]:
    """The system's name with its counts, and below it what it won above 0 and what it lost under 0."""
    roof, foot = top + LINE + _HEAD, top + LINE + _HEAD + _TALL
    y = replace(y_scale, start=foot, end=roof)
    said = counts.in_words()
    out = [words(0, top + SIZE, fit(f"{system}: {said}", WIDTH), "ink")]
    out += axis_left(y, x_scale.start, x_scale.end, _TICKS)
    steps = thin(values, _MOST)
    wide = (x_scale.end - x_scale.start) / len(steps)
    for colour, side in (("good", [max(v, 0.0) for v in steps]), ("bad", [min(v, 0.0) for v in steps])):
        if any(side):
            path = _steps(side, x_scale.start, wide, y)
            out.append(f'<path d="{path}" fill="var(--{colour})" fill-opacity="0.75"/>')
    # sorted, the picture is empty at the top right and at the bottom left
    if 0 < counts.won <= counts.total / 2:
        out.append(words(x_scale.end, roof + SIZE, fit(f"better than {reference}", 200), anchor="end", halo=True))
    if 0 < counts.lost <= counts.total / 2 and y.low < 0:
        out.append(words(x_scale.start + 4, foot - 5, fit(f"worse than {reference}", 200), halo=True))
    return out + _targets(steps, counts.total, wide, x_scale.start, roof, places)


def _steps(values: Sequence[float], left: float, wide: float, y: Scale) -> str:
    """The outline of an area between a line of steps and 0; equal neighbours are one step."""
    parts = [f"M{units(left)} {units(y.at(0.0))}"]
    for i, value in enumerate(values):
        if i == 0 or value != values[i - 1]:
            parts.append(f"V{units(y.at(value))}")
        if i + 1 == len(values) or value != values[i + 1]:
            parts.append(f"H{units(left + wide * (i + 1))}")
    return "".join(parts) + f"V{units(y.at(0.0))}Z"


def _targets(steps: Sequence[float], total: int, wide: float, left: float, roof: float, places: int) -> list[str]:
    """Boxes over the picture that say which queries lie there and what they gained."""
    each = -(-len(steps) // _TARGETS)
    out = []
    for start in range(0, len(steps), each):
        part = steps[start : start + each]
        first, last = 1 + start * total // len(steps), (start + len(part)) * total // len(steps)
        which = f"query {first:,}" if last <= first else f"queries {first:,} to {last:,}"
        ends = [signed(part[0], places), signed(part[-1], places)]
        value = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
        out.append(target(left + wide * start, roof, wide * len(part), _TALL, f"{which}: {value}"))
    return out
