"""An exact inverted index over sparse vectors: BGE-M3's lexical head.

Shapes: N texts, T entries of all texts together, Q queries, C candidates of a query, K results of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

# Most scores of a block of queries against the corpus that are held at once; 8 bytes each.
_BLOCK_SCORES = 2**24


@dataclass(frozen=True)
class SparseMatrix:
    """N sparse vectors over `width` vocabulary ids; text i has the entries `indptr[i]:indptr[i + 1]`.

    indptr: int64 [N + 1]; ids: int32 [T], ascending and distinct within a text; weights: float32 [T], none of them 0.
    """

    indptr: np.ndarray
    ids: np.ndarray
    weights: np.ndarray
    width: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def to_scipy(self) -> sparse.csr_array:
        """float32 [N, width].

        >>> m = SparseMatrix(np.array([0, 2, 2]), np.array([1, 3]), np.array([0.5, 2.0]), width=4)
        >>> m.to_scipy().toarray().tolist()
        [[0.0, 0.5, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
        """
        # scipy gives ids and indptr one type, and a wider indptr would double the ids
        small = max(len(self.ids), self.width) <= np.iinfo(np.int32).max
        indptr = self.indptr.astype(np.int32 if small else np.int64)
        weights = self.weights.astype(np.float32, copy=False)
        return sparse.csr_array((weights, self.ids, indptr), shape=(len(self), self.width))


class SparseIndex:
    """Score: sum over shared ids of query weight times passage weight (arXiv 2402.03216 §3.2), in float32."""

    def __init__(self, passages: sparse.csr_array) -> None:
        self._passages = passages

    @cached_property
    def _inverted(self) -> sparse.csr_array:
        """[width, N]: the passages of each id; scores of given passages need none."""
        return self._passages.T.tocsr()

    @classmethod
    def build(cls, passages: SparseMatrix) -> SparseIndex:
        """Rows are positions in `passages`."""
        return cls(passages.to_scipy())

    def search(self, queries: SparseMatrix, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The best passages of each query among those that share an id with it.

        Every score is summed by ascending id, so it depends on nothing but its two texts.

        Returns:
            Scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row, K = min(depth, N);
            row -1, with score 0: none found.
        """
        size = self._inverted.shape[1]
        depth = min(depth, size)
        scores = np.zeros((len(queries), depth), dtype=np.float32)
        rows = np.full((len(queries), depth), -1, dtype=np.int64)
        if depth == 0:
            return scores, rows
        matrix = queries.to_scipy()
        block = max(1, _BLOCK_SCORES // size)
        for start in range(0, len(queries), block):
            product = matrix[start : start + block] @ self._inverted
            for i, (low, high) in enumerate(zip(product.indptr[:-1], product.indptr[1:], strict=True), start=start):
                found, at = _top(product.data[low:high], product.indices[low:high], depth)
                scores[i, : len(found)], rows[i, : len(at)] = found, at
        return scores, rows

    def scores_of(self, queries: SparseMatrix, rows: np.ndarray) -> np.ndarray:
        """Scores of each query's own candidates, bit for bit those of `search`.

        Args:
            rows: int64 [Q, C], -1 for an empty place.

        Returns:
            float32 [Q, C]; 0 where no id is shared, and at empty places, for the caller to mask.
        """
        scores = np.zeros(rows.shape, dtype=np.float32)
        dense = np.zeros(queries.width, dtype=np.float32)  # one query at a time
        for i, (low, high) in enumerate(zip(queries.indptr[:-1], queries.indptr[1:], strict=True)):
            at = rows[i] >= 0
            if low == high or not at.any():
                continue
            ids = queries.ids[low:high]
            dense[ids] = queries.weights[low:high]
            scores[i, at] = self._passages[rows[i, at]] @ dense
            dense[ids] = 0.0
        return scores


def _top(scores: np.ndarray, rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The `depth` best of one query, best first, equal scores by row, also across the cut.

    >>> [x.tolist() for x in _top(np.array([1.0, 3.0, 1.0, 2.0]), np.array([9, 4, 6, 8]), depth=3)]
    [[3.0, 2.0, 1.0], [4, 8, 6]]
    """
    if len(scores) > depth:
        last = np.partition(scores, -depth)[-depth]
        kept = scores >= last  # all that tie with the last place; their rows decide
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((rows, -scores))[:depth]
    return scores[order], rows[order]
