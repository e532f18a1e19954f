"""PDF to text with page numbers; the outline, where there is one, gives the headings."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from bgetune.data import normalised
from bgetune.errors import UserError

from .parts import Line, Section, sections_of

_LEAST_PAGES_WITH_MARGINS = 4


def read_pdf(path: Path, faq: bool) -> tuple[str, tuple[Section, ...]]:
    """Title, empty where the file states none, and sections, their lines numbered by page.

    Raises:
        UserError: the file is broken, locked by a password, or holds no text (a scan).
    """
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every flaw that it mends
    try:
        reader = pypdf.PdfReader(path)
        locked = reader.is_encrypted and not reader.decrypt("")
    except pypdf.errors.DependencyError:
        locked = True
    except Exception as error:  # on broken files pypdf raises errors of a dozen kinds
        raise _broken(path, error) from None
    if locked:
        raise UserError(f"{path}: locked by a password or a cipher; save it without (qpdf --decrypt) or leave it out")
    try:
        pages = [page.extract_text().split("\n") for page in reader.pages]
        stated, outline = reader.metadata and reader.metadata.title, _outline(reader)
    except Exception as error:  # as above: much is only read now
        raise _broken(path, error) from None
    pages = _without_margins(pages)
    if not any(line.strip() for page in pages for line in page):
        raise UserError(f"{path}: no text in any of its {len(pages)} pages (a scan?); run OCR on it or leave it out")
    return _title(str(stated or "")), tuple(_sections(pages, outline, faq))


def _broken(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return UserError(f"{path}: cannot be read as PDF ({reason}); repair it or leave it out")


def _outline(reader: Any) -> list[tuple[int, int, str]]:
    """(page from 1, level from 1, heading) of each bookmark, in the order of the outline."""
    found: list[tuple[int, int, str]] = []

    def add(entries: list[Any], level: int) -> None:
        for entry in entries:
            if isinstance(entry, list):
                add(entry, level + 1)
            elif (number := reader.get_destination_page_number(entry)) is not None and number >= 0:
                found.append((number + 1, level, " ".join(str(entry.title or "").split())))

    add(reader.outline, 1)
    return found


def _without_margins(pages: list[list[str]]) -> list[list[str]]:
    """Pages without the first or last line that most of them share but for digits: running titles, page numbers."""
    pages = [[line for line in page if line.strip()] for page in pages]
    if len(pages) < _LEAST_PAGES_WITH_MARGINS:
        return pages
    for end in (0, -1):
        shapes = Counter(_shape(page[end]) for page in pages if page)
        common = {shape for shape, times in shapes.items() if times > len(pages) / 2}
        for page in pages:
            if page and _shape(page[end]) in common:
                page.pop(end)
    return pages


def _shape(line: str) -> str:
    return re.sub(r"\d+", "0", normalised(line))


def _title(stated: str) -> str:
    """What the file says its title is, unless a program put a file's name there.

    >>> _title("Microsoft Word - a.docx"), _title("untitled"), _title("The  mass of stars")
    ('', '', 'The mass of stars')
    """
    title = " ".join(stated.split())
    return "" if re.search(r"^untitled|^microsoft |\.\w{2,4}$", title, re.IGNORECASE) else title


def _sections(pages: list[list[str]], outline: list[tuple[int, int, str]], faq: bool) -> list[Section]:
    """A line that says what a bookmark of its page says is a heading; bookmarks that no line says are passed over."""
    wanted: dict[tuple[int, str], tuple[int, str]] = {}
    for page, level, heading in outline:
        wanted.setdefault((page, _unnumbered(heading)), (level, heading))
    found: list[Section] = []
    path: tuple[tuple[int, str], ...] = ()
    lines: list[Line] = []
    for number, page_lines in enumerate(pages, start=1):
        for text in page_lines:
            if known := wanted.pop((number, _unnumbered(text)), None):
                found.extend(sections_of(tuple(name for _, name in path), _unbroken(lines), faq))
                path, lines = (*(entry for entry in path if entry[0] < known[0]), known), []
            else:
                lines.append(Line(text.strip(), number, continues=bool(lines)))
    found.extend(sections_of(tuple(name for _, name in path), _unbroken(lines), faq))
    return found


def _unnumbered(heading: str) -> str:
    """The page may number what the outline does not, and the other way round.

    >>> _unnumbered("2.1 ASN.1  syntax"), _unnumbered("3")
    ('asn.1 syntax', '3')
    """
    return re.sub(r"^[\d.]+\s+(?=\S)", "", normalised(heading))


def _unbroken(lines: list[Line]) -> list[Line]:
    """Lines with the words that a hyphen breaks at their ends put together.

    >>> [line.text for line in _unbroken([Line("the exam-", 1), Line("ple is", 1), Line("B-", 2), Line("52", 2)])]
    ['the example', 'is', 'B-', '52']
    """
    whole: list[Line] = []
    for line in lines:
        match = re.match(r"([a-z]\S*)\s*(.*)", line.text)
        if whole and match and re.search(r"[^\W\d_]{2}-$", whole[-1].text):
            last = whole.pop()
            whole.append(Line(last.text[:-1] + match[1], last.start, continues=last.continues))
            if match[2]:
                whole.append(Line(match[2], line.start, continues=line.continues))
        else:
            whole.append(line)
    return whole
