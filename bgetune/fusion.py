"""Several retrievers' scores made one, as pure functions of matrices.

Shapes: Q queries, C candidates of a query, K results of a query. Rows are positions in the corpus, -1 an empty place;
a score of -inf says that the retriever did not find, or cannot score, what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def candidates(*rows: np.ndarray) -> np.ndarray:
    """What any of the retrievers found for each query, once each.

    Args:
        rows: int64 [Q, K] of each retriever; K may differ.

    Returns:
        Rows int64 [Q, C], ascending, filled with -1 to the longest union.

    >>> candidates(np.array([[7, 2], [5, -1]]), np.array([[2, 9], [5, -1]])).tolist()
    [[2, 7, 9], [5, -1, -1]]
    """
    empty = np.iinfo(np.int64).max  # sorts behind every row
    found = np.concatenate(rows, axis=1).astype(np.int64)
    found = np.sort(np.where(found < 0, empty, found), axis=1)
    repeated = found[:, 1:] == found[:, :-1]
    found[:, 1:][repeated] = empty
    found = np.sort(found, axis=1)
    longest = int((found != empty).sum(axis=1).max(initial=0))
    return np.where(found == empty, -1, found)[:, :longest]


def weighted_sum(scores: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Sum of weight times score, BGE-M3's hybrid score (arXiv 2402.03216 §3.3, s_inter and s_rank).

    A retriever of weight 0 is left out, whatever it scored; from any other, -inf stays -inf.

    Args:
        scores: retriever -> float [Q, C], the same candidates in the same places.
        weights: retriever -> weight, 0 or more; it may name retrievers that are not in `scores`.

    Returns:
        float32 [Q, C], the same whatever the order of the retrievers.

    >>> scores = {"dense": np.array([[0.5, 0.25]]), "sparse": np.array([[0.0, 1.0]])}
    >>> weighted_sum(scores, {"dense": 1.0, "sparse": 0.5}).tolist()
    [[0.5, 0.75]]
    """
    assert scores
    assert all(weights[name] >= 0 for name in scores), weights
    total = np.zeros(next(iter(scores.values())).shape)
    for name in sorted(scores):
        if weights[name]:
            total += weights[name] * np.asarray(scores[name], dtype=np.float64)
    return total.astype(np.float32)


def reciprocal_rank(scores: Mapping[str, np.ndarray], k: int = 60) -> np.ndarray:
    """Reciprocal rank fusion: sum over retrievers of 1 / (k + rank), ranks from 1 (Cormack et al., SIGIR 2009).

    Equal scores of one retriever rank by place, so by row where the candidates ascend. -inf has no rank and adds
    nothing; an empty place (row -1) has to be -inf in every retriever, or the ranks behind it are one too low.

    Args:
        scores: retriever -> float [Q, C], the same candidates in the same places.
        k: how little the first ranks stand out; 60 is the paper's.

    Returns:
        float32 [Q, C], the same whatever the order of the retrievers; 0 where none has a rank.

    >>> scores = {"dense": np.array([[0.9, 0.1, 0.5]]), "sparse": np.array([[-np.inf, 8.0, 9.0]])}
    >>> [round(1 / float(x), 1) for x in reciprocal_rank(scores)[0]]  # 1/61; 1/63 + 1/62; 1/62 + 1/61
    [61.0, 31.2, 30.7]
    """
    assert scores
    parts = np.stack([_reciprocals(each, k) for each in scores.values()])
    # the smallest first: ranks (1, 2, 3) and (3, 1, 2) then have the very same sum and tie, as they should
    return np.sort(parts, axis=0).sum(axis=0).astype(np.float32)


def _reciprocals(scores: np.ndarray, k: int) -> np.ndarray:
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None, :], axis=1)
    return np.where(np.isneginf(scores), 0.0, 1.0 / (k + ranks))


def best(scores: np.ndarray, rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The `depth` best candidates of each query, equal scores by row, empty places last.

    Args:
        scores: float [Q, C].
        rows: int64 [Q, C], -1 for an empty place, whose score does not matter.

    Returns:
        Scores as given [Q, K] and rows int64 [Q, K], best first; K = min(depth, C).

    >>> found, rows = best(np.array([[0.5, 9.0, 0.7, 0.5]]), np.array([[8, -1, 4, 3]]), depth=3)
    >>> found.tolist(), rows.tolist()
    ([[0.7, 0.5, 0.5]], [[4, 3, 8]])
    """
    order = np.lexsort((rows, -scores, rows < 0), axis=1)[:, :depth]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
