"""Axes with ticks, and the rows of intervals that the charts of gains share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from .scale import Scale, is_known, known, places_for, round_scale, signed, ticks
from .svg import LINE, SIZE, WIDTH, fit, line, stretch, width_of, words

_LABEL_GAP = 10.0  # between two tick labels


@dataclass(frozen=True)
class Gain:
    """A mean difference to the reference with its 95 % interval; None where it is not known."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def in_words(self, places: int) -> str:
        """
        >>> Gain(0.0123, 0.001, 0.0236).in_words(3), Gain(0.5).in_words(2), Gain(None).in_words(3)
        ('+0.012 [+0.001, +0.024]', '+0.50', 'not known')
        """
        if not is_known(self.value):
            return "not known"
        mean = signed(self.value, places)
        if not (is_known(self.low) and is_known(self.high)):
            return mean
        return f"{mean} [{signed(self.low, places)}, {signed(self.high, places)}]"

    @property
    def sure(self) -> bool:
        """The interval is known and 0 is outside."""
        if self.low is None or self.high is None:
            return False
        return is_known(self.low) and is_known(self.high) and (self.low > 0 or self.high < 0)


def gain_places(gains: Iterable[Gain]) -> int:
    """Decimals for a column of gains."""
    return places_for(value for gain in gains for value in (gain.value, gain.low, gain.high))


def gain_scale(gains: list[Gain], places: int) -> Scale:
    """The scale of intervals, as wide as the longest figures at the right leave it; 0 is on it."""
    longest = max(width_of(gain.in_words(places)) for gain in gains)
    end = max(130.0, WIDTH - longest - 22)
    values = [value for gain in gains for value in (gain.value, gain.low, gain.high)]
    return round_scale(known(values), 10, end, 4, zero=True)


def interval(scale: Scale, y: float, gain: Gain, colour: str) -> list[str]:
    """The 95 % interval as a line with ends; nothing where it is not known."""
    if gain.low is None or gain.high is None or not (is_known(gain.low) and is_known(gain.high)):
        return []
    low, high = scale.at(gain.low), scale.at(gain.high)
    ends = stretch(low, y - 5, low, y + 5) + stretch(high, y - 5, high, y + 5)
    return [line(stretch(low, y, high, y) + ends, colour, 2)]


def zero_line(scale: Scale, top: float, foot: float) -> str:
    """Where there is no difference."""
    zero = scale.at(0.0)
    return line(stretch(zero, top, zero, foot), "soft", 1, "4 3")


def _fewer(scale: Scale, most: int) -> list[tuple[float, str]]:
    """As many ticks as their labels leave room for."""
    ways = [ticks(scale, wanted) for wanted in range(most, 0, -1)]
    ways += [[way[0], way[-1]] for way in ways if len(way) > 1]
    for way in ways:
        places = [(scale.at(value), width_of(text) / 2) for value, text in way]
        if len(way) > 1 and all(b[0] - a[0] >= a[1] + b[1] + _LABEL_GAP for a, b in pairwise(places)):
            return way
    return ways[0][:1]


def axis_below(scale: Scale, foot: float, label: str, most: int = 6) -> list[str]:
    """Ticks below a picture and what the axis shows; takes `BELOW`."""
    out = []
    for value, text in _fewer(scale, most):
        x = scale.at(value)
        out.append(line(stretch(x, foot, x, foot + 4), "soft"))
        half = width_of(text) / 2
        out.append(words(min(max(x, half), WIDTH - half), foot + SIZE + 5, text, anchor="middle"))
    out.append(line(stretch(scale.start, foot, scale.end, foot), "soft"))
    shown = fit(label, WIDTH)
    middle, half = (scale.start + scale.end) / 2, width_of(shown) / 2
    out.append(words(min(max(middle, half), WIDTH - half), foot + SIZE + 5 + LINE, shown, anchor="middle"))
    return out


BELOW = 2 * LINE + 10  # what `axis_below` takes


def left_room(scale: Scale, most: int) -> float:
    """What the tick labels at the left of a picture need."""
    return max(width_of(text) for _, text in ticks(scale, most)) + 8


def axis_left(scale: Scale, left: float, right: float, most: int) -> list[str]:
    """Ticks at the left with lines through the picture; the line of 0 is stronger."""
    out = []
    for value, text in ticks(scale, most):
        y = scale.at(value)
        out.append(line(stretch(left, y, right, y), "soft" if value == 0 else "line"))
        out.append(words(left - 6, y + 5, text, anchor="end"))
    return out
