"""Cheaper sparse vectors: only a passage's largest weights, or weights of one byte.

Shapes: N passages, T entries of all passages together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from bgetune.config import JobConfig
from bgetune.encoded import Encoded
from bgetune.index.exact import ROWS_AT_ONCE
from bgetune.index.sparse import SparseIndex, SparseMatrix
from bgetune.searched import Ranking

from .int8 import Int8
from .measure import Measured, Search, Way, measure

TOP = (64, 32, 16, 8)
_ID_BYTES = 4


def sparse(passages: Encoded, questions: Encoded, config: JobConfig, label: str) -> list[Measured]:
    """All weights first, then fewer of them, as many as cut anything, and int8 weights.

    int8 weights are decoded before the search, so they save bytes and no time.
    """
    kept, asking, depth = passages.sparse, questions.sparse, config.eval.depth
    assert kept is not None
    assert asking is not None

    def built(make: Callable[[], SparseMatrix], weight_bytes: int) -> tuple[float, Search]:
        matrix = make()
        index = SparseIndex.build(matrix)

        def search(some: slice) -> Ranking:
            return index.search(_some(asking, some), depth)

        return len(matrix.ids) * (_ID_BYTES + weight_bytes) / len(matrix), search

    longest = int(np.diff(kept.indptr).max())
    ways = [Way("uncompressed", "all weights", partial(built, lambda: kept, 4))]
    for k in (k for k in TOP if k < longest):
        ways.append(Way("top weights", f"{k} a passage", partial(built, partial(largest, kept, k), 4)))
    if longest:
        ways.append(Way("int8", "", partial(built, partial(in_int8, kept, config.eval.seed), 1)))
    return measure(ways, len(asking), label)


def largest(matrix: SparseMatrix, k: int) -> SparseMatrix:
    """The k largest weights of each text; of equal ones, those of the lower ids.

    >>> m = largest(SparseMatrix(np.array([0, 3, 3]), np.array([1, 4, 6]), np.array([0.5, 0.1, 0.7]), 9), k=2)
    >>> m.indptr.tolist(), m.ids.tolist(), m.weights.tolist()
    ([0, 2, 2], [1, 6], [0.5, 0.7])
    """
    ids, weights = [matrix.ids[:0]], [matrix.weights[:0]]
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        block = _some(matrix, slice(start, start + ROWS_AT_ONCE))
        of_text = np.repeat(np.arange(len(block)), np.diff(block.indptr))
        order = np.lexsort((block.ids, -block.weights, of_text))
        kept = np.sort(order[np.arange(len(order)) - block.indptr[of_text] < k])
        ids.append(block.ids[kept])
        weights.append(block.weights[kept])
    indptr = np.concatenate([[0], np.cumsum(np.minimum(np.diff(matrix.indptr), k))])
    return SparseMatrix(indptr, np.concatenate(ids), np.concatenate(weights), matrix.width)


def in_int8(matrix: SparseMatrix, seed: int) -> SparseMatrix:
    """Weights as they come back from one byte each; T at least 1."""
    column = np.asarray(matrix.weights, dtype=np.float32)[:, None]
    codec = Int8.fit(column, seed)
    return SparseMatrix(matrix.indptr, matrix.ids, codec.decode(codec.encode(column))[:, 0], matrix.width)


def _some(matrix: SparseMatrix, some: slice) -> SparseMatrix:
    """Some of the texts, next to each other."""
    ends = np.asarray(matrix.indptr[some.start : some.stop + 1])
    low, high = ends[0], ends[-1]
    return SparseMatrix(ends - low, matrix.ids[low:high], matrix.weights[low:high], matrix.width)
