"""The builders: which queries a passage answers, from what its document says by itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bgetune.config_data import Builder
from bgetune.data import normalised

from .parts import Document, bare
from .passages import Passage, Passages
from .repeats import without_first, words_of

_MOST_POSITIVES = 4
_LEAST_WORDS = 2
"""Of a query that is a title or heading: one word alone is the topic of many passages and asks for none of them."""
# Thai to Khmer, kana, Chinese: words without spaces between them, taken to have two characters each
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_NUMERAL = re.compile(r"[^\w\s]*(?:[\d.,-]*\d[a-z]?|[A-Za-z]|(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3}))[^\w\s]*")
"""3, 4.2, 3a, B, II."""
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
class Found:
    """The queries of a passage, who found them, and its text, which may lack what became a query."""

    text: str
    queries: tuple[str, ...] = ()
    builder: Builder | None = None


class Finder:
    """Finds queries with the builders in their order; what is ambiguous is known from all documents together."""

    def __init__(self, every: Sequence[Passages], builders: Sequence[Builder]) -> None:
        self._builders = builders
        self._titles = Counter(normalised(passages.document.title) for passages in every)
        self._headings = Counter(
            normalised(name)
            for passages in every
            for path in passages.paths
            for name in _names(passages.document.title, path)
        )
        self._by_name: dict[Builder, Callable[[Document, Passage], Found | None]] = {
            "heading_section": self._heading_section,
            "title_body": self._title_body,
            "excerpts": _excerpt,
        }
        self.useless: dict[tuple[str, str], None] = {}
        """Document and name of the titles and headings that made no query, since they are numbers or too short."""

    def queries(self, passages: Passages) -> list[Found]:
        """What is found for each passage of a document, aligned with its rows."""
        return [self._first(passages.document, row) for row in passages.rows]

    def _first(self, document: Document, row: Passage) -> Found:
        for builder in self._builders:
            if builder in self._by_name:
                found = self._by_name[builder](document, row)
            else:  # what the file pairs itself: question_answer, paraphrase, faq, docstring_code
                asked = tuple(query for name, query in row.asked if name == builder)
                found = Found(row.text, asked, builder) if asked else None
            if found is not None and (found := _answering(found)) is not None:
                return found
        return Found(row.text)

    def _title_body(self, document: Document, row: Passage) -> Found | None:
        """The title asks for the first passages, those above the first heading if there are any."""
        title = document.title
        if not row.leads or row.number >= _MOST_POSITIVES or not says_something(title):
            return None
        if count_words(title) < _LEAST_WORDS:
            self.useless[document.name, title] = None
            return None
        return Found(row.text, (title,), "title_body") if self._titles[normalised(title)] == 1 else None

    def _heading_section(self, document: Document, row: Passage) -> Found | None:
        """The heading asks for the first passages below it.

        A heading of one word, or that stands in several places, is joined to the ones above it, up to the title, until
        it is long enough and the only one; where even that does not do it is no query. Code that is asked by its
        docstring has a name, no heading.
        """
        named_code = any(builder == "docstring_code" for builder, _ in row.asked)
        if not row.path or row.number >= _MOST_POSITIVES or not says_something(row.path[-1]) or named_code:
            return None
        only = [name for name in _names(document.title, row.path) if self._headings[normalised(name)] == 1]
        numbered = is_numbered(bare(row.path[-1]))
        query = next((name for name in only if count_words(name) >= _LEAST_WORDS and not numbered), None)
        if query is None and only:
            self.useless[document.name, row.path[-1]] = None
        return Found(row.text, (query,), "heading_section") if query else None


def _excerpt(_document: Document, row: Passage) -> Found | None:
    """A sentence asks for the rest of its passage (the inverse cloze task, arXiv 1906.00300, always taken out)."""
    return Found(row.excerpt[1], (row.excerpt[0],), "excerpts") if row.excerpt else None


def _answering(found: Found) -> Found | None:
    """The same without its queries at the beginning of the text; None where nothing else is in it.

    Code keeps what it begins with, and so does a text that was written to say the same as the query.
    """
    if found.builder == "docstring_code":
        return found
    text = without_first(found.text, found.queries)
    if text != found.text and not words_of(text):
        return None
    return found if found.builder == "paraphrase" else Found(text, found.queries, found.builder)


def says_something(heading: str) -> bool:
    """Whether a title or heading may be a query.

    >>> says_something("Cleaning the filter"), says_something("1 Introduction"), says_something("2.4")
    (True, False, False)
    """
    words = re.sub(r"^[\W\d_]+|[\W_]+$", "", normalised(heading))
    return len(words) > 1 and words not in _GENERIC


def count_words(text: str) -> int:
    """Words of letters; numerals, and single letters of the Latin alphabet, are none.

    >>> count_words("Care of valves"), count_words("Tier 3"), count_words("Part II: B"), count_words("Set-up")
    (3, 1, 1, 2)
    >>> count_words("泵的清洁"), count_words("पंप की सफाई")
    (2, 3)
    """
    close = _WITHOUT_SPACES.findall(text)
    words = re.split(r"[\s/:–—-]+", _WITHOUT_SPACES.sub(" ", text))
    return len(close) // 2 + sum(any(map(str.isalpha, word)) and not _NUMERAL.fullmatch(word) for word in words)


def is_numbered(heading: str) -> bool:
    """Whether a title or heading is a number, with one word before it at most.

    >>> [is_numbered(text) for text in ("Tier 3", "Part II", "Appendix B.", "4.2", "Valves", "IPv6", "Type 2 diabetes")]
    [True, True, True, True, False, False, False]
    """
    return count_words(heading) < _LEAST_WORDS and bool(_NUMERAL.fullmatch((heading.split() or [""])[-1]))


def _names(title: str, path: Sequence[str]) -> list[str]:
    """What a heading may be called, the shortest first.

    >>> _names("Pump", ("2. Care", "Filter"))
    ['Filter', 'Care: Filter', 'Pump: Care: Filter']
    """
    parts = [part for part in (bare(name) for name in (title, *path)) if part] if path else []
    return [": ".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
