"""A matrix in colours with its numbers printed: queries in one language, passages in another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .scale import is_known, known, plain, signed, units
from .svg import LINE, SIZE, WIDTH, figure, fit, nothing, one_line, tip, width_of, words

_FEW, _MANY = 5, 8  # columns: of more than few, cells print two decimals, not three; of many, no 0 before the point
_TALL = 36.0  # a cell's height
_DEEPEST = 0.5  # opacity: more, and ink could not be read on it in both themes
_MOST_NAME, _MOST_HEAD = 110.0, 100.0  # room for a row's name, and for a column's name that stands upright

Matrix = Sequence[Sequence["float | None"]]


def less(values: Matrix, reference: Matrix) -> list[list[float | None]]:
    """Cell by cell, how much more than the reference; None where either is not known.

    >>> less([[0.5, None]], [[0.25, 1.0]])
    [[0.25, None]]
    """
    return [
        [None if a is None or b is None else a - b for a, b in zip(row, other, strict=True)]
        for row, other in zip(values, reference, strict=True)
    ]


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Matrix,
    *,
    title: str,
    row_label: str,
    column_label: str,
    value_label: str,
    diverging: bool = False,
    counts: Sequence[Sequence[int]] | None = None,
    caption: str = "",
) -> str:
    """Cells shaded by their values, the numbers printed in them; an unknown one is a dash.

    Args:
        values: [rows][columns].
        diverging: the values are differences: signs are printed, gains and losses have two colours, 0 has none.
        counts: [rows][columns], how many queries a cell stands for; said when the mouse rests on it.
    """
    if not known(value for row in values for value in row):
        return nothing(title, caption, "There is nothing to draw.")
    places = 2 if len(columns) > _FEW else 3
    cells = [[_brief(_text(value, places, diverging), len(columns) > _MANY) for value in row] for row in values]
    shades = _Shades.over(values, diverging)
    gutter = min(_MOST_NAME, max(width_of(name) for name in rows)) + 8
    least = max(width_of(text) for row in cells for text in row) + 8
    wide = max(least, min((WIDTH - gutter) / len(columns), 90.0))
    width = max(WIDTH, gutter + wide * len(columns))
    out, top = _heads(columns, gutter, wide, row_label, column_label, width)
    boxes, numbers = [], []
    for i, name in enumerate(rows):
        y = top + _TALL * i
        out.append(words(gutter - 6, y + _TALL / 2 + 5, fit(name, gutter - 8), "ink", anchor="end"))
        for j, column in enumerate(columns):
            x = gutter + wide * j
            said = _said(name, column, values[i][j], diverging, counts[i][j] if counts is not None else None)
            boxes.append(_cell(x, y, wide, shades.of(values[i][j]), said))
            numbers.append(f'<text x="{units(x + wide / 2)}" y="{units(y + _TALL / 2 + 5)}">{cells[i][j]}</text>')
    out += ['<g stroke="var(--surface)" stroke-width="2">', *boxes, "</g>"]
    out += ['<g fill="var(--ink)" text-anchor="middle" pointer-events="none">', *numbers, "</g>"]
    foot = top + _TALL * len(rows)
    out += _key(shades, foot + 12, places, value_label, width)
    described = _described(rows, columns, values, diverging, value_label, row_label, column_label)
    return figure(out, foot + 12 + 2 * LINE + 8, title, described, caption, width)


def _text(value: float | None, places: int, diverging: bool) -> str:
    return signed(value, places) if diverging else plain(value, places)


def _brief(text: str, brief: bool) -> str:
    """Without the 0 before the point, so that many columns fit.

    >>> _brief("0.81", True), _brief("−0.02", True), _brief("10.25", True), _brief("0.812", False)
    ('.81', '−.02', '10.25', '0.812')
    """
    return re.sub(r"^(\D?)0\.", r"\1.", text) if brief else text


def _said(row: str, column: str, value: float | None, diverging: bool, amount: int | None) -> str:
    queries = "" if amount is None else f" ({amount:,} {'query' if amount == 1 else 'queries'})"
    return f"{row}, {column}: {'not known' if value is None else _text(value, 4, diverging)}{queries}"


@dataclass(frozen=True)
class _Shades:
    """Colours from the lowest value to the highest or, `diverging`, from 0 to the furthest from it on both sides."""

    low: float
    high: float
    diverging: bool

    @classmethod
    def over(cls, values: Matrix, diverging: bool) -> _Shades:
        found = known(value for row in values for value in row)
        furthest = max(abs(value) for value in found)
        return cls(-furthest, furthest, True) if diverging else cls(min(found), max(found), False)

    def of(self, value: float | None) -> tuple[str, float]:
        """A value's colour and opacity."""
        if value is None or not is_known(value):
            return "surface", 0.0
        if self.diverging:
            return ("good" if value > 0 else "bad"), _DEEPEST * abs(value) / self.high if self.high else 0.0
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return "series-1", 0.06 + (_DEEPEST - 0.06) * share


def _cell(x: float, y: float, wide: float, shade: tuple[str, float], said: str) -> str:
    colour, opacity = shade
    return (
        f'<rect x="{units(x)}" y="{units(y)}" width="{units(wide)}" height="{units(_TALL)}" '
        f'fill="var(--{colour})" fill-opacity="{units(opacity)}">{tip(said)}</rect>'
    )


def _heads(
    columns: Sequence[str], gutter: float, wide: float, row_label: str, column_label: str, width: float
) -> tuple[list[str], float]:
    """What rows and columns are, and the columns' names, upright where they have no room to lie; and the cells' top."""
    out = [words(0, SIZE, fit(f"{row_label} ↓ · {column_label} →", width))]
    longest = max(width_of(name) for name in columns)
    middles = [gutter + wide * (j + 0.5) for j in range(len(columns))]
    if longest <= wide - 4:
        top = LINE + LINE + 8
        return out + [
            words(x, top - 7, name, "ink", anchor="middle") for x, name in zip(middles, columns, strict=True)
        ], top
    top = LINE + 10 + min(longest, _MOST_HEAD) + 6
    for x, name in zip(middles, columns, strict=True):
        out.append(
            f'<text transform="translate({units(x + 5)} {units(top - 6)}) rotate(-90)" fill="var(--ink)">'
            f"{one_line(fit(name, _MOST_HEAD))}</text>"
        )
    return out, top


def _key(shades: _Shades, top: float, places: int, label: str, width: float) -> list[str]:
    """The shades from the lowest to the highest, and what the values are."""
    name = words(0, top + SIZE + LINE, fit(label, width))
    low, high = (_text(end, places, shades.diverging) for end in (shades.low, shades.high))
    if shades.low == shades.high:
        return [words(0, top + SIZE, f"all {low}"), name]
    out, x = [words(0, top + SIZE, low)], width_of(low) + 6
    for k in range(9):
        colour, opacity = shades.of(shades.low + (shades.high - shades.low) * k / 8)
        box = f'x="{units(x + 14 * k)}" y="{units(top + 2)}" width="14" height="16"'
        out.append(f'<rect {box} fill="var(--{colour})" fill-opacity="{units(opacity)}"/>')
    return [*out, words(x + 9 * 14 + 6, top + SIZE, high), name]


def _described(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Matrix,
    diverging: bool,
    value_label: str,
    row_label: str,
    column_label: str,
) -> str:
    cells = [
        (value, f"{row}, {column}")
        for row, cells in zip(rows, values, strict=True)
        for column, value in zip(columns, cells, strict=True)
        if value is not None and is_known(value)
    ]
    low, high = min(cells), max(cells)
    return (
        f"{value_label} by {row_label} (rows: {', '.join(rows)}) and {column_label} (columns: {', '.join(columns)}). "
        f"Lowest {_text(low[0], 3, diverging)} ({low[1]}), highest {_text(high[0], 3, diverging)} ({high[1]})."
    )
