"""What finds negatives: each signal's ranking of a corpus in parts, and its scores of given passages.

Shapes: Q queries, K places of a ranking, C candidates of a query, D width of a dense vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from bgetune.config import HEADS, Similarity
from bgetune.config_data import MineConfig, Signal
from bgetune.corpus import Corpus
from bgetune.data import Texts
from bgetune.encode import EncodedShards
from bgetune.encoded import Encoded
from bgetune.fusion import best, candidates, weighted_sum
from bgetune.index.exact import pair_scores
from bgetune.index.multi_vector import MultiVectorIndex
from bgetune.index.sparse import SparseIndex, SparseMatrix
from bgetune.search import Ranking

from ..audit.facts import TOP
from .dense_parts import DenseParts
from .lexical import QueryWords
from .parts import Arrays, Part, PartWork, cut_parts, fair_rows, merged

# Multi-vector and hybrid re-rank so many times the window's passages, of dense and of sparse each.
_CANDIDATES = 2


class Signals:
    """Each signal's ranking and scores over one corpus for one set of queries."""

    def __init__(
        self,
        corpus: Corpus,
        passages: EncodedShards,
        queries: Texts,
        questions: EncodedShards,
        similarity: Similarity,
        weights: Mapping[str, float],
        settings: MineConfig,
        folder: Path,
    ) -> None:
        self._corpus, self._passages = corpus, passages
        self._queries, self._questions = queries, questions.read()
        self._similarity, self._weights = similarity, weights
        self.settings = settings
        """What was asked for, as far as the model can serve it."""
        self.made_from = [*(folder.name for folder in (*passages.folders, *questions.folders)), similarity]
        parts = cut_parts(passages.starts, fair_rows(passages.starts))
        self.depth = min(max(settings.rank_last, TOP), len(corpus))
        self._work = PartWork(folder, parts, "mine")
        self.dense = DenseParts(passages, self._questions.vectors, similarity, settings, folder, self.made_from)
        self._reranks = bool({"multi_vector", "hybrid"} & set(settings.sources))
        self._lexical: tuple[QueryWords, Callable[[Part], SparseMatrix]] | None = None
        self._rankings: dict[str, Ranking] = {}

    def ranking(self, signal: Signal) -> Ranking:
        """The nearest passages of each query: scores float32 [Q, K] and rows int64 [Q, K], best first.

        K is `mine.rank_last`, or 100 where that is more, so that the audit can say what is not among the first 100.
        """
        depth = self.depth
        if signal == "random":
            return self._random(depth)
        if signal in ("multi_vector", "hybrid"):
            return self._reranked(signal, depth)
        scores, rows = self._first(signal)
        return scores[:, :depth], rows[:, :depth]

    def scores_of(self, signal: Signal, rows: np.ndarray, what: str = "positives") -> np.ndarray:
        """Each query's scores of its own passages.

        Args:
            rows: int64 [Q, C], -1 for an empty place.
            what: they are, for the progress bar.

        Returns:
            float32 [Q, C]; -inf at empty places. Of `random`: the dense scores, which are all that is known.
        """
        if signal == "hybrid":
            heads = [head for head in HEADS if getattr(self._questions, head) is not None]
            return weighted_sum({head: self.scores_of(head, rows, what) for head in heads}, self._weights)
        name = "dense" if signal == "random" else signal
        if name in ("sparse", "bm25"):
            self._sparse_side(name)  # all processes together, before each goes about its own parts
        digest = hashlib.sha256(rows.tobytes()).hexdigest()

        def of_part(part: Part) -> Arrays:
            asking, places, local = _of_part(rows, part)
            scores = self._part_scores(name, part, asking, local)
            return {"scores": scores[local >= 0].astype(np.float32), "at": places}

        found = np.full(rows.size, -np.inf, dtype=np.float32)
        made_from, label = [*self.made_from, name, digest], f"{name}: scores of {what}"
        for _, arrays in self._work.each(f"{name}-pairs", made_from, of_part, label):
            found[arrays["at"]] = arrays["scores"]
        return found.reshape(rows.shape)

    def _first(self, signal: str) -> Ranking:
        """The ranking of a signal that searches the whole corpus, deep enough to re-rank from."""
        if signal not in self._rankings:
            depth = min(self.depth * (_CANDIDATES if self._reranks else 1), len(self._corpus))
            if signal == "dense":
                self._rankings[signal] = self.dense.ranking(depth)
            else:
                self._rankings[signal] = self._sparse_ranking(signal, depth)
        return self._rankings[signal]

    def _sparse_ranking(self, signal: str, depth: int) -> Ranking:
        queries, of_part = self._sparse_side(signal)

        def search(part: Part) -> Arrays:
            scores, rows = SparseIndex.build(of_part(part)).search(queries, depth)
            return {"scores": scores, "rows": np.where(rows < 0, -1, rows + part.first)}

        return merged(self._work, signal, [*self.made_from, signal, depth], search, depth)

    def _sparse_side(self, signal: str) -> tuple[SparseMatrix, Callable[[Part], SparseMatrix]]:
        """The queries' sparse vectors, and how to come by those of a part's passages."""
        if signal == "bm25":
            words, of_part = self._bm25()
            return words.queries, of_part
        assert self._questions.sparse is not None, "the model has no sparse head"
        return self._questions.sparse, lambda part: _sparse(self._read(part))

    def _bm25(self) -> tuple[QueryWords, Callable[[Part], SparseMatrix]]:
        if self._lexical is None:
            words = QueryWords(self._queries.texts)

            def count(part: Part) -> Arrays:
                return words.count(self._corpus.take(range(part.first, part.last)).full_texts())

            totals = words.totals(
                arrays for _, arrays in self._work.each("words", self.made_from, count, "bm25: words")
            )

            def of_part(part: Part) -> SparseMatrix:
                return words.weights(self._work.read("words", self.made_from, part), totals)

            self._lexical = words, of_part
        return self._lexical

    def _reranked(self, signal: Signal, depth: int) -> Ranking:
        first = [self._first("dense")]
        if self._questions.sparse is not None:
            first.append(self._first("sparse"))
        rows = candidates(*(rows for _, rows in first))
        return best(self.scores_of(signal, rows, "candidates"), rows, depth)

    def _random(self, depth: int) -> Ranking:
        """Passages drawn by seed, without scores of their own."""
        rows = np.empty((len(self._queries), depth), dtype=np.int64)
        for i, query_id in enumerate(self._queries.ids):
            seed = hashlib.sha256(f"{self.settings.seed}\trandom\t{query_id}".encode()).digest()
            rows[i] = np.random.default_rng(list(seed)).choice(len(self._corpus), depth, replace=False, shuffle=True)
        return self.scores_of("random", rows, "random passages"), rows

    def _part_scores(self, signal: str, part: Part, asking: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores [q, C] of some queries with passages of one part, by their rows in it."""
        if signal in ("sparse", "bm25"):
            queries, of_part = self._sparse_side(signal)
            return SparseIndex.build(of_part(part)).scores_of(_some_sparse(queries, asking), rows)
        if signal == "dense":
            vectors = cast(np.ndarray, self._passages.dense(part.first_shard, part.last_shard))
            return pair_scores(self._questions.vectors[asking], vectors, np.maximum(rows, 0), self._similarity)
        read = self._read(part)
        assert read.multi_vector is not None, "the model has no multi-vector head"
        assert self._questions.multi_vector is not None
        full = np.full((len(self._queries), rows.shape[1]), -1, dtype=np.int64)
        full[asking] = rows
        return MultiVectorIndex(read.multi_vector).rerank(self._questions.multi_vector, full, "mine: MaxSim")[asking]

    def _read(self, part: Part) -> Encoded:
        return self._passages.read(part.first_shard, part.last_shard)


def _of_part(rows: np.ndarray, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What of rows [Q, C] lies in a part.

    Returns:
        Which queries have any [q]; flat positions in `rows` of those that do; the part's own rows [q, c], packed to the
        left with -1 behind, in the same order.

    >>> _, places, local = _of_part(np.array([[7, 1, 9], [2, 3, -1]]), Part(0, 0, 1, 5, 10))
    >>> places.tolist(), local.tolist()
    ([0, 2], [[2, 4]])
    """
    inside = (rows >= part.first) & (rows < part.last)
    asking = np.flatnonzero(inside.any(axis=1))
    some = inside[asking]
    order = np.argsort(~some, axis=1, kind="stable")[:, : int(some.sum(axis=1).max(initial=0))]
    local = np.where(some, rows[asking] - part.first, -1)
    return asking, np.flatnonzero(inside), np.take_along_axis(local, order, axis=1)


def _sparse(encoded: Encoded) -> SparseMatrix:
    assert encoded.sparse is not None, "the model has no sparse head"
    return encoded.sparse


def _some_sparse(matrix: SparseMatrix, at: np.ndarray) -> SparseMatrix:
    """Some of the rows of a sparse matrix, in the order given."""
    taken = matrix.to_scipy()[at]
    return SparseMatrix(taken.indptr.astype(np.int64), taken.indices, taken.data, matrix.width)
