"""A tiny domain, random vectors, and every score by numpy: what a search is held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bgetune.config import HEADS, EvalConfig, JobConfig, ModelConfig, TrainConfig
from bgetune.data import Texts, read_retrieval_set
from bgetune.encode import encode
from bgetune.encoded import Encoded
from bgetune.encoder import Encoder
from bgetune.index.multi_vector import TokenMatrix
from bgetune.index.sparse import SparseMatrix
from bgetune.metrics import Results
from bgetune.search import search
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Domain:
    config: JobConfig
    encoder: Encoder
    corpus: Texts
    queries: Texts

    def with_config(self, **sections: Any) -> Domain:
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **sections))

    def search(self, cache: Path, wanted: list[str], **options: Any) -> dict[str, Results]:
        return search(self.encoder, self.queries, self.corpus, self.config, wanted, cache, "test", **options)


def load(folder: Path, **options: Any) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), query_max_length=16, passage_max_length=32, **options))


def domain_of(folder: Path, model_folder: Path) -> Domain:
    encoder = load(model_folder)
    config = JobConfig(encode_precision="fp32", eval=EvalConfig(candidates=100))
    texts = read_retrieval_set(tiny.domain(folder))
    queries = texts.queries_of("test")
    # a query without a word of the vocabulary: sparse finds nothing for it
    odd = Texts([*queries.ids, "odd"], [*queries.texts, "unheard"], [], queries.source, [*queries.lines, 99])
    return Domain(config, encoder, texts.corpus, odd)


def encoded(domain: Domain) -> tuple[Encoded, Encoded]:
    return tuple(  # type: ignore[return-value]
        encode(domain.encoder, texts, role, domain.config, "test", HEADS)
        for texts, role in ((domain.queries, "query"), (domain.corpus, "passage"))
    )


def dense_by_hand(queries: Encoded, passages: Encoded, similarity: str) -> np.ndarray:
    q, p = queries.vectors.astype(np.float64), passages.vectors.astype(np.float64)
    if similarity == "euclidean":
        return np.array([[-np.sqrt(((a - b) ** 2).sum()) for b in p] for a in q])
    product = q @ p.T
    if similarity == "cosine":
        product /= np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(p, axis=1)
    return product


def dicts(texts: SparseMatrix | None) -> list[dict[int, float]]:
    assert texts is not None
    ranges = [slice(*texts.indptr[i : i + 2]) for i in range(len(texts))]
    return [dict(zip(texts.ids[at].tolist(), texts.weights[at].tolist(), strict=True)) for at in ranges]


def matrices(texts: TokenMatrix | None) -> list[np.ndarray]:
    assert texts is not None
    return [texts.vectors[slice(*texts.offsets[i : i + 2])].astype(np.float64) for i in range(len(texts))]


def sparse_by_hand(queries: Encoded, passages: Encoded) -> np.ndarray:
    return np.array(
        [[sum(w * p.get(token, 0.0) for token, w in q.items()) for p in dicts(passages.sparse)]
         for q in dicts(queries.sparse)]
    )  # fmt: skip


def multi_by_hand(queries: Encoded, passages: Encoded) -> np.ndarray:
    return np.array(
        [[np.mean([max(a @ b for b in p) for a in q]) for p in matrices(passages.multi_vector)]
         for q in matrices(queries.multi_vector)]
    )  # fmt: skip


def by_hand(domain: Domain, similarity: str = "cosine") -> dict[str, np.ndarray]:
    queries, passages = encoded(domain)
    return {
        "dense": dense_by_hand(queries, passages, similarity),
        "sparse": sparse_by_hand(queries, passages),
        "multi_vector": multi_by_hand(queries, passages),
    }


def hybrid_by_hand(scores: Mapping[str, np.ndarray], train: TrainConfig) -> np.ndarray:
    return sum(getattr(train, head).ensemble_weight * values for head, values in scores.items())


def rrf_by_hand(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """1 / (60 + rank), equal scores by row; sparse scores of 0 have no rank."""
    total = 0.0
    for head, values in scores.items():
        ranks = np.argsort(np.lexsort((np.broadcast_to(np.arange(values.shape[1]), values.shape), -values), axis=1))
        total = total + np.where((values == 0) & (head == "sparse"), 0.0, 1 / (61 + ranks))
    return total


def random_vectors(rng: np.random.Generator, size: int, heads: tuple[str, ...]) -> Encoded:
    """Random vectors; some texts have no sparse weight, some no token."""
    ids = [np.flatnonzero(rng.random(30) < rng.choice([0.0, 0.3])) for _ in range(size)]
    offsets = np.cumsum([0, *rng.integers(0, 4, size)])
    return Encoded(
        rng.standard_normal((size, 6)).astype(np.float32),
        SparseMatrix(
            np.cumsum([0, *map(len, ids)]),
            np.concatenate([*ids, np.zeros(0)]).astype(np.int32),
            rng.random(sum(map(len, ids))).astype(np.float32) + 0.01,
            30,
        )
        if "sparse" in heads
        else None,
        TokenMatrix(rng.standard_normal((int(offsets[-1]), 4)).astype(np.float16), offsets)
        if "multi_vector" in heads
        else None,
    )
