"""One encoded set, searched: each head's ranking, and every head's scores of the candidates, made once when needed.

Shapes: Q queries, C candidates of a query, K results of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bgetune.config import HEADS, Head, JobConfig, Similarity
from bgetune.encoded import Encoded
from bgetune.fusion import best, candidates, weighted_sum
from bgetune.index.dense import DenseIndex
from bgetune.index.exact import pair_scores
from bgetune.index.multi_vector import MultiVectorIndex
from bgetune.index.sparse import SparseIndex

Ranking = tuple[np.ndarray, np.ndarray]
"""Scores float32 [Q, K] and rows int64 [Q, K], best first; row -1: nothing found."""
Scores = Mapping[str, np.ndarray]
"""Head -> float32 [Q, C], all of the same candidates in the same places; -inf: not found, or an empty place."""


@dataclass(frozen=True)
class EncodedSet:
    """What one encoder makes of a corpus and of the queries asked of it."""

    passages: Encoded
    questions: Encoded
    similarity: Similarity

    @property
    def heads(self) -> tuple[Head, ...]:
        """Those of which both sides have something."""
        return tuple(
            head
            for head in HEADS
            if getattr(self.passages, head) is not None and getattr(self.questions, head) is not None
        )


class Searched:
    """The `depth` best passages of each query by one head, or by several on the candidates of dense and sparse."""

    def __init__(self, encoded: EncodedSet, config: JobConfig, index: str, depth: int, label: str) -> None:
        self._encoded, self._index, self._depth = encoded, index, depth
        self._label = f"{label} multi-vector"
        self._candidates = config.eval.candidates if len(encoded.heads) > 1 else depth
        self._scores: dict[str, np.ndarray] = {}

    @cached_property
    def _sparse_index(self) -> SparseIndex:
        assert self._encoded.passages.sparse is not None
        return SparseIndex.build(self._encoded.passages.sparse)

    @cached_property
    def _dense(self) -> Ranking:
        index = DenseIndex.build(self._encoded.passages.vectors, self._encoded.similarity, self._index)
        return index.search(self._encoded.questions.vectors, max(self._candidates, self._depth))

    @cached_property
    def _sparse(self) -> Ranking:
        assert self._encoded.questions.sparse is not None
        return self._sparse_index.search(self._encoded.questions.sparse, max(self._candidates, self._depth))

    def alone(self, head: str) -> Ranking:
        """One head's ranking; multi-vector re-ranks the candidates."""
        if head == "multi_vector":
            return best(self.scores(["multi_vector"])[head], self.rows, self._depth)
        scores, rows = self._dense if head == "dense" else self._sparse
        return scores[:, : self._depth], rows[:, : self._depth]

    def every_passage(self) -> Ranking:
        """Multi-vector over the whole corpus."""
        passages, questions = self._encoded.passages.multi_vector, self._encoded.questions.multi_vector
        assert passages is not None
        assert questions is not None
        return MultiVectorIndex(passages).search(questions, self._depth, self._label)

    def weighted(self, weights: Mapping[str, float], heads: Sequence[str] | None = None) -> Ranking:
        """The candidates by the weighted sum of the heads' scores; None: of all heads."""
        return best(weighted_sum(self.scores(heads), weights), self.rows, self._depth)

    def fused(self, fusion: Callable[[Scores], np.ndarray]) -> Ranking:
        """The candidates by a fusion of all heads' rankings of them."""
        # what shares no word with the query was not found by the sparse head, so it has no rank there
        found = {
            head: np.where(scores == 0, -np.inf, scores) if head == "sparse" else scores
            for head, scores in self.scores().items()
        }
        return best(fusion(found), self.rows, self._depth)

    @cached_property
    def rows(self) -> np.ndarray:
        """The candidates: the union of what dense and sparse found, int64 [Q, C], -1 for an empty place."""
        found = [self._dense, self._sparse] if "sparse" in self._encoded.heads else [self._dense]
        return candidates(*(rows[:, : self._candidates] for _, rows in found))

    def scores(self, heads: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Exact scores of the candidates by some heads, or by all: each float32 [Q, C]; -inf at empty places."""
        wanted = self._encoded.heads if heads is None else heads
        for head in wanted:
            if head not in self._scores:
                self._scores[head] = np.where(self.rows < 0, -np.inf, self._scores_of(head))
        return {head: self._scores[head] for head in wanted}

    def _scores_of(self, head: str) -> np.ndarray:
        passages, questions = self._encoded.passages, self._encoded.questions
        if head == "dense":
            return pair_scores(questions.vectors, passages.vectors, self.rows, self._encoded.similarity)
        if head == "sparse":
            assert questions.sparse is not None
            return self._sparse_index.scores_of(questions.sparse, self.rows)
        assert passages.multi_vector is not None
        assert questions.multi_vector is not None
        return MultiVectorIndex(passages.multi_vector).rerank(questions.multi_vector, self.rows, self._label)
