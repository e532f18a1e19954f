"""What the audit is told, and the figures that follow from it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TOP = 100  # a query whose positives are all below this rank is called missed
_Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


@dataclass(frozen=True)
class AuditPassage:
    """A positive or a negative of an example; what is not known is None."""

    passage_id: str
    text: str
    score: float | None = None
    """By the signal in `source`; of a positive, by the first signal."""
    source: str | None = None
    rank: int | None = None
    teacher: float | None = None


@dataclass(frozen=True)
class AuditExample:
    """One query to read, with all that it trains on."""

    query_id: str
    query: str
    positives: Sequence[AuditPassage]
    negatives: Sequence[AuditPassage]


@dataclass(frozen=True)
class TooFew:
    """A query with fewer negatives than wanted."""

    query_id: str
    query: str
    negatives: int


@dataclass(frozen=True)
class Missed:
    """A query that no signal brings a positive for within the first TOP ranks, and one of its positives."""

    query_id: str
    query: str
    passage_id: str
    passage: str


@dataclass(frozen=True)
class TeacherScores:
    """Scores of one array a query, for the queries that were scored. `filtered`: the teacher chose candidates too."""

    name: str
    positives: Sequence[np.ndarray]
    negatives: Sequence[np.ndarray]
    filtered: bool = False


@dataclass(frozen=True)
class FalseNegatives:
    """How many of the judged negatives look like unlabelled positives; `judge` ends the sentence "judged by ..."."""

    judge: str
    suspected: int
    judged: int


@dataclass(frozen=True)
class IndexFacts:
    """An approximate index. `parameter` such as "nprobe 16"; `recall` against exact search on a held sample.

    Leave `ms_per_query` None where the page must be the same bytes on every machine.
    """

    factory: str
    parameter: str
    recall: float
    ms_per_query: float | None = None


@dataclass(frozen=True)
class AuditInput:
    """All that the page and the summary tell. Signals appear in the order in which the mappings name them."""

    name: str
    settings: Mapping[str, Any]
    """The `mine` options as plain values; may be nested."""
    corpus_size: int
    n_queries: int
    negatives_wanted: int
    """mine.negatives_per_query."""
    searched_depth: int
    """mine.rank_last."""
    positive_scores: Mapping[str, np.ndarray]
    """Signal -> float32, all queries' positives together; NaN: no score."""
    negative_scores: Mapping[str, np.ndarray]
    """Signal -> float32, one for every kept negative, under the signal that found it; NaN: no score."""
    negative_ranks: Mapping[str, np.ndarray]
    """Signal -> int64, beside `negative_scores`; 0: no rank (random). A signal may be absent."""
    best_positive_rank: Mapping[str, np.ndarray]
    """Signal -> int64 [n_queries]: rank of the best-ranked positive from 1; 0: not within `searched_depth`."""
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Signal -> reason -> candidates."""
    teacher: TeacherScores | None = None
    false_negatives: FalseNegatives | None = None
    examples: Sequence[AuditExample] = ()
    too_few: Sequence[TooFew] = ()
    """All of them; the page shows the first."""
    missed: Sequence[Missed] = ()
    """At least the first LISTED of page.py; their total is counted from `best_positive_rank`."""
    index: IndexFacts | None = None
    """None: exact search."""
    round_number: int = 1
    queries_changed: int | None = None
    """Queries whose negatives are others than in the round before."""

    def __post_init__(self) -> None:
        for signal, ranks in self.negative_ranks.items():
            assert len(ranks) == len(self.negative_scores[signal]), signal
        for signal, ranks in self.best_positive_rank.items():
            assert len(ranks) == self.n_queries, signal

    @property
    def n_negatives(self) -> int:
        return sum(len(scores) for scores in self.negative_scores.values())


def choose_examples(n_queries: int, count: int, seed: int) -> list[int]:
    """Sorted rows of `count` random queries, or of all where there are fewer.

    >>> choose_examples(1000, 4, seed=0)
    [258, 420, 757, 844]
    >>> choose_examples(3, 20, seed=0)
    [0, 1, 2]
    """
    if n_queries <= count:
        return list(range(n_queries))
    # random() alone is promised to give the same numbers in every Python
    draw, chosen = random.Random(seed).random, set[int]()
    while len(chosen) < count:
        chosen.add(int(draw() * n_queries))
    return sorted(chosen)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, JASA 1927).

    >>> [round(end, 4) for end in wilson(5, 100)], wilson(0, 0)
    ([0.0215, 0.1118], (0.0, 1.0))
    """
    assert 0 <= hits <= n
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def suspects(teacher: TeacherScores) -> FalseNegatives:
    """Negatives that the teacher scores at least as high as the query's best positive.

    >>> FalseNegatives("x", 1, 3) == suspects(TeacherScores("x", [np.array([2.0, 4.0])], [np.array([1.0, 3.0, 4.0])]))
    True
    """
    suspected = judged = 0
    for positives, negatives in zip(teacher.positives, teacher.negatives, strict=True):
        known, scored = finite(positives), finite(negatives)
        if len(known):
            judged += len(scored)
            suspected += int((scored >= known.max()).sum())
    return FalseNegatives(teacher.name, suspected, judged)


def finite(values: np.ndarray) -> np.ndarray:
    """The values that are numbers, as float64: a NaN says that there is no score."""
    wide = np.asarray(values, dtype=np.float64).ravel()
    return wide[np.isfinite(wide)]


def found_within(ranks: np.ndarray, last: int) -> int:
    """How many queries have a positive among the first `last` ranks.

    >>> found_within(np.array([1, 0, 7, 11]), 10)
    2
    """
    return int(((ranks > 0) & (ranks <= last)).sum())


def missed_queries(best_positive_rank: Mapping[str, np.ndarray], searched_depth: int) -> np.ndarray:
    """Sorted rows of the queries that no signal finds a positive for in the first TOP ranks, or in all it searched.

    >>> missed_queries({"dense": np.array([1, 0, 101, 0]), "bm25": np.array([0, 0, 0, 100])}, 200).tolist()
    [1, 2]
    """
    if not best_positive_rank:
        return np.zeros(0, dtype=np.int64)
    last = min(TOP, searched_depth)
    found = [(ranks > 0) & (ranks <= last) for ranks in best_positive_rank.values()]
    return np.flatnonzero(~np.logical_or.reduce(found))
