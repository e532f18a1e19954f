"""BM25 over a corpus in parts: only the queries' own words are counted, so that its index is small at any size.

Shapes: N passages, W distinct words of all queries, Q queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bgetune.index.bm25 import K1, B, words_of
from bgetune.index.sparse import SparseMatrix

from .parts import Arrays


@dataclass(frozen=True)
class Totals:
    """What BM25 knows of the whole corpus: passages, passages with each word int64 [W], mean words a passage."""

    passages: int
    with_word: np.ndarray
    mean_length: float


class QueryWords:
    """The words of all queries, numbered; a query's weight for a word is how often it says it."""

    def __init__(self, queries: Sequence[str]) -> None:
        said = words_of(queries)
        self._number = {word: i for i, word in enumerate(sorted({word for words in said for word in words}))}
        self.queries = self._matrix([Counter(self._number[word] for word in words) for words in said])

    def __len__(self) -> int:
        return len(self._number)

    def count(self, texts: Sequence[str]) -> Arrays:
        """How often each text says each of the words, and how many words it has in all."""
        said = words_of(texts)
        known = [Counter(self._number[word] for word in words if word in self._number) for words in said]
        counts = self._matrix(known)
        lengths = np.array([len(words) for words in said], dtype=np.int64)
        return {"indptr": counts.indptr, "ids": counts.ids, "counts": counts.weights, "lengths": lengths}

    def _matrix(self, counted: Sequence[Counter[int]]) -> SparseMatrix:
        rows = [sorted(counts.items()) for counts in counted]
        indptr = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
        ids = np.array([word for row in rows for word, _ in row], dtype=np.int32)
        counts = np.array([count for row in rows for _, count in row], dtype=np.float32)
        return SparseMatrix(indptr, ids, counts, width=max(len(self), 1))

    def totals(self, parts: Iterable[Arrays]) -> Totals:
        """Of the counts of all parts, one in memory at a time."""
        with_word, words, passages = np.zeros(max(len(self), 1), dtype=np.int64), 0, 0
        for part in parts:
            with_word += np.bincount(part["ids"], minlength=len(with_word))
            words += int(part["lengths"].sum())
            passages += len(part["lengths"])
        return Totals(passages, with_word, words / passages)

    def weights(self, counted: Arrays, totals: Totals) -> SparseMatrix:
        """BM25's weight of each word in each passage, Lucene's variant (Kamphuis et al., ECIR 2020).

        idf · tf / (tf + k1 (1 - b + b · length / mean length)) with idf = ln(1 + (N - n + 0.5) / (n + 0.5)).
        """
        of_passage = np.repeat(counted["lengths"], np.diff(counted["indptr"])).astype(np.float64)
        n = totals.with_word[counted["ids"]]
        idf = np.log1p((totals.passages - n + 0.5) / (n + 0.5))
        tf = counted["counts"].astype(np.float64)
        weights = idf * tf / (tf + K1 * (1 - B + B * of_passage / max(totals.mean_length, 1e-9)))
        return SparseMatrix(counted["indptr"], counted["ids"], weights.astype(np.float32), max(len(self), 1))
