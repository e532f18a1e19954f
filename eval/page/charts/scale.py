"""Numbers on an axis: where a value lies, round ticks, and how a number is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bgetune.html.ticks import nice_step

T = TypeVar("T")

_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on picture units from `start` to `end`; `end` < `start` for an axis that goes up.

    `step` is that of its ticks where both ends are ticks, else 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    step: float = 0.0

    def at(self, value: float) -> float:
        """Where a value lies, in picture units.

        >>> Scale(0.0, 2.0, 100.0, 0.0).at(0.5), Scale(1.0, 100.0, 0.0, 50.0, log=True).at(10.0)
        (75.0, 25.0)
        """
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def known(values: Iterable[float | None]) -> list[float]:
    """The finite ones.

    >>> known([1, None, float("nan"), float("inf"), -2.5])
    [1.0, -2.5]
    """
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def wide_scale(values: Iterable[float | None], start: float, end: float, log: bool = False) -> Scale:
    """A scale that ends at the outermost values; with `log`, of those above 0.

    >>> linear, log = wide_scale([3, 1, None], 0, 10), wide_scale([0, 10, 1000], 0, 1, log=True)
    >>> (linear.low, linear.high), (log.low, log.high)
    ((1.0, 3.0), (10.0, 1000.0))
    """
    if log:
        powers = [math.log10(value) for value in known(values) if value > 0]
        low, high = _apart(powers, 1.0)
        return Scale(float(f"{10**low:.12g}"), float(f"{10**high:.12g}"), start, end, log=True)
    return Scale(*_apart(known(values), 0.0), start, end)


def round_scale(values: Iterable[float | None], start: float, end: float, most: int, zero: bool = False) -> Scale:
    """A scale that begins and ends at a tick, of at most about `most`; with `zero`, 0 is on it.

    >>> round_scale([0.31, 0.48], 0, 10, 5)
    Scale(low=0.3, high=0.5, start=0, end=10, log=False, step=0.05)
    >>> round_scale([0.2], 0, 10, 5, zero=True).low, round_scale([], 0, 10, 5).high
    (0.0, 1.0)
    """
    found = known(values) + ([0.0] if zero else [])
    low, high = _apart(found, 0.0)
    step = nice_step(high - low, most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(_clean(first * step), _clean(max(last, first + 1) * step), start, end, step=step)


def _apart(values: Sequence[float], least: float) -> tuple[float, float]:
    """Lowest and highest, apart: room is made around values that are all the same; 0 to 1 where there are none."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)) or high - low < 1e-12:
        size = max(abs(low), abs(high))
        room = max(least, 0.05 * size if size > 1e-12 else 0.5)
        return low - room, high + room
    return low, high


def ticks(scale: Scale, most: int) -> list[tuple[float, str]]:
    """Round values on a scale with their words: at most `most` steps; on a log scale 1, 2, 5 or powers of ten.

    >>> ticks(Scale(0.28, 0.52, 0, 1), 4)
    [(0.3, '0.3'), (0.4, '0.4'), (0.5, '0.5')]
    >>> [text for _, text in ticks(Scale(40, 9000, 0, 1, log=True), 8)]
    ['50', '100', '200', '500', '1k', '2k', '5k']
    >>> [text for _, text in ticks(Scale(1, 1e6, 0, 1, log=True), 4)]
    ['1', '100', '10k', '1M']
    """
    if scale.log:
        return [(value, short(value)) for value in _log_ticks(scale.low, scale.high, most)]
    step = nice_step(scale.high - scale.low, most)
    if scale.step and (scale.high - scale.low) / scale.step <= most + 2:
        step = scale.step
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    values = [_clean(k * step) for k in range(first, last + 1)]
    return [(value, _tick_text(value, step, max(abs(values[0]), abs(values[-1])))) for value in values]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ways: list[list[float]] = [[m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]]
    ways += [[10.0**k for k in range(first, last + 1) if k % every == 0] for every in range(1, last - first + 2)]
    inside = [[_clean(v) for v in way if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)] for way in ways]
    return next((way for way in inside if len(way) <= most), inside[-1])


def _clean(value: float) -> float:
    """Without the dust of a product, and without a negative zero."""
    return float(f"{value:.12g}") + 0.0


def _tick_text(value: float, step: float, largest: float) -> str:
    """As many decimals as the step has; thousands as k where there are many.

    >>> _tick_text(0.30000001, 0.1, 1.0), _tick_text(-4000.0, 1000.0, 5000.0), _tick_text(12500.0, 500.0, 20000.0)
    ('0.3', '−4,000', '12.5k')
    """
    if not value:
        return "0"
    if step < 1e-6 or largest >= 1e13:
        return _minus(f"{value:.6g}")
    size, suffix = next(((s, word) for s, word in _SUFFIXES if largest >= 10 * s), (1.0, ""))
    places = max(0, -math.floor(math.log10(step / size) + 1e-9))
    return _minus(f"{value / size:,.{places}f}") + suffix


def short(value: float) -> str:
    """A number in about three digits, thousands as k, millions as M.

    >>> short(1536), short(0.02), short(250), short(3e6), short(-0.5)
    ('1.54k', '0.02', '250', '3M', '−0.5')
    """
    size, suffix = next(((s, word) for s, word in _SUFFIXES if abs(value) >= s), (1.0, ""))
    return _minus(f"{value / size:.3g}") + suffix


def places_for(values: Iterable[float | None]) -> int:
    """Decimals that tell such values apart: three, fewer for large numbers, more for tiny ones.

    >>> places_for([0.12, 0.003]), places_for([250.0]), places_for([0.0004]), places_for([])
    (3, 1, 5, 3)
    """
    largest = max((abs(value) for value in known(values)), default=0.0)
    if largest >= 10:
        return 1
    return 3 if largest < 1e-9 else min(6, max(3, 1 - math.floor(math.log10(largest))))


def plain(value: float | None, places: int) -> str:
    """
    >>> plain(0.81249, 3), plain(-2.0, 1), plain(None, 3), plain(-0.0001, 2)
    ('0.812', '−2.0', '–', '0.00')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1e5:
        return short(value)
    return _minus(f"{round(value, places) + 0.0:,.{places}f}")


def signed(value: float | None, places: int) -> str:
    """
    >>> signed(0.0123, 3), signed(-0.0123, 3), signed(0.00001, 3), signed(None, 3)
    ('+0.012', '−0.012', '0.000', '–')
    """
    text = plain(value, places)
    return f"+{text}" if value is not None and value > 0 and any(c in "123456789" for c in text) else text


def _minus(text: str) -> str:
    return text.replace("-", "−")


def thin(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, evenly picked, the first and the last among them.

    >>> thin(range(10), 4), thin([1, 2], 4), thin([1, 2, 3], 1)
    ([0, 3, 6, 9], [1, 2], [1])
    """
    n = len(items)
    if n <= most:
        return list(items)
    if most == 1:
        return [items[0]]
    return [items[i * (n - 1) // (most - 1)] for i in range(most)]


def units(value: float) -> str:
    """Picture units with at most two decimals.

    >>> units(3.0), units(0.126), units(-0.001)
    ('3', '0.13', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
