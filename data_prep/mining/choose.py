"""From rankings to each query's negatives: filters, teacher, quotas, sampling.

Shapes: Q queries, K places of a window, P most positives of a query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from bgetune.config_data import MineConfig, Signal
from bgetune.corpus import Corpus, text_hash
from bgetune.data import Qrels, Texts
from bgetune.progress import progress
from bgetune.search import Ranking

from ..neardup import words_of
from .select import Candidate, Doubts, Query, exceeded, filter_candidates, quotas, sample, score_limits
from .signals import Signals
from .teacher import filters, teacher_limits

Score = Callable[[np.ndarray], np.ndarray]
"""Teacher scores float32 [Q, C] of each query's own passages, rows int64 [Q, C] with -1 for an empty place."""


@dataclass
class Windows:
    """All that selection is made from."""

    rankings: dict[Signal, Ranking]
    positives: np.ndarray
    """Rows int64 [Q, P], -1 behind."""
    positive_scores: dict[Signal, np.ndarray]
    """Under each source, float32 [Q, P]; -inf behind."""
    suspected: np.ndarray | None = None
    """bool [Q, all windows side by side]: two signals rank it above the best positive."""


@dataclass
class Chosen:
    """Each query's negatives, best first within a source, and what was dropped."""

    negatives: list[list[Candidate]]
    dropped: dict[Signal, Counter[str]]
    teacher: list[dict[int, float]] = field(default_factory=list)
    """Row -> teacher's score, of each query's positives and negatives; empty without a teacher."""


def open_windows(signals: Signals, queries: Texts, qrels: Qrels, corpus: Corpus, settings: MineConfig) -> Windows:
    """Search with every source, and score the positives, which the search may have missed."""
    rows = [corpus.rows_of(positives_of(qrels, query_id)) for query_id in queries.ids]
    positives = padded(rows)
    rankings = {source: signals.ranking(source) for source in settings.sources}
    scores = {source: signals.scores_of(source, positives) for source in settings.sources}
    windows = Windows(rankings, positives, scores)
    if settings.agreement:
        side_by_side = np.concatenate([rows for _, rows in rankings.values()], axis=1)
        above = []
        for signal in settings.agreement:
            best = signals.scores_of(signal, positives).max(axis=1, keepdims=True)
            above.append(signals.scores_of(signal, side_by_side, "candidates") > best)
        windows.suspected = above[0] & above[1]
    return windows


def positives_of(qrels: Qrels, query_id: str) -> list[str]:
    return [passage_id for passage_id, relevance in qrels[query_id].items() if relevance > 0]


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Lists of rows to one array int64 [len(rows), longest], -1 behind.

    >>> padded([[4], [], [7, 2]]).tolist()
    [[4, -1], [-1, -1], [7, 2]]
    """
    found = np.full((len(rows), max(map(len, rows), default=0)), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        found[i, : len(row)] = row
    return found


def choose(windows: Windows, queries: Texts, corpus: Corpus, settings: MineConfig, teacher: Score | None) -> Chosen:
    """Each query's negatives, by the quotas of the sources."""
    chosen = Chosen([], {source: Counter() for source in settings.sources})
    if teacher is None or not filters(settings.teacher):
        for i in _with_bar(queries):
            found = _survivors(i, windows, queries, corpus, settings, chosen)
            chosen.negatives.append(_sampled(found, queries.ids[i], corpus, settings))
        chosen.teacher = _teacher_scores(windows, chosen.negatives, teacher) if teacher else []
        return chosen
    first = settings.teacher.candidates
    scored = [
        {source: kept[:first] for source, kept in _survivors(i, windows, queries, corpus, settings, chosen).items()}
        for i in _with_bar(queries)
    ]
    scores = _teacher_scores(windows, [[c for kept in by.values() for c in kept] for by in scored], teacher)
    for i, by_source in enumerate(scored):
        for source, kept in by_source.items():
            by_source[source] = _below_teacher(kept, windows.positives[i], scores[i], settings, chosen.dropped[source])
        chosen.negatives.append(_sampled(by_source, queries.ids[i], corpus, settings))
    chosen.teacher = scores
    return chosen


def _with_bar(queries: Texts) -> Iterator[int]:
    with progress(len(queries), "mine: filters", "query") as bar:
        for i in range(len(queries)):
            yield i
            bar.update(1)


def _survivors(
    i: int, windows: Windows, queries: Texts, corpus: Corpus, settings: MineConfig, chosen: Chosen
) -> dict[Signal, list[Candidate]]:
    """What the filters leave of each source's window for one query."""
    known = [int(row) for row in windows.positives[i] if row >= 0]
    refused = {int(corpus.text_hashes[row]) for row in known} | {text_hash(queries.texts[i])}
    query = Query(queries.ids[i], frozenset(known), frozenset(refused))
    about = queries.metadata[i] if queries.metadata else {}
    near = _near(corpus, known, settings.near_duplicate)
    doubts = Doubts(_suspected(windows, i), _related(corpus, known, about), near)
    found = {}
    for source, (scores, rows) in windows.rankings.items():
        window = [
            Candidate(int(row), 0 if source == "random" else rank, float(score), source)
            for rank, (row, score) in enumerate(zip(rows[i], scores[i], strict=True), start=1)
            if row >= 0 and (settings.rank_first <= rank <= settings.rank_last or source == "random")
        ]
        limits = _limits(float(windows.positive_scores[source][i].max()), source, settings)
        found[source] = filter_candidates(
            window, query, lambda row: int(corpus.text_hashes[row]), limits, doubts, chosen.dropped[source]
        )
    return found


def _limits(best: float, source: Signal, settings: MineConfig) -> dict[str, float]:
    """The best-scoring positive sets the limits: one the model misses must not empty the window.

    A positive that shares no word with its query scores 0 in a lexical signal, and is no measure there.
    """
    if source == "random":
        return {}
    if source in ("sparse", "bm25") and best <= 0:
        settings = replace(settings, max_share_of_positive=None, margin=None)
    return score_limits(best, settings)


def _related(corpus: Corpus, positives: list[int], query: dict[str, Any]) -> Callable[[int], bool]:
    """Whether a passage stands under the heading, or in the document, that the query was made of.

    Only the first passages there were made positives; the others are no less an answer.
    """
    keys = {"heading_section": ("document", "section"), "title_body": ("document",)}.get(str(query.get("builder")))
    if keys is None:
        return lambda row: False
    places = {_place(corpus, row, keys) for row in positives}
    return lambda row: _place(corpus, row, keys) in places


def _place(corpus: Corpus, row: int, keys: tuple[str, ...]) -> tuple[str, ...]:
    known = corpus.metadata(row)
    return tuple(str(known.get(key)) for key in keys)


def _near(corpus: Corpus, positives: list[int], threshold: float | None) -> Callable[[int], bool]:
    """Whether a passage shares so many of its words with a positive that it says the same."""
    if threshold is None:
        return lambda row: False
    known = [_words(corpus, row) for row in positives]

    def near(row: int) -> bool:
        words = _words(corpus, row)
        return any(len(words & other) >= threshold * len(words | other) for other in known)

    return near


@lru_cache(maxsize=1 << 12)
def _words(corpus: Corpus, row: int) -> frozenset[str]:
    return words_of(corpus.text(row))


def _suspected(windows: Windows, i: int) -> Callable[[int], bool]:
    if windows.suspected is None:
        return lambda row: False
    rows = np.concatenate([rows[i] for _, rows in windows.rankings.values()])
    suspected = set(rows[windows.suspected[i]].tolist())
    return lambda row: row in suspected


def _sampled(
    found: dict[Signal, list[Candidate]], query_id: str, corpus: Corpus, settings: MineConfig
) -> list[Candidate]:
    """The sources' shares, one source after the other; a text that two of them found is the first one's."""
    taken: list[Candidate] = []
    for source, count in quotas(settings.sources, settings.negatives_per_query).items():
        texts = {int(corpus.text_hashes[candidate.row]) for candidate in taken}
        free = [candidate for candidate in found[source] if int(corpus.text_hashes[candidate.row]) not in texts]
        # a random source is in random order already
        taken += free[:count] if source == "random" else sample(free, count, query_id, settings)
    return taken


def _teacher_scores(windows: Windows, found: list[list[Candidate]], teacher: Score) -> list[dict[int, float]]:
    """The teacher's scores of each query's positives and of what was found for it."""
    rows = padded(
        [
            sorted({int(row) for row in positives if row >= 0} | {candidate.row for candidate in candidates})
            for positives, candidates in zip(windows.positives, found, strict=True)
        ]
    )
    scores = teacher(rows)
    return [
        {int(row): float(score) for row, score in zip(at, of, strict=True) if row >= 0}
        for at, of in zip(rows, scores, strict=True)
    ]


def _below_teacher(
    kept: list[Candidate], positives: np.ndarray, scores: dict[int, float], settings: MineConfig, dropped: Counter[str]
) -> list[Candidate]:
    limits = teacher_limits([scores[int(row)] for row in positives if row >= 0], settings.teacher)
    below = []
    for candidate in kept:
        if (limit := exceeded(scores[candidate.row], limits)) is None:
            below.append(candidate)
        else:
            dropped[limit] += 1
    return below
