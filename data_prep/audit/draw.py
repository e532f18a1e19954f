"""Histograms as small SVGs: positives above, negatives below, on one axis of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from bgetune.html.ticks import nice_step
from bgetune.html.words import number

from .facts import finite
from .words import median

_WIDTH, _LEFT, _RIGHT = 360, 40, 8
_TOP, _TALL, _GAP = 20, 72, 30  # first panel's top, a panel's height, room between them for the second's name
_BINS = 36


@dataclass(frozen=True)
class Bins:
    """Edges [n + 1] and how many scores of each kind lie between them [n]."""

    edges: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def make_bins(positives: np.ndarray, negatives: np.ndarray) -> Bins | None:
    """Both kinds in the same bins of round width; None where there is no score at all.

    >>> bins = make_bins(np.array([0.9]), np.array([0.0, 0.9, np.nan]))
    >>> len(bins.edges), int(bins.positives.sum()), int(bins.negatives.sum())
    (19, 1, 2)
    """
    sides = finite(positives), finite(negatives)
    both = np.concatenate(sides)
    if not len(both):
        return None
    low, high = float(both.min()), float(both.max())
    size = max(abs(low), abs(high))
    if high - low <= 1e-6 * size or size < 1e-30:  # all the same, as far as float32 can tell
        room = 0.05 * size if size > 1e-30 else 0.5
        low, high = low - room, high + room
    step = nice_step(high - low, _BINS)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    edges = np.arange(first, last + 1) * step
    # an edge is a rounded product: the outermost scores may lie a hair beyond
    held = [np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0] for side in sides]
    return Bins(edges, held[0], held[1])


def in_words(bins: Bins, positives: np.ndarray, negatives: np.ndarray) -> str:
    """What the picture shows, for those who do not see it."""
    ends = f"{number(float(bins.edges[0]))} to {number(float(bins.edges[-1]))}"
    parts = []
    for name, scores in (("positive", positives), ("negative", negatives)):
        n, middle = len(finite(scores)), number(median(scores))
        parts.append(f"{n:,} {name} scores" + (f" with median {middle}" if n else ""))
    return f"Histogram of scores from {ends}: {parts[0]}; {parts[1]}."


def histogram_svg(bins: Bins, positives: np.ndarray, negatives: np.ndarray) -> str:
    """Two panels, each with its own scale of counts, above one axis."""
    height = _TOP + 2 * _TALL + _GAP + 20
    foot = _TOP + 2 * _TALL + _GAP
    out = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(in_words(bins, positives, negatives))}">'
    ]
    for at, text in _ticks(bins.edges):
        x = _x(at, bins.edges)
        out.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{foot}"/>')
        anchor = "end" if x + 3 * len(text) > _WIDTH else "middle"  # half a digit is 3 wide
        out.append(f'<text x="{x:.1f}" y="{foot + 14}" text-anchor="{anchor}">{text}</text>')
    out += _panel("positives", bins.edges, bins.positives, positives, _TOP)
    out += _panel("negatives", bins.edges, bins.negatives, negatives, _TOP + _TALL + _GAP)
    return "".join([*out, "</svg>"])


def _x(score: float, edges: np.ndarray) -> float:
    low, high = float(edges[0]), float(edges[-1])
    return _LEFT + (score - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)


def _ticks(edges: np.ndarray) -> Sequence[tuple[float, str]]:
    low, high = float(edges[0]), float(edges[-1])
    step = nice_step(high - low, 6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(k * step, _tick_text(k * step, step)) for k in range(first, last + 1)]


def _tick_text(value: float, step: float) -> str:
    """As many decimals as the step has.

    >>> _tick_text(0.3, 0.1), _tick_text(40.0, 10.0), _tick_text(3e7, 1e7)
    ('0.3', '40', '3e+07')
    """
    if abs(value) >= 1e6 or step < 1e-4:
        return f"{value:.6g}"
    return f"{value:.{max(0, -math.floor(math.log10(step)))}f}"


def _panel(name: str, edges: np.ndarray, counts: np.ndarray, scores: np.ndarray, top: float) -> list[str]:
    """One kind's bars, with its name, its number, its largest count and its median."""
    floor, most, middle = top + _TALL, int(counts.max()), median(scores)
    total = int(counts.sum())
    said = f"{name}: {total:,}" + ("" if middle is None else f", median {number(middle)}")
    out = [f'<text class="name" x="{_LEFT}" y="{top - 6}">{said}</text>']
    out.append(f'<path class="floor" d="M{_LEFT} {floor}H{_WIDTH - _RIGHT}"/>')
    if not most:
        return out
    out.append(f'<text x="{_LEFT - 5}" y="{top + 9}" text-anchor="end">{_short(most)}</text>')
    out.append(f'<text x="{_LEFT - 5}" y="{floor}" text-anchor="end">0</text>')
    for i in np.flatnonzero(counts).tolist():
        x, right = _x(edges[i], edges), _x(edges[i + 1], edges)
        tall = max(1.0, counts[i] / most * _TALL)  # a single score among thousands is still seen
        out.append(
            f'<rect class="{name}" x="{x:.1f}" y="{floor - tall:.1f}" width="{right - x - 0.5:.1f}" '
            f'height="{tall:.1f}"><title>{bin_name(edges, i)}: {counts[i]:,}</title></rect>'
        )
    if middle is not None:
        out.append(f'<path class="median" d="M{_x(middle, edges):.1f} {top}V{floor}"/>')
    return out


def bin_name(edges: np.ndarray, i: int) -> str:
    """The bounds of a bin, with the digits that tell it from the next.

    >>> bin_name(np.array([0.0, 0.02, 0.04]), 1)
    '0.02 to 0.04'
    """
    return f"{_tick_text(float(edges[i]), step := _width(edges))} to {_tick_text(float(edges[i + 1]), step)}"


def _width(edges: np.ndarray) -> float:
    return float(edges[1] - edges[0])


def _short(amount: int) -> str:
    """A count in at most five characters.

    >>> _short(9999), _short(12_345), _short(2_500_000)
    ('9,999', '12k', '2.5M')
    """
    if amount < 10_000:
        return f"{amount:,}"
    return f"{amount / 1e6:.1f}M" if amount >= 999_500 else f"{amount / 1000:.0f}k"
