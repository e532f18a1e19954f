"""Retrieval over one set: queries against an index built from the very weights under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.encode import encode_once
from bgetune.encoder import Encoder
from bgetune.files import atomic_file
from bgetune.index.bm25 import BM25Index
from bgetune.index.dense import DenseIndex
from bgetune.metrics import Results


def search_dense(
    encoder: Encoder,
    queries: Texts,
    corpus: Texts,
    config: JobConfig,
    index: str,
    depth: int,
    cache: Path,
    label: str,
    keep: bool = True,
) -> Results:
    """Encode corpus and queries, build the index, search: the `depth` best passages of each query.

    `cache` and `keep` are those of `encode_once`.
    """
    passages = encode_once(encoder, corpus, "passage", config, f"{label} passages", cache, keep)
    questions = encode_once(encoder, queries, "query", config, f"{label} queries", cache, keep)
    similarity = encoder.spec.similarity
    scores, rows = DenseIndex.build(passages, similarity, index).search(questions, depth)
    return as_results(queries.ids, corpus.ids, scores, rows)


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
