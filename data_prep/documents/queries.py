"""The builders: which queries a passage answers, from what its document says by itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from bgetune.config_data import Builder
from bgetune.data import normalised

from ..split import stable_hash
from .chunk import Chunk, joined
from .parts import Document, Section, bare

_MOST_POSITIVES = 4
_LEAST_UNITS = 3
_LEAST_WORDS = 6
_GENERIC_HEADINGS = """
about; abstract; acknowledgements; acknowledgments; appendix; background; basics; bibliography; caveats; changelog;
changes; chapter; comments; conclusion; conclusions; contact; contents; contributing; contributors; copyright;
description; details; discussion; documentation; example; examples; external links; faq; faqs; features; footnotes;
foreword; frequently asked questions; further reading; general; getting started; glossary; history; home; how to
use; index; info; information; intro; introduction; licence; license; links; main; methods; misc; miscellaneous;
more; more information; note; notes; options; other; outline; overview; parameters; preamble; preface;
prerequisites; quickstart; readme; references; related; related work; remarks; requirements; resources; results;
returns; see also; sources; summary; support; table of contents; terms; tips; toc; todo; untitled; usage; warning;
warnings; welcome; what's new
"""
_GENERIC = frozenset(" ".join(_GENERIC_HEADINGS.split()).split("; "))
"""Headings that name a section's place and not what it says."""


@dataclass(frozen=True)
class Passages:
    """A document and its passages, in reading order, with their ids."""

    document: Document
    chunks: tuple[Chunk, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The queries of a passage, who found them, and its text, which may lack what became a query."""

    text: str
    queries: tuple[str, ...] = ()
    builder: Builder | None = None


@dataclass(frozen=True)
class _Place:
    """A passage among others: `number`: which passage of its section; `leads`: the section is the document's first."""

    passages: Passages
    row: int
    section: Section
    number: int
    leads: bool


class Finder:
    """Finds queries with the builders in their order; what is ambiguous is known from all documents together."""

    def __init__(self, every: Sequence[Passages], builders: Sequence[Builder], seed: int) -> None:
        self._builders = builders
        self._seed = seed
        self._titles = Counter(normalised(passages.document.title) for passages in every)
        self._headings = Counter(
            normalised(name)
            for passages in every
            for path in dict.fromkeys(section.path for section in passages.document.sections)
            for name in _names(passages.document.title, path)
        )
        self._by_name: dict[Builder, Callable[[_Place], Found | None]] = {
            "heading_section": self._heading_section,
            "title_body": self._title_body,
            "excerpts": self._excerpt,
        }

    def queries(self, passages: Passages) -> list[Found]:
        """What is found for each passage of a document, aligned with its chunks."""
        found: list[Found] = []
        before: Chunk | None = None
        number = 0
        for row, chunk in enumerate(passages.chunks):
            number = number + 1 if before is not None and before.section == chunk.section else 0
            leads = chunk.section == passages.chunks[0].section
            section = passages.document.sections[chunk.section]
            found.append(self._first(_Place(passages, row, section, number, leads)))
            before = chunk
        return found

    def _first(self, place: _Place) -> Found:
        for builder in self._builders:
            if builder in self._by_name:
                found = self._by_name[builder](place)
            else:  # what the file pairs itself: question_answer, paraphrase, faq, docstring_code
                asked = tuple(query for name, query in place.section.asked if name == builder)
                found = Found(_text(place), asked, builder) if asked else None
            if found is not None:
                return found
        return Found(_text(place))

    def _title_body(self, place: _Place) -> Found | None:
        """The title asks for the first passages, those above the first heading if there are any."""
        title = place.passages.document.title
        if not place.leads or place.number >= _MOST_POSITIVES or not says_something(title):
            return None
        return Found(_text(place), (title,), "title_body") if self._titles[normalised(title)] == 1 else None

    def _heading_section(self, place: _Place) -> Found | None:
        """The heading asks for the first passages below it.

        A heading that stands in several places is joined to the ones above it, up to the title, until it is the only
        one; where even that is not enough it is no query. Code that is asked by its docstring has a name, no heading.
        """
        path = place.section.path
        if not path or place.number >= _MOST_POSITIVES or not says_something(path[-1]) or _is_named_code(place.section):
            return None
        names = _names(place.passages.document.title, path)
        query = next((name for name in names if self._headings[normalised(name)] == 1), None)
        return Found(_text(place), (query,), "heading_section") if query else None

    def _excerpt(self, place: _Place) -> Found | None:
        """A sentence asks for the rest of its passage (the inverse cloze task, arXiv 1906.00300, always taken out).

        The sentence is none that the next passage repeats, or that one would hold it word for word.
        """
        chunk, following = place.passages.chunks[place.row], place.passages.chunks[place.row + 1 : place.row + 2]
        shared = following[0].repeated if following and following[0].section == chunk.section else 0
        own = range(chunk.repeated, len(chunk.units) - shared)
        fit = [i for i in own if not chunk.units[i].code and _is_long(chunk.units[i].text)]
        if len(chunk.units) < _LEAST_UNITS or not fit:
            return None
        chosen = min(fit, key=lambda i: stable_hash(self._seed, f"{place.passages.ids[place.row]}:{i}"))
        rest = joined([unit for i, unit in enumerate(chunk.units) if i != chosen])
        return Found(rest, (" ".join(chunk.units[chosen].text.split()),), "excerpts")


def context(title: str, path: Sequence[str], asked: Collection[str]) -> str:
    """A passage's title: the document's and the headings above, without those that a query of the document holds.

    A query that stands in the title of its passage would be found by that alone; in the titles of its neighbours it
    would make them look like answers. So none of a document's passages has it.

    Args:
        title, path: of the document and the section.
        asked: the document's queries, normalised.

    >>> context("Pump", ("Care", "1. Cleaning the filter"), ["cleaning the filter"])
    'Pump > Care'
    """
    parts = [(part, normalised(bare(part))) for part in (title, *path) if part]
    return " > ".join(part for part, words in parts if not any(words in query for query in asked))


def says_something(heading: str) -> bool:
    """Whether a title or heading may be a query.

    >>> says_something("Cleaning the filter"), says_something("1 Introduction"), says_something("2.4")
    (True, False, False)
    """
    words = re.sub(r"^[\W\d_]+|[\W_]+$", "", normalised(heading))
    return len(words) > 1 and words not in _GENERIC


def _names(title: str, path: Sequence[str]) -> list[str]:
    """What a heading may be called, the shortest first.

    >>> _names("Pump", ("2. Care", "Filter"))
    ['Filter', 'Care: Filter', 'Pump: Care: Filter']
    """
    parts = [part for part in (bare(name) for name in (title, *path)) if part] if path else []
    return [": ".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]


def _text(place: _Place) -> str:
    return place.passages.chunks[place.row].text


def _is_named_code(section: Section) -> bool:
    return any(builder == "docstring_code" for builder, _ in section.asked)


def _is_long(sentence: str) -> bool:
    """Long enough to be a query: words, or characters where a script has no spaces."""
    return len(sentence.split()) >= _LEAST_WORDS or (not sentence.isascii() and len(sentence) >= 2 * _LEAST_WORDS)
