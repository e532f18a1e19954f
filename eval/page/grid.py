"""Tables that can be sorted and filtered, and the words that stand in them; without the script they stand still."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgetune.html.markup import safe, short

from ..figures import interval, p_value, signed

Gain = Mapping[str, Any]
"""`abs` and `ci95`, and of a set's retriever also p, p_holm, won and so on."""

_NAME = 80  # characters shown of a user's name
_MINUS = re.compile(r"(?<!\S)-(?=\d)|(?<=\()-(?=\d)")


@dataclass(frozen=True)
class Cell:
    """What a cell shows, as HTML; `value` is what it sorts by, where that is a number; `mark` its class."""

    html: str
    value: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """`choose`: the reader can pick one of the column's values; it is the one picked at first, "" for all."""

    name: str
    numeric: bool = True
    choose: str | None = None


def grid(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A table; the first cell of a row is its header. `caption` and the columns' names are plain text.

    A column to choose from that says the same in every row goes into the caption.
    """
    assert all(len(row) == len(columns) for row in rows), caption
    same = [
        at
        for at, column in enumerate(columns)
        if at and column.choose is not None and len({row[at] for row in rows}) == 1
    ]
    said = safe(caption) + "".join(f"; {safe(columns[at].name)} {rows[0][at].html}" for at in same)
    kept = [at for at in range(len(columns)) if at not in same]
    head = "".join(_head(columns[at]) for at in kept)
    body = "\n".join(f"<tr>{''.join(_cell(columns[at], row[at], at == 0) for at in kept)}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{safe(caption)}"><table class="grid">'
        f"<caption>{said}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _head(column: Column) -> str:
    choice = "" if column.choose is None else f' data-choose="{safe(column.choose)}"'
    return f'<th scope="col"{_class(column, "")}{choice}>{safe(column.name)}</th>'


def _cell(column: Column, cell: Cell, first: bool) -> str:
    value = "" if cell.value is None else f' data-v="{cell.value:.7g}"'
    tag, scope = ("th", ' scope="row"') if first else ("td", "")
    return f"<{tag}{scope}{_class(column, cell.mark)}{value}>{cell.html}</{tag}>"


def _class(column: Column, mark: str) -> str:
    names = " ".join(name for name in ("n" if column.numeric else "", mark) if name)
    return f' class="{names}"' if names else ""


def name(text: str) -> Cell:
    """A name of the user's, in its own direction of writing."""
    return Cell(f"<bdi>{short(text, _NAME)}</bdi>")


def plain(text: str) -> Cell:
    return Cell(safe(text))


def figure(value: float | None, shown: str = ".3f", unit: str = "") -> Cell:
    """
    >>> figure(0.71234).html, figure(1200, ",d").html, figure(-0.0001).html, figure(None)
    ('0.712', '1,200', '0.000', Cell(html='', value=None, mark=''))
    """
    if value is None:
        return Cell("")
    text = f"{value:{shown}}"
    # what is rounded to nothing has no sign
    return Cell((minus(text) if re.search("[1-9]", text) else text.lstrip("+-")) + unit, value)


def change(gain: Gain | None) -> Cell:
    """A gain; good or bad where its interval leaves 0 out."""
    if gain is None:
        return Cell("")
    low, high = gain["ci95"]
    return Cell(minus(signed(gain["abs"])), gain["abs"], "good" if low > 0 else "bad" if high < 0 else "")


def between(gain: Gain | None) -> Cell:
    """A gain's interval; sorts by its lower end."""
    return Cell("") if gain is None else Cell(minus(interval(gain["ci95"])), gain["ci95"][0])


def difference(value: float | None) -> Cell:
    """A signed figure of which no interval is known."""
    return Cell("") if value is None else Cell(minus(signed(value)), value)


def chance(p: float | None) -> Cell:
    return Cell("") if p is None else Cell(safe(p_value(p)), p)


def minus(text: str) -> str:
    """A minus as wide as a plus, before numbers; hyphens inside a name or a power of ten stay.

    >>> minus("x-1: -0.013 to -1e-05 (-3 %)")
    'x-1: −0.013 to −1e-05 (−3 %)'
    """
    return _MINUS.sub("−", text)


def size(amount: float) -> str:
    """
    >>> size(48), size(1536), size(25_400_000)
    ('48 B', '1.5 kB', '25.4 MB')
    """
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= least:
            return f"{amount / least:.1f} {unit}"
    return f"{amount:.0f} B"
