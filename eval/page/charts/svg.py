"""Small pieces of SVG: texts, marks, the key, and the figure around a picture.

A picture is 430 units wide and its letters are 15 high: 11.6 px in 334 px, on a telephone, and at most 18 px, in 520.
Every text that comes from data is escaped here; colours are the page's custom properties.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from .scale import units

WIDTH = 430.0
SIZE = 15.0  # of letters
LINE = 20.0  # from one line of text to the next
_MOST = 520  # px on the page; larger, the letters would outgrow the page's own
_LEAST_LETTER = 11.5  # px
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_HALO = ' paint-order="stroke" stroke="var(--surface)" stroke-width="4" stroke-linejoin="round"'
_DASHES = ("", "7 4", "2 4", "10 4 2 4", "14 5")
_SHAPES = ("circle", "square", "up", "diamond", "down", "plus")


def one_line(text: str) -> str:
    """One line of text as markup: no tag comes of it, nothing that SVG cannot hold, no turned direction.

    >>> one_line("<b> & \\x00\\n\\u202e")
    '&lt;b&gt; &amp;'
    """
    return escape(" ".join(_CONTROL.sub(" ", text).split()))


def width_of(text: str) -> float:
    """Roughly how wide a text is, in units, as in the widest of the usual system fonts.

    >>> round(width_of("0.81")), round(width_of("語")), width_of("")
    (35, 15, 0.0)
    """
    return SIZE * sum(_letter(character) for character in text)


def _letter(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if unicodedata.combining(character):
        return 0.0
    if character in " .,:;|!'()[]fijlrt":
        return 0.39
    return 0.88 if character in "mwMWQ+−=%@…<>" else 0.64


def fit(text: str, room: float) -> str:
    """A text that takes at most so much room; what is cut is said by an ellipsis.

    >>> fit("nfcorpus", 100), fit("a very long name", 60)
    ('nfcorpus', 'a ver…')
    """
    line = " ".join(text.split())
    if width_of(line) <= room:
        return line
    while line and width_of(line + "…") > room:
        line = line[:-1]
    return line.rstrip() + "…"


def words(x: float, y: float, text: str, colour: str = "soft", anchor: str = "start", halo: bool = False) -> str:
    """A line of text; `anchor` is the side that lies at x."""
    known_anchor = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return (
        f'<text x="{units(x)}" y="{units(y)}" fill="var(--{colour})"{known_anchor}{_HALO if halo else ""}>'
        f"{one_line(text)}</text>"
    )


def line(path: str, colour: str, width: float = 1.0, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{path}" fill="none" stroke="var(--{colour})" stroke-width="{units(width)}"{dashed}/>'


def stretch(x: float, y: float, x2: float, y2: float) -> str:
    """The path of a straight line.

    >>> stretch(0, 1.5, 4, 1.5)
    'M0 1.5L4 1.5'
    """
    return f"M{units(x)} {units(y)}L{units(x2)} {units(y2)}"


def tip(text: str) -> str:
    """What is said when the mouse rests on a mark."""
    return f"<title>{one_line(text)}</title>"


def target(x: float, y: float, width: float, height: float, text: str) -> str:
    """An unseen box that says something when the mouse rests on it."""
    return (
        f'<rect x="{units(x)}" y="{units(y)}" width="{units(width)}" height="{units(height)}" fill="transparent">'
        f"{tip(text)}</rect>"
    )


def series_colour(i: int) -> str:
    return f"series-{i % 6 + 1}"


def series_dash(i: int) -> str:
    """Five dashes beside six colours: thirty series before two look the same."""
    return _DASHES[i % len(_DASHES)]


def series_mark(i: int, x: float, y: float, said: str = "", radius: float = 5.0) -> str:
    """The mark of series i: six shapes, then the same ones hollow."""
    return mark(_SHAPES[i % 6], x, y, series_colour(i), said, radius, hollow=i % 12 >= 6)


def mark(shape: str, x: float, y: float, colour: str, said: str = "", radius: float = 5.0, hollow: bool = False) -> str:
    """A shape around a point, of about the same area each; its edge in the surface's colour tells neighbours apart."""
    inner = tip(said) if said else ""
    paint = (
        f'fill="var(--surface)" stroke="var(--{colour})" stroke-width="2"'
        if hollow
        else f'fill="var(--{colour})" stroke="var(--surface)" stroke-width="1"'
    )
    return f'<path d="{_outline(shape, x, y, radius)}" {paint}>{inner}</path>'


def _outline(shape: str, x: float, y: float, r: float) -> str:
    if shape == "circle":
        half = f"a{units(r)} {units(r)} 0 1 0 "
        return f"M{units(x - r)} {units(y)}{half}{units(2 * r)} 0{half}{units(-2 * r)} 0Z"
    s, t, b = 0.88 * r, 1.25 * r, 0.36 * r
    corners = {
        "square": [(-s, -s), (s, -s), (s, s), (-s, s)],
        "up": [(0, -t), (1.2 * r, s), (-1.2 * r, s)],
        "down": [(0, t), (1.2 * r, -s), (-1.2 * r, -s)],
        "diamond": [(0, -t), (t, 0), (0, t), (-t, 0)],
        "bar": [(-t, -b), (t, -b), (t, b), (-t, b)],
        "plus": [
            *((-b, -t), (b, -t), (b, -b), (t, -b), (t, b), (b, b)),
            *((b, t), (-b, t), (-b, b), (-t, b), (-t, -b), (-b, -b)),
        ],
    }[shape]
    return "M" + "L".join(f"{units(x + dx)} {units(y + dy)}" for dx, dy in corners) + "Z"


def key(names: Sequence[str], top: float, lines: bool, marks: bool) -> tuple[list[str], float]:
    """The names of the series with their looks, in as many lines as they need; and where the picture goes on."""
    out: list[str] = []
    x, y, sample = 0.0, top, 34.0 if lines else 16.0
    for i, name in enumerate(names):
        label = fit(name, WIDTH - sample - 10)
        if x and x + sample + 6 + width_of(label) > WIDTH:
            x, y = 0.0, y + LINE
        middle = y + SIZE - 5
        if lines:
            out.append(line(stretch(x, middle, x + sample, middle), series_colour(i), 2.5, series_dash(i)))
        if marks:
            out.append(series_mark(i, x + sample / 2, middle))
        out.append(words(x + sample + 6, y + SIZE, label, "ink"))
        x += sample + 6 + width_of(label) + 18
    return out, y + LINE + 6 if names else top


Box = tuple[float, float, float, float]  # left, top, right, bottom
Spot = tuple[float, float]  # of a text: its start and its baseline


def beside(x: float, y: float, wide: float, away: float = 9.0) -> list[Spot]:
    """Where the name of a point may stand, the best place first."""
    right, left, above, below = x + away, x - away - wide, y - away - 2, y + away + 13
    level = [(right, y + 5), (left, y + 5)]
    starts = (x - wide / 2, x - away, x + away - wide, right, left)
    return level + [(start, base) for start in starts for base in (above, below)]


def box_of(spot: Spot, wide: float) -> Box:
    """What a text covers that starts at a spot."""
    return spot[0], spot[1] - SIZE + 2, spot[0] + wide, spot[1] + 3


def free_spot(spots: Sequence[Spot], wide: float, taken: Sequence[Box], bounds: Box) -> Spot | None:
    """The first spot within the bounds where a text covers nothing."""
    for spot in spots:
        box = box_of(spot, wide)
        inside = box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
        if inside and not any(_overlap(box, other) for other in taken):
            return spot
    return None


def along(points: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a line through picture points, so that a name can keep off it."""
    boxes = []
    for (x, y), (x2, y2) in pairwise(points):
        n = 1 + int(max(abs(x2 - x), abs(y2 - y)) / 8)
        middles = [(x + (x2 - x) * k / n, y + (y2 - y) * k / n) for k in range(n + 1)]
        boxes += [(a - 2, b - 2, a + 2, b + 2) for a, b in middles]
    return boxes


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def figure(
    parts: Iterable[str], height: float, title: str, described: str, caption: str = "", width: float = WIDTH
) -> str:
    """The picture with its words: title and description for those who do not see it, caption for everybody.

    A picture wider than `WIDTH` scrolls where there is no room for letters that can be read.
    """
    wide = width > WIDTH
    least = f"min-width:{units(width * _LEAST_LETTER / SIZE)}px;" if wide else ""
    svg = (
        f'<svg viewBox="0 0 {units(width)} {units(height)}" role="img" '
        f'style="display:block;width:100%;height:auto;{least}max-width:{units(_MOST / WIDTH * width)}px;'
        f'font-size:{units(SIZE)}px">'
        f"<title>{one_line(title)}</title><desc>{one_line(described)}</desc>" + "\n".join(parts) + "</svg>"
    )
    if wide:
        svg = (
            '<div class="chart-scroll" style="overflow-x:auto" tabindex="0" role="region" '
            f'aria-label="{one_line(title)}, scrolls sideways">{svg}</div>'
        )
    more = f" {one_line(caption)}" if caption else ""
    return f'<figure class="chart">{svg}<figcaption><strong>{one_line(title)}</strong>{more}</figcaption></figure>'


def nothing(title: str, caption: str, why: str) -> str:
    """A figure without data says so."""
    return figure([words(0, 26, why)], 40, title, why, caption)
