"""Plain text files: to a string, and to lines that know their paragraphs."""

from __future__ import annotations

import re
from pathlib import Path

from bgetune.errors import UserError

from .parts import Line

_DECLARED = re.compile(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


def plain_text(path: Path, declared: bool = False) -> str:
    """A file's text, every newline one character.

    Args:
        path: the file.
        declared: it is HTML, and may say itself that it is of another encoding than UTF-8.

    Raises:
        UserError: it is not UTF-8 (or what it declares), or holds a NUL character.
    """
    raw = path.read_bytes()
    named = _DECLARED.search(raw[:2048]) if declared else None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if named and (text := _decoded(raw, named[1].decode())):
            return text
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}:{text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL character; it is no text file")
    return _with_newlines(text)


def _decoded(raw: bytes, encoding: str) -> str:
    """The text, empty where the bytes are not of this encoding or nobody knows it."""
    try:
        return _with_newlines(raw.decode(encoding))
    except (LookupError, UnicodeDecodeError):
        return ""


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_lines(text: str, start: int = 1, every: int = 1) -> list[Line]:
    """Plain text as lines; blank ones part the paragraphs, and a list's items stand alone.

    Args:
        text: the text.
        start: number of its first line.
        every: 1; or 0 where all of it has the same number, as in a table's cell.
    """
    rows = _with_newlines(text).split("\n")
    found: list[Line] = []
    for i, row in enumerate(rows):
        if row.strip():
            found.append(Line(row.rstrip(), start + i * every, continues=i > 0 and bool(rows[i - 1].strip())))
    return found
