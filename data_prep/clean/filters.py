"""Cleaning a set: passages that say the same become one, useless ones go, and the judgements follow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bgetune.config_data import CleanConfig
from bgetune.data import Qrels, RetrievalSet, Texts
from bgetune.errors import UserError

from ..split import ORIGINS, origins
from .duplicates import exact_duplicates, near_duplicate_leaders
from .language import foreign

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


@dataclass(frozen=True)
class Cleaned:
    """A set after cleaning."""

    data: RetrievalSet
    counts: dict[str, int]
    """How many by reason, reasons without any left out."""
    home: dict[str, str]
    """The id of each passage that was merged -> the id of the one that stays for it. Passages that were left out are
    absent."""


def clean(data: RetrievalSet, settings: CleanConfig, kind: str, option: str) -> Cleaned:
    """Leave out passages by length, then by language, then make one of those that say the same.

    Of passages that say the same the first in the corpus stays; the others' judgements become its own, the highest
    relevance counting, and its metadata name all their documents and groups (`documents`, `groups`, where there are
    others than its own). Queries that had a relevant passage and have none left go; queries without judgements stay.

    Args:
        kind: the source's kind; documents have near-duplicates merged unless told otherwise.
        option: the source's `clean`, e.g. `data.domain.clean`, for messages.

    Raises:
        UserError: an unknown language; no passage is left, or no query of a split that had some.
    """
    texts = data.corpus.full_texts()
    counts: dict[str, int] = {}
    rows = _by_length(texts, range(len(texts)), settings, counts)
    if settings.languages:
        there = foreign([texts[i] for i in rows], settings.languages, f"{option}.languages")
        rows = _kept(rows, [not other for other in there], "passages in another language", counts)
    if not rows:
        raise UserError(f"{option}: leaves none of {len(texts)} passages ({_told(counts)}); ask for less")
    first = _duplicates([texts[i] for i in rows], settings, kind)
    home = {data.corpus.ids[row]: data.corpus.ids[rows[first[i]]] for i, row in enumerate(rows)}
    merged = {old: kept for old, kept in home.items() if old != kept}
    rows = _kept(rows, first == np.arange(len(rows)), "duplicate passages merged", counts)
    corpus = _with_origins(data.corpus, merged).take(rows)
    qrels = {split: _moved(judged, home) for split, judged in data.qrels.items()}
    for split, judged in data.qrels.items():
        if judged and not qrels[split]:
            raise UserError(
                f"{option}: leaves no query of the {split} split a relevant passage ({_told(counts)}); ask for less"
            )
    queries = _still_judged(data, qrels)
    if len(queries) < len(data.queries):
        counts["queries left without a relevant passage"] = len(data.queries) - len(queries)
    return Cleaned(RetrievalSet(corpus, queries, qrels), counts, merged)


def word_count(text: str) -> int:
    """How many words a text has; Chinese and Japanese put no space between them, there a character is a word.

    >>> word_count("Two words, 你好")
    4
    """
    return sum(1 for _ in _WORD.finditer(text))


def _by_length(texts: Sequence[str], rows: Sequence[int], settings: CleanConfig, counts: dict[str, int]) -> list[int]:
    if settings.min_words <= 0 and settings.max_words is None:
        return list(rows)
    sizes = np.array([word_count(texts[i]) for i in rows])
    short = sizes < settings.min_words
    long = sizes > (settings.max_words if settings.max_words is not None else np.inf)
    for reason, gone in (("passages too short", short), ("passages too long", long & ~short)):
        if gone.any():
            counts[reason] = int(gone.sum())
    return [row for row, gone in zip(rows, short | long, strict=True) if not gone]


def _kept(rows: Sequence[int], stays: Sequence[bool] | np.ndarray, reason: str, counts: dict[str, int]) -> list[int]:
    kept = [row for row, stay in zip(rows, stays, strict=True) if stay]
    if len(kept) < len(rows):
        counts[reason] = len(rows) - len(kept)
    return kept


def _duplicates(texts: Sequence[str], settings: CleanConfig, kind: str) -> np.ndarray:
    """For each text the number of the one that stays for it."""
    how = settings.duplicates
    if how == "auto":
        how = "near" if kind == "documents" else "keep"
    if how == "near":
        return near_duplicate_leaders(texts, settings.near_threshold)
    return exact_duplicates(texts) if how == "exact" else np.arange(len(texts))


def _with_origins(corpus: Texts, merged: Mapping[str, str]) -> Texts:
    """The corpus, where the passages that stay know the documents and groups of those merged into them."""
    if not corpus.metadata or not merged:
        return corpus
    row = {passage_id: i for i, passage_id in enumerate(corpus.ids)}
    members: dict[int, list[int]] = {}
    for old, kept in merged.items():
        members.setdefault(row[kept], [row[kept]]).append(row[old])
    metadata = list(corpus.metadata)
    for kept_row, rows in members.items():
        metadata[kept_row] = _origins([corpus.metadata[i] for i in rows])
    return replace(corpus, metadata=metadata)


def _origins(known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first one's metadata with what the others came from.

    >>> _origins([{"document": "a", "page": 1}, {"document": "b"}, {"document": "a", "group": "g"}])
    {'document': 'a', 'page': 1, 'documents': ['a', 'b'], 'groups': ['g']}
    """
    found = dict(known[0])
    for one, many in ORIGINS.items():
        of_all = list(dict.fromkeys(value for metadata in known for value in origins(metadata, one)))
        if of_all != origins(known[0], one):
            found[many] = of_all
    return found


def _moved(qrels: Qrels, home: dict[str, str]) -> Qrels:
    """Judgements of passages that are left; queries without a relevant one are absent.

    >>> _moved({"q": {"a": 1, "b": 2, "gone": 1}, "r": {"gone": 1}}, {"a": "a", "b": "a"})
    {'q': {'a': 2}}
    """
    moved: Qrels = {}
    for query_id, judged in qrels.items():
        left: dict[str, int] = {}
        for passage_id, relevance in judged.items():
            if passage_id in home:
                kept = home[passage_id]
                left[kept] = max(relevance, left.get(kept, relevance))
        if any(relevance > 0 for relevance in left.values()):
            moved[query_id] = left
    return moved


def _still_judged(data: RetrievalSet, qrels: dict[str, Qrels]) -> Texts:
    """The queries without those that had judgements and have none left in any split."""
    before = {query_id for judged in data.qrels.values() for query_id in judged}
    gone = before - {query_id for judged in qrels.values() for query_id in judged}
    return data.queries.take([i for i, query_id in enumerate(data.queries.ids) if query_id not in gone])


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
