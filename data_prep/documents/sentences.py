"""Where sentences end: punctuation of many scripts, common abbreviations, the items of a list.

Own code, not a library: nltk's Punkt loads data from the network, pysbd has had no release since 2021, and a border
that is wrong here only moves the edge of a passage.
"""

from __future__ import annotations

import re

_CLOSERS = "\"'”’»)\\]」』）】"
_END = re.compile(
    rf"(?P<spaced>[.!?…]+[{_CLOSERS}]*)(?=\s)"  # Latin, Greek, Cyrillic: white space follows
    rf"|[。！？｡।॥؟۔።։]+[{_CLOSERS}]*"  # CJK, Devanagari, Arabic, Urdu, Ethiopic, Armenian: it need not
    r"|(?=\n[^\S\n]*(?:[-*•]|\d{1,3}[.)])\s)"  # a list in plain text
    r"|(?=\n[^\S\n]*\n)"
)
_NEXT = re.compile(r"\s*(\S)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|cf|approx|Fig|Figs|Eq|No|Nos|Vol|pp|Inc|Ltd|Co|Corp|Gen|Sen|Rep|resp"
    r"|Abb|Nr|bzw|ca|z\.B|d\.h|u\.a)|\b[A-Za-z]\.[A-Za-z]|\bet al|\betc)\.$"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence, white space around it left out; together they hold all else of the text.

    >>> text = "Dr. Who came at 3.15 p.m. on time. He left!  今日は。明日も。"
    >>> [text[start:end] for start, end in sentence_spans(text)]
    ['Dr. Who came at 3.15 p.m. on time.', 'He left!', '今日は。', '明日も。']
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        if match["spaced"] and not _ends(text, match):
            continue
        start = _add(spans, text, start, match.end())
    _add(spans, text, start, len(text))
    return spans


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a full stop before white space ends a sentence."""
    following = _NEXT.match(text, match.end())
    if following and following[1].islower():
        return False
    return not (match[0] == "." and _ABBREVIATION.search(text[max(0, match.end() - 12) : match.end()]))


def _add(spans: list[tuple[int, int]], text: str, start: int, end: int) -> int:
    """Append the span without the white space at its ends, if anything is left."""
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip())
    last = start + len(piece.rstrip())
    if first < last:
        spans.append((first, last))
    return end
