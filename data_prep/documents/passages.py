"""What is kept of a document once it is cut: the final strings of its passages, and what the builders ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bgetune.config_data import Builder

from ..split import stable_hash
from .chunk import Chunk, joined
from .parts import Document

_LEAST_UNITS = 3
_LEAST_WORDS = 6
Asked = tuple[tuple[Builder, str], ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage; `start`: its line, page or row; `asked`: queries that the file itself pairs with its section."""

    id: str
    text: str
    start: int
    path: tuple[str, ...]
    asked: Asked
    number: int
    """Which passage of its section, from 0."""
    leads: bool
    """Its section is the first of the document that has a passage."""
    excerpt: tuple[str, str] | None = None
    """A sentence of it, and its text without that."""


@dataclass(frozen=True, slots=True)
class Passages:
    """A document without its text, and its passages in reading order; `paths`: all headings that it has, once each."""

    document: Document
    rows: tuple[Passage, ...]
    paths: tuple[tuple[str, ...], ...]

    def asked_too(self, asked: Asked) -> Passages:
        """The same with more queries for the first section, for a table that has the same passage in two rows."""
        every = tuple(dict.fromkeys((*self.rows[0].asked, *asked)))
        return replace(self, rows=tuple(replace(row, asked=every) if row.leads else row for row in self.rows))


def passages_of(document: Document, chunks: Sequence[Chunk], ids: Sequence[str], seed: int | None) -> Passages:
    """The passages of a document out of its chunks, with an id each; `seed`: chooses excerpts, None: there are none."""
    rows: list[Passage] = []
    for k, (chunk, passage_id) in enumerate(zip(chunks, ids, strict=True)):
        section = document.sections[chunk.section]
        number = rows[-1].number + 1 if k and chunks[k - 1].section == chunk.section else 0
        leads = chunk.section == chunks[0].section
        found = None if seed is None else _excerpt(chunk, chunks[k + 1 : k + 2], passage_id, seed)
        rows.append(Passage(passage_id, chunk.text, chunk.start, section.path, section.asked, number, leads, found))
    paths = tuple(dict.fromkeys(section.path for section in document.sections))
    return Passages(replace(document, sections=()), tuple(rows), paths)


def _excerpt(chunk: Chunk, following: Sequence[Chunk], passage_id: str, seed: int) -> tuple[str, str] | None:
    """A sentence and the rest of its passage.

    The sentence is none that the next passage repeats, or that one would hold it word for word.
    """
    shared = following[0].repeated if following and following[0].section == chunk.section else 0
    own = range(chunk.repeated, len(chunk.units) - shared)
    fit = [i for i in own if not chunk.units[i].code and _is_long(chunk.units[i].text)]
    if len(chunk.units) < _LEAST_UNITS or not fit:
        return None
    chosen = min(fit, key=lambda i: stable_hash(seed, f"{passage_id}:{i}"))
    rest = joined([unit for i, unit in enumerate(chunk.units) if i != chosen])
    return " ".join(chunk.units[chosen].text.split()), rest


def _is_long(sentence: str) -> bool:
    """Long enough to be a query: words, or characters where a script has no spaces."""
    return len(sentence.split()) >= _LEAST_WORDS or (not sentence.isascii() and len(sentence) >= 2 * _LEAST_WORDS)
