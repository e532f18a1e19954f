"""A file, or a folder of files, to documents; every broken file is named, not only the first."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from bgetune.config_data import SourceConfig
from bgetune.data import source_path
from bgetune.errors import UserError

from ..functions import functions_in
from .markup import Page, read_html, read_markdown
from .parts import Block, Document, Line, Part, Section, sections_of
from .pdf import read_pdf
from .table_rows import TABLES, Refuse, stop
from .tables import check_columns, read_table
from .text import plain_text, text_lines

log = logging.getLogger(__name__)

_MARKDOWN, _HTML = (".md", ".markdown"), (".html", ".htm", ".xhtml")
KINDS = (".txt", *_MARKDOWN, *_HTML, ".pdf", *TABLES, ".py")
_NAMED = 10
_TITLE_WORDS = 12


@dataclass(frozen=True)
class File:
    """A file to read, and its name: its path relative to the source's, with slashes."""

    path: Path
    name: str


def files_of(source: SourceConfig, option: str) -> list[File]:
    """The files of a source that can be read, sorted by name; of a folder all below it, without hidden ones.

    Files of other kinds are counted and said once.

    Raises:
        UserError: no such path, no file that can be read, nothing that `include` names or `exclude` leaves, a name in
            `columns` that is none of ours.
    """
    check_columns(source.columns, f"{option}.columns")
    path = source_path(source)
    if path.is_file():
        if path.suffix.lower() not in KINDS:
            raise UserError(f"{option}.path: {path} is of a kind that cannot be read; kind documents reads {_kinds()}")
        return [File(path, path.name)]
    if not path.is_dir():
        raise UserError(f"{option}.path: {path} does not exist; name a file, or a folder of {_kinds()}")
    every = sorted(_below(path), key=lambda file: file.name)
    include = source.documents.include
    named = [file for file in every if not include or _matches(file.name, include)]
    if every and not named:
        patterns = ", ".join(include)
        raise UserError(f"{option}.documents.include: {patterns} names none of the {len(every):,} files below {path}")
    exclude = source.documents.exclude
    stay = [file for file in named if not _matches(file.name, exclude)]
    if named and not stay:
        raise UserError(
            f"{option}.documents.exclude: {', '.join(exclude)} leaves none of {len(named):,} files of {path}"
        )
    named = stay
    readable = [file for file in named if file.path.suffix.lower() in KINDS]
    if others := Counter(file.path.suffix.lower() or "no suffix" for file in named if file not in set(readable)):
        kinds = ", ".join(f"{kind} ({times:,})" for kind, times in sorted(others.items()))
        log.info("%s: files of other kinds left out: %s", path, kinds)
    if not readable:
        raise UserError(f"{option}.path: {path} holds no file that can be read; kind documents reads {_kinds()}")
    return readable


def _kinds() -> str:
    return " ".join(kind.removeprefix(".") for kind in KINDS)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    last = name.rpartition("/")[2]
    return any(fnmatch(name, pattern) or fnmatch(last, pattern) for pattern in patterns)


def _below(folder: Path) -> Iterator[File]:
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(above, name)
            if not name.startswith(".") and path.is_file():
                yield File(path, path.relative_to(folder).as_posix())


def read_parts(file: File, source: SourceConfig, option: str, refuse: Refuse = stop) -> Iterator[Part]:
    """The documents of one file, of a table some rows at once.

    There are none in an empty file, a page of nothing but headings, a table without a row, and a Python file without a
    documented function. A scanned PDF is an error: it says something that nobody would find.

    Args:
        refuse: is told of each row of a table that is wrong; by default the first one is raised.

    Raises:
        UserError: the file cannot be read or is broken, with its path and where known the line.
    """
    faq = "faq" in source.documents.builders
    try:
        file.name.encode()
        suffix = file.path.suffix.lower()
        if suffix in TABLES:
            yield from read_table(file.path, file.name, source.columns, f"{option}.columns", faq, refuse)
            return
        if suffix == ".py":
            title, sections = "", tuple(_functions(file))
        elif suffix == ".pdf":
            title, sections = read_pdf(file.path, faq)
        elif suffix == ".txt":
            title, sections = _read_text(plain_text(file.path), faq)
        else:
            page = _read_markup(file.path, suffix, faq)
            title, sections = page.title, page.sections
    except UnicodeEncodeError:
        raise UserError(f"{str(file.path)!r}: the file's name is not UTF-8; rename it") from None
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read ({error.strerror or error})") from None
    yield Part((Document(file.name, file.name, title, sections),) if sections else ())


def raise_problems(problems: list[tuple[File, UserError]]) -> None:
    """One UserError for all files that could not be read: the first one's words, the names of the others."""
    if not problems:
        return
    first = str(problems[0][1])
    names = [file.name for file, _ in problems[1:]]
    if not names:
        raise UserError(first)
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    raise UserError(f"{first} (other files that cannot be read: {', '.join(names[:_NAMED])}{more})")


def _functions(file: File) -> Iterator[Section]:
    """A section for each documented function: its code without the docstring, whose summary is what it is asked by."""
    text, position = file.path.read_bytes().decode(errors="replace").replace("\r\n", "\n"), 0
    for function in functions_in(file.path, file.name):
        rows = function.code.split("\n")
        # in the file's order, the next place where the same rows stand up to the def
        define = next(i for i, row in enumerate(rows) if re.match(r"(?:async\s+)?def\s", row))
        head = r"\n".join(r"[ \t]*" + re.escape(row) + r"[ \t]*" for row in rows[: define + 1])
        if match := re.compile("^" + head, re.MULTILINE).search(text, position):
            position = match.end()
        start = text.count("\n", 0, match.start() if match else position) + 1
        yield Section(
            (function.name,),
            (Block(function.code, tuple(range(start, start + len(rows))), code=True),),
            (("docstring_code", function.summary),),
        )


def _read_markup(path: Path, suffix: str, faq: bool) -> Page:
    if suffix in _MARKDOWN:
        return read_markdown(plain_text(path), faq)
    return read_html(plain_text(path, declared=True), faq)


def _read_text(text: str, faq: bool) -> tuple[str, tuple[Section, ...]]:
    """A short first line with a blank one below it is the title, unless it ends as a sentence does."""
    lines = text_lines(text)
    title = ""
    if len(lines) > 1 and not lines[1].continues and _is_title(lines[0]):
        title, lines = " ".join(lines[0].text.split()), lines[1:]
    return title, tuple(sections_of((), lines, faq))


def _is_title(line: Line) -> bool:
    words = line.text.split()
    return (
        len(words) <= _TITLE_WORDS and line.text[-1] not in ".,;:!。，" and not line.text.startswith(("-", "*", "Q:"))
    )
