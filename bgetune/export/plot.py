"""The picture of a model card: what was gained on each set, with 95 % intervals. One SVG, the same bytes every time.

An SVG needs no plotting library, stays sharp, and the Hub and GitHub show one that a card names. They show it as an
image: no style sheet and no page's colours reach it, so its ground is its own and light, whatever surrounds it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from bgetune.config import HEADS
from bgetune.files import write_text
from bgetune.html.style import TOKENS
from bgetune.html.ticks import nice_step
from bgetune.metrics import DECIDING

PLOT_FILE = "gains.svg"

_WIDTH, _LEFT, _RIGHT = 880.0, 214.0, 236.0  # of the picture, its labels, its figures
_MARGIN, _HEAD, _SET, _ROW, _GAP, _FOOT = 28.0, 84.0, 30.0, 26.0, 14.0, 84.0
_MOST_ROWS = 24
_SAID = "mean and 95 % interval over test queries; full dots: the interval leaves 0 out and corrected p is below 0.05"
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
_COLOURS = {name: light for name, (light, _) in TOKENS.items()}


@dataclass(frozen=True)
class Row:
    """One retriever on one set: nDCG@10 of this model less its base's."""

    retriever: str
    decides: bool
    """The verdict on the set is about it."""
    gain: float
    low: float
    high: float
    p: float
    """Corrected for the number of sets."""

    @property
    def colour(self) -> str:
        """The report's verdict: better or worse only with an interval without 0 and p below 0.05.

        >>> Row("dense", True, 0.05, 0.01, 0.09, 0.001).colour, Row("dense", True, 0.05, -0.01, 0.11, 0.09).colour
        ('good', 'soft')
        """
        if self.p >= 0.05 or self.low <= 0 <= self.high:
            return "soft"
        return "good" if self.low > 0 else "bad"


def write_plot(path: Path, report: Mapping[str, Any]) -> None:
    """Draw report.json's gains, of the last system against the first."""
    write_text(path, gains_plot(report))


def gains_plot(report: Mapping[str, Any]) -> str:
    """The SVG. The deciding retriever of each set comes first and is drawn stronger; others where they can be read."""
    sets = {name: _rows(report, found) for name, found in report["sets"].items()}
    for kept in (("all",), HEADS, ()):
        chosen = {
            n: [r for r in rows if r.decides or kept == ("all",) or r.retriever in kept] for n, rows in sets.items()
        }
        if sum(map(len, chosen.values())) <= _MOST_ROWS:
            break
    return _draw(chosen, report["sets"])


def _rows(report: Mapping[str, Any], found: Mapping[str, Any]) -> list[Row]:
    ours = list(report["systems"])[-1]
    rows = []
    for retriever, gains in found["gains"].items():
        if gain := gains.get(ours, {}).get(DECIDING):
            low, high = gain["ci95"]
            rows.append(Row(retriever, retriever == found["decided_by"], gain["abs"], low, high, gain["p_holm"]))
    return sorted(rows, key=lambda row: not row.decides)


@dataclass(frozen=True)
class _Axis:
    """From gains to picture units; both ends are ticks, and 0 is on it."""

    first: int
    last: int
    step: float

    def at(self, value: float) -> float:
        start, end = _MARGIN + _LEFT, _WIDTH - _MARGIN - _RIGHT
        return start + (value / self.step - self.first) / (self.last - self.first) * (end - start)

    def ticks(self) -> Iterator[tuple[float, str]]:
        places = next(n for n in count() if abs(round(self.step, n) - self.step) < 1e-12)
        for k in range(self.first, self.last + 1):
            yield self.at(k * self.step), "0" if k == 0 else _minus(f"{k * self.step:+.{places}f}")


def _axis(rows: list[Row]) -> _Axis:
    """
    >>> _axis([Row("dense", True, 0.05, 0.01, 0.09, 0.001)])
    _Axis(first=0, last=5, step=0.02)
    """
    values = [0.0, *(value for row in rows for value in (row.gain, row.low, row.high))]
    low, high = min(values), max(values)
    if high - low < 1e-6:  # nothing differs
        low, high = -0.01, 0.01
    step = nice_step(high - low, 5)
    below = sum(1 for _ in takewhile(lambda k: -k * step > low + 1e-12, count()))
    above = sum(1 for _ in takewhile(lambda k: k * step < high - 1e-12, count()))
    return _Axis(-below, above, step)


def _draw(sets: Mapping[str, list[Row]], report_sets: Mapping[str, Any]) -> str:
    axis = _axis([row for rows in sets.values() for row in rows])
    top, parts, said = _MARGIN + _HEAD, [], []
    for name, rows in sets.items():
        parts += _set(name, report_sets[name], rows, top, axis)
        said += [f"{name}, {row.retriever}: {_figures(row)}." for row in rows]
        top += _SET + _ROW * len(rows) + _GAP
    foot = top - _GAP + 6
    height = foot + _FOOT
    body = [
        *_ground(height),
        *_grid(axis, foot),
        *parts,
        *_key(foot + 52, any(len(rows) > 1 for rows in sets.values())),
    ]
    title = "Gain in nDCG@10 over the base model"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_units(_WIDTH)} {_units(height)}" '
        f'width="{_units(_WIDTH)}" height="{_units(height)}" role="img" font-family="{_FONT}">\n'
        f"<title>{title}</title>\n<desc>{_safe(' '.join(said))}</desc>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _ground(height: float) -> list[str]:
    return [
        f'<rect x="0.5" y="0.5" width="{_units(_WIDTH - 1)}" height="{_units(height - 1)}" rx="10" '
        f'fill="{_COLOURS["page"]}" stroke="{_COLOURS["line"]}"/>',
        _text(_MARGIN, _MARGIN + 18, "Gain in nDCG@10 over the base model", "ink", 20, bold=True),
        _text(_MARGIN, _MARGIN + 42, _SAID, "soft", 14),
    ]


def _grid(axis: _Axis, foot: float) -> list[str]:
    top, parts = _MARGIN + _HEAD - 12, []
    for x, label in axis.ticks():
        zero = label == "0"
        parts.append(_line(x, top, x, foot, "control" if zero else "line", 1.5 if zero else 1))
        parts.append(_text(x, foot + 20, label, "soft", 13, anchor="middle"))
    return parts


def _set(name: str, found: Mapping[str, Any], rows: list[Row], top: float, axis: _Axis) -> list[str]:
    """The set's name on a line of its own, below it a row for each retriever."""
    queries = f"{found['role']}, {found['n_queries']:,} {'query' if found['n_queries'] == 1 else 'queries'}"
    room = _WIDTH - 2 * _MARGIN - _width(queries, 13) - 24
    label = _fit(name, 15, room)
    parts = [
        # a ground of its own, so that the grid does not run through the words
        f'<rect x="{_units(_MARGIN)}" y="{_units(top)}" width="{_units(_WIDTH - 2 * _MARGIN)}" height="24" rx="4" '
        f'fill="{_COLOURS["surface"]}"/>',
        _text(_MARGIN + 8, top + 17, label, "ink", 15, bold=True),
        _text(_WIDTH - _MARGIN - 8, top + 17, queries, "soft", 13, anchor="end"),
    ]
    for i, row in enumerate(rows):
        parts += _row(row, top + _SET + _ROW * (i + 0.5), axis)
    return parts


def _row(row: Row, middle: float, axis: _Axis) -> list[str]:
    thick, half, size = (3.0, 6.0, 6.0) if row.decides else (1.75, 4.0, 4.25)
    low, high = axis.at(row.low), axis.at(row.high)
    words = "ink" if row.decides else "soft"
    label = _fit(row.retriever, 14, _LEFT - 24)
    return [
        _text(_MARGIN + 8, middle + 5, label, words, 14, bold=row.decides),
        _line(low, middle, high, middle, row.colour, thick),
        *(_line(x, middle - half, x, middle + half, row.colour, thick) for x in (low, high)),
        _dot(axis.at(row.gain), middle, size, row.colour),
        _text(_WIDTH - _MARGIN - 8, middle + 5, _figures(row), words, 14, anchor="end", bold=row.decides),
    ]


def _key(y: float, several: bool) -> list[str]:
    """What the colours say; a hollow dot besides, for those who cannot tell them apart."""
    parts, x = [], _MARGIN + 8
    for colour, words in (("good", "better"), ("bad", "worse"), ("soft", "no difference shown")):
        parts += [_dot(x + 6, y - 4, 5.0, colour), _text(x + 18, y, words, "soft", 13)]
        x += 18 + _width(words, 13) + 18
    if several:
        parts.append(_text(_WIDTH - _MARGIN - 8, y, "bold: chose the checkpoint on dev", "soft", 13, anchor="end"))
    return parts


def _dot(x: float, y: float, size: float, colour: str) -> str:
    fill = _COLOURS["page"] if colour == "soft" else _COLOURS[colour]
    return (
        f'<circle cx="{_units(x)}" cy="{_units(y)}" r="{_units(size)}" fill="{fill}" stroke="{_COLOURS[colour]}" '
        'stroke-width="2"/>'
    )


def _line(x: float, y: float, x2: float, y2: float, colour: str, width: float) -> str:
    ends = f'x1="{_units(x)}" y1="{_units(y)}" x2="{_units(x2)}" y2="{_units(y2)}"'
    return f'<line {ends} stroke="{_COLOURS[colour]}" stroke-width="{_units(width)}"/>'


def _text(x: float, y: float, text: str, colour: str, size: float, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{_units(x)}" y="{_units(y)}" fill="{_COLOURS[colour]}" font-size="{_units(size)}" '
        f'text-anchor="{anchor}"{weight}>{_safe(text)}</text>'
    )


def _figures(row: Row) -> str:
    """
    >>> _figures(Row("dense", True, 0.0512, -0.0104, 0.0921, 0.001))
    '+0.051 [−0.010, +0.092]'
    """
    return f"{_signed(row.gain)} [{_signed(row.low)}, {_signed(row.high)}]"


def _signed(value: float) -> str:
    return _minus(f"{value:+.3f}") if abs(value) >= 0.0005 else "0.000"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _safe(text: str) -> str:
    """A text as markup: what XML cannot hold is left out."""
    return escape("".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs", "Cf", "Cn")), quote=False)


def _width(text: str, size: float) -> float:
    """Roughly how wide a text is, in the widest of the usual system fonts."""
    return size * sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in text)


def _fit(text: str, size: float, room: float) -> str:
    """The start of a text that takes at most so much room.

    >>> _fit("nfcorpus", 10, 100), _fit("a very long name", 10, 60)
    ('nfcorpus', 'a very lo…')
    """
    if _width(text, size) <= room:
        return text
    while text and _width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _units(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
