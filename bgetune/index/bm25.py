"""BM25 through bm25s: the baseline every embedding has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np


class BM25Index:
    """Lucene's variant, k1 = 1.2, b = 0.75, words of letters and digits, English stop words, no stemming."""

    def __init__(self, index: bm25s.BM25) -> None:
        self._index = index

    @classmethod
    def build(cls, texts: Sequence[str]) -> BM25Index:
        index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        index.index(_tokens(texts), show_progress=False)
        return cls(index)

    def search(self, queries: Sequence[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row; row -1: no word shared."""
        depth = min(depth, int(self._index.scores["num_docs"]))
        rows, scores = self._index.retrieve(_tokens(queries), k=depth, show_progress=False)
        rows = np.where(scores > 0, rows, -1).astype(np.int64)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
