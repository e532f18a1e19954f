"""Retrieval over one set: queries against indexes built from the very weights under test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bgetune.config import HEADS, Head, JobConfig, Similarity, TrainConfig
from bgetune.data import Texts
from bgetune.encode import encode_once
from bgetune.encoded import Encoded
from bgetune.encoder import Encoder
from bgetune.files import atomic_file
from bgetune.fusion import best, candidates, reciprocal_rank, weighted_sum
from bgetune.index.bm25 import BM25Index
from bgetune.index.dense import DenseIndex
from bgetune.index.exact import pair_scores
from bgetune.index.multi_vector import MultiVectorIndex
from bgetune.index.sparse import SparseIndex
from bgetune.metrics import Results

HYBRID, RRF = "hybrid", "hybrid_rrf"
"""Weighted sum of all heads' scores, and reciprocal rank fusion of their rankings."""


def retrievers_of(heads: Sequence[Head]) -> list[str]:
    """What a model with these heads can be searched with.

    >>> retrievers_of(("dense",)), retrievers_of(("dense", "sparse"))
    (['dense'], ['dense', 'sparse', 'hybrid', 'hybrid_rrf'])
    """
    return list(heads) if len(heads) == 1 else [*heads, HYBRID, RRF]


def ensemble_weights(train: TrainConfig) -> dict[str, float]:
    """Weight of each head's score in the hybrid."""
    return {head: getattr(train, head).ensemble_weight for head in HEADS}


def search(
    encoder: Encoder,
    queries: Texts,
    corpus: Texts,
    config: JobConfig,
    wanted: Sequence[str],
    cache: Path,
    label: str,
    index: str = "Flat",
    depth: int = 100,
) -> dict[str, Results]:
    """Encode corpus and queries, build the indexes, search: the `depth` best passages of each query.

    Args:
        wanted: names out of `retrievers_of(encoder.heads)`.
        index: FAISS factory string of the dense index.
        cache: keeps what is encoded, see `encode_once`.
        label: for the progress bars.

    Returns:
        A ranking for each wanted retriever.
    """
    fused = {HYBRID, RRF} & set(wanted)
    weights = ensemble_weights(config.train)
    # dense and sparse name the candidates of what re-ranks
    reranked = fused or "multi_vector" in wanted
    heads = encoder.heads if reranked else tuple(h for h in encoder.heads if h == "dense" or h in wanted)
    passages = encode_once(encoder, corpus, "passage", config, f"{label} passages", cache, heads)
    questions = encode_once(encoder, queries, "query", config, f"{label} queries", cache, heads)
    searched = _Searched(passages, questions, encoder.spec.similarity, index, config, depth, label)
    found = {}
    for name in wanted:
        scores, rows = searched.fused(name, weights) if name in fused else searched.alone(name)
        found[name] = as_results(queries.ids, corpus.ids, scores, rows)
    return found


Ranking = tuple[np.ndarray, np.ndarray]
"""Scores float32 [Q, K] and rows int64 [Q, K], best first; row -1: nothing found."""


class _Searched:
    """Each head's ranking, and all heads' scores of the candidates; each made once, when it is first needed."""

    def __init__(
        self,
        passages: Encoded,
        questions: Encoded,
        similarity: Similarity,
        index: str,
        config: JobConfig,
        depth: int,
        label: str,
    ) -> None:
        self._passages, self._questions = passages, questions
        self._settings, self._depth, self._label = config.eval, depth, label
        wide = depth if passages.sparse is None and passages.multi_vector is None else config.eval.candidates
        self._dense = DenseIndex.build(passages.vectors, similarity, index)
        self._exact = passages.vectors, similarity
        self._wide: dict[str, Ranking] = {"dense": self._dense.search(questions.vectors, max(wide, depth))}
        if passages.sparse is not None and questions.sparse is not None:
            self._sparse = SparseIndex.build(passages.sparse)
            self._wide["sparse"] = self._sparse.search(questions.sparse, max(wide, depth))
        self._scores: dict[str, np.ndarray] = {}
        self._rows = candidates(*(rows[:, :wide] for _, rows in self._wide.values()))

    def alone(self, head: str) -> Ranking:
        if head == "multi_vector":
            if self._settings.multi_vector == "full":
                assert self._passages.multi_vector is not None
                assert self._questions.multi_vector is not None
                index = MultiVectorIndex(self._passages.multi_vector)
                return index.search(self._questions.multi_vector, self._depth, f"{self._label} multi-vector")
            return best(self._candidate_scores()[head], self._rows, self._depth)
        scores, rows = self._wide[head]
        return scores[:, : self._depth], rows[:, : self._depth]

    def fused(self, name: str, weights: Mapping[str, float]) -> Ranking:
        scores = self._candidate_scores()
        if name == HYBRID:
            return best(weighted_sum(scores, weights), self._rows, self._depth)
        # what shares no word with the query was not found by the sparse head, so it has no rank there
        found = {head: np.where(s == 0, -np.inf, s) if head == "sparse" else s for head, s in scores.items()}
        return best(reciprocal_rank(found), self._rows, self._depth)

    def _candidate_scores(self) -> dict[str, np.ndarray]:
        """Every head's exact score [Q, C] of the union of what dense and sparse found; -inf where there is none."""
        if not self._scores:
            empty = self._rows < 0
            vectors, similarity = self._exact
            self._scores["dense"] = pair_scores(self._questions.vectors, vectors, self._rows, similarity)
            if self._questions.sparse is not None:
                self._scores["sparse"] = self._sparse.scores_of(self._questions.sparse, self._rows)
            if self._questions.multi_vector is not None and self._passages.multi_vector is not None:
                index = MultiVectorIndex(self._passages.multi_vector)
                label = f"{self._label} multi-vector"
                self._scores["multi_vector"] = index.rerank(self._questions.multi_vector, self._rows, label)
            self._scores = {head: np.where(empty, -np.inf, scores) for head, scores in self._scores.items()}
        return self._scores


def search_bm25(queries: Texts, corpus: Texts, depth: int) -> Results:
    scores, rows = BM25Index.build(corpus.full_texts()).search(queries.texts, depth)
    return as_results(queries.ids, corpus.ids, scores, rows)


def as_results(query_ids: Sequence[str], passage_ids: Sequence[str], scores: np.ndarray, rows: np.ndarray) -> Results:
    """Scores and rows, both [Q, K], to ids; rows of -1 are left out."""
    return {
        query_id: {passage_ids[row]: float(score) for score, row in zip(found, at, strict=True) if row >= 0}
        for query_id, found, at in zip(query_ids, scores, rows, strict=True)
    }


def write_trec_run(path: Path, results: Results, tag: str) -> None:
    """Write `query Q0 passage rank score tag` lines, as trec_eval reads them; nine digits hold a float32 exactly."""
    with atomic_file(path) as file:
        for query_id, found in results.items():
            for rank, (passage_id, score) in enumerate(found.items(), start=1):
                file.write(f"{query_id} Q0 {passage_id} {rank} {score:.9g} {tag}\n")
