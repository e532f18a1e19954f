"""Small pieces of HTML; every text that comes from data is escaped here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

LEAD = 260  # characters of a long text that are seen before it is opened
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def safe(text: str) -> str:
    """A text as HTML: no tag comes of it, and nothing that HTML or UTF-8 cannot hold.

    >>> safe("<b> & \\x00")
    '&lt;b&gt; &amp; \\ufffd'
    """
    return escape(_CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n")))


def sentence(text: str) -> str:
    """Our own words as HTML; a number and its percent sign stay on one line."""
    return safe(text).replace(" %", "\u00a0%")


def clip(text: str, most: int) -> str:
    """The first `most` characters, back to the last space where one is near.

    >>> clip("one two three", 9), clip("one two three", 13), clip("x" * 9, 4)
    ('one two', 'one two three', 'xxxx')
    """
    if len(text) <= most:
        return text
    start = text[:most]
    space = max(start.rfind(" "), start.rfind("\n"))
    return start[:space].rstrip() if space > most * 0.7 else start


def within(text: str, most_bytes: int) -> str:
    """The longest start of a text whose HTML takes at most so many bytes.

    >>> within("a<b<c", 6), within("abc", 6)
    ('a<b', 'abc')
    """
    if len(safe(text).encode()) <= most_bytes:
        return text
    size = 0
    for i, character in enumerate(text):
        size += len(safe(character).encode())
        if size > most_bytes:
            return text[:i]
    return text


def short(text: str, most: int) -> str:
    """One line of a text, cut with an ellipsis."""
    line = " ".join(text[: 4 * most].split())
    cut = clip(line, most)
    return safe(cut) + (" …" if len(cut) < len(line) or len(text) > 4 * most else "")


def breakable(option: str) -> str:
    """An option's name as code that a narrow window may break after a dot or an underscore.

    >>> breakable("a.b_c")
    '<code>a.<wbr>b_<wbr>c</code>'
    """
    return f"<code>{short(option, 100).replace('.', '.<wbr>').replace('_', '_<wbr>')}</code>"


def passage(text: str, most: int, most_bytes: int, to_html: Callable[[str], str] = safe) -> str:
    """A text to read: whole where it is short, else its start, to be opened; what is cut off is said.

    Takes at most `most` characters, and `most_bytes` of HTML beside the tags. `to_html` makes the text HTML.
    """
    if not text.strip():
        return '<p class="passage soft">(empty)</p>'
    # a third of the room is for the lead, which repeats the start
    shown = within(clip(text, most), most_bytes * 2 // 3)
    note = "" if len(shown) == len(text) else f"Cut at {len(shown):,} of {len(text):,} characters."
    body = f'<p class="passage" dir="auto">{to_html(shown)}</p>'
    lead = within(clip(shown, LEAD), most_bytes // 3)
    if len(lead) == len(shown):
        return body + (f'<p class="soft">{note}</p>' if note else "")
    return (
        f'<details><summary><span class="lead" dir="auto">{to_html(lead)} … </span>'
        '<span class="more"><span class="lead">more</span><span class="less">less</span></span></summary>'
        f"{body}" + (f'<p class="soft">{note}</p>' if note else "") + "</details>"
    )


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numeric: int, name: str = "") -> str:
    """A table of finished HTML cells; the first is the row's header, the last `numeric` columns are right-aligned."""
    words = len(head) - numeric

    def mark(i: int) -> str:
        return ' class="n"' if i >= words else ""

    top = "".join(f'<th scope="col"{mark(i)}>{cell}</th>' for i, cell in enumerate(head))
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{mark(i)}>{cell}</td>" for i, cell in enumerate(others, start=1))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    known = f' class="{name}"' if name else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}"><table{known}>'
        f"<caption>{caption}</caption><thead><tr>{top}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )
