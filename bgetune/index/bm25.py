"""BM25 through bm25s: the baseline every embedding has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

K1, B = 1.2, 0.75


class BM25Index:
    """Lucene's variant, k1 = 1.2, b = 0.75, words of letters and digits, English stop words, no stemming."""

    def __init__(self, index: bm25s.BM25 | None, size: int) -> None:
        self._index, self._size = index, size

    @classmethod
    def build(cls, texts: Sequence[str]) -> BM25Index:
        tokens = words_of(texts)
        if not any(tokens):  # stop words and single letters only; bm25s fails without a vocabulary
            return cls(None, len(texts))
        index = bm25s.BM25(method="lucene", k1=K1, b=B)
        index.index(tokens, show_progress=False)
        return cls(index, len(texts))

    def search(self, queries: Sequence[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row; row -1: no word shared."""
        depth = min(depth, self._size)
        if self._index is None:
            return np.zeros((len(queries), depth), np.float32), np.full((len(queries), depth), -1, np.int64)
        rows, scores = self._index.retrieve(words_of(queries), k=depth, show_progress=False)
        rows = np.where(scores > 0, rows, -1).astype(np.int64)
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text that count."""
    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
