"""Queries that their answers repeat: taken out of the answers' titles and first lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from .parts import bare

_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # Thai, Lao, kana, Han, Hangul
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+[+#]*")
_NUMBER = re.compile(r"\W*\d[\d.]*[.)]?\s+")
_LINE_OR_SENTENCE_ENDS = re.compile(r"""(?:[^\w\n]*(?:\n\s*|\Z)|[*_"'”’»)]*(?:[.!?:…]+[*_"'”’»)]*\s+|[。！？：]\s*))""")


def words_of(text: str) -> list[str]:
    """The words that two texts are compared by; where a script has no spaces, its characters.

    >>> words_of("The C++ pump, 泵!")
    ['the', 'c++', 'pump', '泵']
    """
    return _WORD.findall(text.lower())


def contexts(title: str, paths: Iterable[Sequence[str]], queries: Iterable[str]) -> list[str]:
    """The titles of a document's passages: its own and the headings above, without those that its queries repeat.

    A query that stands in the title of its passage would be found by that alone; in the titles of its neighbours it
    would make them look like answers. So none of a document's passages has a title or heading that holds a query of
    the document, or that a query holds, word by word.

    Args:
        title: of the document.
        paths: the headings above each passage.
        queries: all of the document's.

    >>> contexts("Pump", [("Care", "1. Cleaning the filter")], ["cleaning the filter"])
    ['Pump > Care']
    >>> contexts("The Slice Type - The Book", [("Go", "Care of sets")], ["The slice type", "ongoing care of sets"])
    ['Go']
    """
    asked = {tuple(words) for query in queries if (words := words_of(query))}
    every = "|".join(f" {' '.join(words)} " for words in sorted(asked))
    lengths = sorted({len(words) for words in asked})
    repeated: dict[str, bool] = {"": True}

    def repeats(part: str) -> bool:
        if part not in repeated:
            words = words_of(bare(part))
            runs = (tuple(words[i : i + n]) for n in lengths for i in range(len(words) - n + 1))
            repeated[part] = bool(words) and (f" {' '.join(words)} " in every or any(run in asked for run in runs))
        return repeated[part]

    return [" > ".join(part for part in (title, *path) if not repeats(part)) for path in paths]


def without_first(text: str, queries: Iterable[str]) -> str:
    """A text without the lines or sentences at its beginning that are one of the queries; all of it may be.

    >>> without_first("Of pumps\\nOf pumps. They move water.", ["of pumps"])
    'They move water.'
    >>> without_first("Of pumps we know little.", ["Of pumps"])
    'Of pumps we know little.'
    """
    asked = [words for query in queries if (words := words_of(query))]
    while end := max((_end_of(words, text) for words in asked), default=0):
        text = text[end:]
    return text


def _end_of(words: Sequence[str], text: str) -> int:
    """Where the line or sentence of these words at the beginning of a text ends, numbered or not; 0: there is none."""
    # no pattern made of the words: to compile one for each of a million rows takes half an hour
    number = _NUMBER.match(text)
    for start in sorted({0, number.end() if number else 0}):
        found = list(islice(_WORD.finditer(text, start), len(words)))
        if [match[0].lower() for match in found] == list(words):
            ends = _LINE_OR_SENTENCE_ENDS.match(text, found[-1].end())
            return ends.end() if ends else 0
    return 0
