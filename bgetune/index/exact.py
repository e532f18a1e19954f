"""Exact dense scores without an index: what approximate search is compared with, and its finds are re-scored by.

Shapes: N passages, D width, Q queries, C candidates of a query, K results of a query.
"""

from __future__ import annotations

import faiss
import numpy as np

from bgetune.config import Similarity
from bgetune.fusion import best

ROWS_AT_ONCE = 1 << 14
"""Vectors that are read, made float32 and handed on at once (64 MiB at width 1,024)."""

_QUERIES_AT_ONCE = 64  # candidates of so many queries are read together, each passage once


def prepared(vectors: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Vectors as FAISS takes them: float32 [N, D], of length 1 under cosine.

    >>> prepared(np.array([[3.0, 4.0]]), "cosine").tolist() == [[np.float32(0.6), np.float32(0.8)]]
    True
    """
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if similarity != "cosine":
        return rows
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def metric_of(similarity: Similarity) -> int:
    """FAISS's number for the metric that `prepared` vectors are compared by."""
    return int(faiss.METRIC_L2 if similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT)


def ranked(found: np.ndarray, rows: np.ndarray, similarity: Similarity, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """FAISS's answer, [Q, C] each, as ours: higher is nearer, equal scores by row, -inf where the row is -1."""
    scores = -np.sqrt(np.maximum(found, 0.0)) if similarity == "euclidean" else found
    return best(np.where(rows < 0, -np.inf, scores).astype(np.float32), rows, depth)


def exact_search(
    queries: np.ndarray, vectors: np.ndarray, similarity: Similarity, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of each query, by comparing it with all; holds `ROWS_AT_ONCE` vectors at a time.

    Args:
        queries: float [Q, D].
        vectors: float16 or float32 [N, D], in memory or mapped.

    Returns:
        Scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row; K = min(depth, N).

    >>> exact_search(np.array([[0.0, 2.0]]), np.eye(3, 2), "dot", 2)[1].tolist()
    [[1, 0]]
    """
    asking = prepared(queries, similarity)
    scores, rows = np.zeros((len(asking), 0), np.float32), np.zeros((len(asking), 0), np.int64)
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        block = prepared(vectors[start : start + ROWS_AT_ONCE], similarity)
        near, at = faiss.knn(asking, block, min(depth, len(block)), metric=metric_of(similarity))
        near, at = ranked(near, at.astype(np.int64), similarity, depth)
        scores, rows = best(np.hstack([scores, near]), np.hstack([rows, np.where(at < 0, -1, at + start)]), depth)
    return scores, rows


def pair_scores(queries: np.ndarray, passages: np.ndarray, rows: np.ndarray, similarity: Similarity) -> np.ndarray:
    """float32 [Q, C]: scores of each query, [Q, D], with its own passages out of [N, D]; row -1 gives anything.

    Each query by itself, so that its scores do not depend on which others are asked.

    >>> pair_scores(np.eye(2), np.array([[0.0, 2.0], [3.0, 4.0]]), np.array([[1], [0]]), "dot").tolist()
    [[3.0], [2.0]]
    """
    found = np.empty(rows.shape, dtype=np.float32)
    for i, query in enumerate(np.asarray(queries, dtype=np.float32)):
        own = np.asarray(passages[rows[i]], dtype=np.float32)
        if similarity == "euclidean":
            found[i] = -np.linalg.norm(own - query, axis=1)
        else:
            found[i] = own @ query
            if similarity == "cosine":
                found[i] /= np.maximum(np.linalg.norm(own, axis=1) * np.linalg.norm(query), 1e-12)
    return found


def rescored(
    queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray, similarity: Similarity, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `depth` best of each query's candidates by their exact scores.

    Args:
        vectors: float16 or float32 [N, D], in memory or mapped; only rows among the candidates are read, ascending.
        rows: int64 [Q, C], -1 for an empty place.

    Returns:
        Scores float32 [Q, K], -inf at empty places, and rows int64 [Q, K], best first, equal scores by row.

    >>> found = rescored(np.eye(1, 2), np.eye(3, 2), np.array([[2, -1, 0]]), "dot", 2)
    >>> [x.tolist() for x in found]
    [[[1.0, 0.0]], [[0, 2]]]
    """
    scores = np.empty(rows.shape, dtype=np.float32)
    for start in range(0, len(rows), _QUERIES_AT_ONCE):
        some = slice(start, start + _QUERIES_AT_ONCE)
        wanted, place = np.unique(np.maximum(rows[some], 0), return_inverse=True)
        read, asking = prepared(vectors[wanted], similarity), prepared(queries[some], similarity)
        # of length 1 as they now are, cosine is their product, and no length is computed once a query
        kind: Similarity = "euclidean" if similarity == "euclidean" else "dot"
        scores[some] = pair_scores(asking, read, place.reshape(rows[some].shape), kind)
    return best(np.where(rows < 0, -np.inf, scores).astype(np.float32), rows, depth)
