"""Weights of the heads' scores that rank a dev split best.

Shapes: Q queries, C candidates of a query, J judged candidates of all queries together, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from bgetune.config import JobConfig
from bgetune.data import Qrels
from bgetune.fusion import weighted_sum
from bgetune.searched import EncodedSet, Searched

_STEPS = 10  # a weight is a multiple of 1/10
_CUTOFF = 10
_COMPARED = 2**22  # scores that are compared at once


def tune_weights(
    encoded: EncodedSet,
    query_ids: Sequence[str],
    passage_ids: Sequence[str],
    qrels: Qrels,
    config: JobConfig,
    label: str,
) -> dict[str, float]:
    """The weights with the best mean nDCG@10 over the candidates of the dev queries.

    Tried are the configured weights, and every split of 1 among the heads in steps of 0.1. A head's share is divided by
    the spread of its scores among a query's candidates, because shares are of what moves a ranking: scores of a new
    head, or dot products, may be a hundred times as large as cosines, and a grid in their own unit would then hold
    nothing but that head alone and its absence. The spread is one number a head, so the result is a weighted sum of the
    scores as they are, which a search engine can compute; scaling each query's scores by themselves would not be.

    Args:
        encoded: the dev queries and the corpus.
        query_ids, passage_ids: their ids, in the order of `encoded`.
        qrels: at least of these queries.
        label: for the progress bars.

    Returns:
        Head -> weight of its score, for `fusion.weighted_sum`; among equals the configured ones, else the first tried.
    """
    configured: dict[str, float] = {head: float(getattr(config.train, head).ensemble_weight) for head in encoded.heads}
    if len(configured) == 1:
        return configured
    searched = Searched(encoded, config, config.eval.index, config.eval.depth, label)
    scores = searched.scores()
    judged = judge(searched.rows, query_ids, passage_ids, qrels)
    spreads = {head: _spread(values) for head, values in scores.items()}
    best, most = configured, _mean(ndcg(weighted_sum(scores, configured), judged))
    for shares in simplex(len(spreads), _STEPS):
        weights = _weights(dict(zip(spreads, shares, strict=True)), spreads)
        value = _mean(ndcg(weighted_sum(scores, weights), judged))
        if value > most:
            best, most = weights, value
    return best


def simplex(parts: int, steps: int) -> Iterator[tuple[float, ...]]:
    """Every way to split 1 into so many parts in steps of 1/steps, the first part's largest share first.

    >>> list(simplex(2, 4))
    [(1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0)]
    >>> len(list(simplex(3, 10)))
    66
    """
    for bars in reversed(list(combinations(range(steps + parts - 1), parts - 1))):
        edges = (-1, *bars, steps + parts - 1)
        yield tuple((high - low - 1) / steps for low, high in pairwise(edges))


def _spread(scores: np.ndarray) -> float:
    """Mean over queries of the standard deviation among a query's candidates; 1 where there is none.

    >>> _spread(np.array([[1.0, 3.0, -np.inf], [5.0, 5.0, 5.0]], dtype=np.float32))
    0.5
    """
    there = ~np.isneginf(scores)
    values = np.where(there, scores, 0.0).astype(np.float64)
    count = np.maximum(there.sum(axis=1), 1)
    mean = values.sum(axis=1) / count
    squares = np.where(there, (values - mean[:, None]) ** 2, 0.0).sum(axis=1)
    return float(np.sqrt(squares / count).mean()) or 1.0


def _weights(shares: Mapping[str, float], spreads: Mapping[str, float]) -> dict[str, float]:
    """Shares of what moves a ranking as weights of raw scores, the largest 1, rounded to what a person would write.

    >>> _weights({"dense": 0.5, "sparse": 0.5, "multi_vector": 0.0}, {"dense": 0.1, "sparse": 3.0, "multi_vector": 0.1})
    {'dense': 1.0, 'sparse': 0.0333, 'multi_vector': 0.0}
    """
    raw = {head: share / spreads[head] for head, share in shares.items()}
    largest = max(raw.values())
    return {head: float(f"{weight / largest:.3g}") for head, weight in raw.items()}


@dataclass(frozen=True)
class Judged:
    """The relevant ones among the candidates, and what decides nDCG@10 besides their scores."""

    query: np.ndarray
    """int64 [J], ascending: row of the candidates' matrix."""
    place: np.ndarray
    """int64 [J]: column in it."""
    grade: np.ndarray
    """float64 [J], above 0."""
    before: np.ndarray
    """bool [J, C]: which candidates of its query rank before it where scores are equal: later ids, as in trec_eval."""
    ideal: np.ndarray
    """float64 [Q]: discounted gain of the best possible ranking; 1 where nothing is relevant."""


def judge(rows: np.ndarray, query_ids: Sequence[str], passage_ids: Sequence[str], qrels: Qrels) -> Judged:
    """What the qrels say about candidates: rows int64 [Q, C] of `passage_ids`, -1 for an empty place."""
    order = np.empty(len(passage_ids) + 1, dtype=np.int64)
    order[sorted(range(len(passage_ids)), key=passage_ids.__getitem__)] = np.arange(len(passage_ids))
    order[-1] = -1  # an empty place
    row_of = {passage_id: row for row, passage_id in enumerate(passage_ids)}
    found: list[tuple[int, int, int]] = []
    ideal = np.ones(len(query_ids))
    for i, query_id in enumerate(query_ids):
        relevant = {passage_id: grade for passage_id, grade in qrels[query_id].items() if grade > 0}
        if relevant:
            gains = np.sort(list(relevant.values()))[::-1][:_CUTOFF]
            ideal[i] = (gains / np.log2(np.arange(2, len(gains) + 2))).sum()
        grades = {row_of[passage_id]: grade for passage_id, grade in relevant.items() if passage_id in row_of}
        places = np.flatnonzero(np.isin(rows[i], list(grades)))
        found += [(i, place, grades[rows[i, place]]) for place in places.tolist()]
    query, place, grade = np.array(found, dtype=np.int64).reshape(-1, 3).T
    later = order[rows]
    before = later[query] > later[query, place][:, None]
    return Judged(query, place, grade.astype(np.float64), before, ideal)


def ndcg(scores: np.ndarray, judged: Judged) -> np.ndarray:
    """nDCG@10 of each query's candidates by their scores, float [Q, C], as trec_eval computes it: float64 [Q].

    Only the ranks of relevant candidates are computed: one more than how many stand before them.
    """
    ranks = np.empty(len(judged.query), dtype=np.int64)
    many = max(1, _COMPARED // max(1, scores.shape[1]))
    for start in range(0, len(ranks), many):
        some = slice(start, start + many)
        query, place = judged.query[some], judged.place[some]
        others, own = scores[query], scores[query, place][:, None]
        ranks[some] = ((others > own) | ((others == own) & judged.before[some])).sum(axis=1) + 1
    gains = np.where(ranks <= _CUTOFF, judged.grade / np.log2(ranks + 1), 0.0)
    return np.bincount(judged.query, gains, minlength=len(scores)) / judged.ideal


def _mean(values: np.ndarray) -> float:
    """To 12 digits: the same ranks summed in another order are the same."""
    return round(float(values.mean()), 12)
