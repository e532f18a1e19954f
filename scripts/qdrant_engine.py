"""Does Qdrant's own engine rank as bgetune does? Tries it in this process: pip install qdrant-edge-py.

It is the server's engine (Rust) without the REST layer: graphs, quantization, half-precision token vectors, prefetch
and formula queries. Prints, for each similarity and set of heads, the largest difference of a score; then how many of
the first ten an HNSW graph finds, without and with quantization.

    python scripts/qdrant_engine.py
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bgetune.config import JobConfig, Similarity
from bgetune.data import Texts
from bgetune.encoded import Encoded
from bgetune.index.multi_vector import TokenMatrix
from bgetune.index.qdrant_check import agreement, difference
from bgetune.index.qdrant_search import search_collection
from bgetune.index.qdrant_write import Quantization, Storage, create_collection, payload_of, write_points
from bgetune.index.sparse import SparseMatrix
from bgetune.search import EncodedSet, as_results, ensemble_weights, rankings

HEADS = ("dense", "sparse", "multi_vector")
CONFIG = JobConfig()
_DISTANCES = {"Cosine": edge.Distance.Cosine, "Dot": edge.Distance.Dot, "Euclid": edge.Distance.Euclid}


class Engine:
    """What of `QdrantClient` is needed here, carried out by the engine; one collection."""

    def __init__(self, graph: bool) -> None:
        self._graph = graph

    def create_collection(self, _: str, vectors_config: Any, sparse_vectors_config: Any, **__: Any) -> None:
        config = edge.EdgeConfig(
            vectors={name: self._params(each) for name, each in vectors_config.items()},
            sparse_vectors={name: edge.EdgeSparseVectorParams() for name in sparse_vectors_config or {}} or None,
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1 if self._graph else None),
        )
        self.shard = edge.EdgeShard.create(tempfile.mkdtemp(), config)

    def _params(self, asked: models.VectorParams) -> Any:
        links = 0 if asked.multivector_config else 16
        more: dict[str, Any] = {"hnsw_config": edge.HnswIndexConfig(m=links, ef_construct=100, full_scan_threshold=1)}
        if asked.multivector_config:
            more["multivector_config"] = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
            more["datatype"] = edge.VectorStorageDatatype.Float16
        if isinstance(asked.quantization_config, models.ScalarQuantization):
            settings = {"type": edge.ScalarType.Int8, "quantile": 0.99, "always_ram": True}
            more["quantization_config"] = edge.ScalarQuantizationConfig(**settings)
        if isinstance(asked.quantization_config, models.BinaryQuantization):
            more["quantization_config"] = edge.BinaryQuantizationConfig(always_ram=True)
        return edge.EdgeVectorParams(size=asked.size, distance=_DISTANCES[asked.distance.value], **more)

    def upsert(self, _: str, points: Sequence[models.PointStruct], wait: bool) -> None:
        made = [edge.Point(uuid.UUID(str(p.id)), _each(p.vector), p.payload) for p in points]
        self.shard.update(edge.UpdateOperation.upsert_points(made))

    def query_points(
        self, _: str, limit: int, query: Any, using: str | None = None, prefetch: Any = (), search_params: Any = None,
        **__: Any,
    ) -> SimpleNamespace:  # fmt: skip
        near = [self._prefetch(each) for each in prefetch]
        asked = edge.QueryRequest(
            limit=limit, query=_query(query, using), prefetches=near, with_payload=True, params=_how(search_params)
        )
        found = [SimpleNamespace(score=point.score, payload=point.payload) for point in self.shard.query(asked)]
        return SimpleNamespace(points=found)

    def _prefetch(self, asked: models.Prefetch) -> Any:
        inner: Any = asked.prefetch or []
        return edge.Prefetch(
            limit=asked.limit,
            query=_query(asked.query, asked.using),
            prefetches=[self._prefetch(each) for each in inner],
            params=_how(asked.params),
        )


def _each(vectors: Any) -> dict[str, Any]:
    return {name: _vector(each) for name, each in vectors.items()}


def _vector(vector: Any) -> Any:
    is_sparse = isinstance(vector, models.SparseVector)
    return edge.SparseVector(vector.indices, vector.values) if is_sparse else vector


def _query(query: Any, using: str | None) -> Any:
    if not isinstance(query, models.FormulaQuery):
        return edge.Query.Nearest(_vector(query), using=using)
    formula: Any = query.formula
    constant, variable = edge.Expression.Constant, edge.Expression.Variable
    terms = [edge.Expression.Mult([constant(factor), variable(name)]) for factor, name in (t.mult for t in formula.sum)]
    return edge.Formula(edge.Expression.Sum(terms))


def _how(params: models.SearchParams | None) -> Any:
    if params is None or params.quantization is None:
        return None
    codes = params.quantization
    chosen = {"ignore": bool(codes.ignore), "rescore": codes.rescore, "oversampling": codes.oversampling}
    return edge.SearchParams(exact=bool(params.exact), quantization=edge.QuantizationSearchParams(**chosen))


def encoded(rng: np.random.Generator, topics: np.ndarray, size: int, heads: Sequence[str]) -> Encoded:
    """Texts about topics [K, D], with some words and 1 to 5 token vectors each."""
    width, words = topics.shape[1], 200
    dense = topics[rng.integers(0, len(topics), size)] + 0.7 * rng.standard_normal((size, width))
    ids = [np.flatnonzero(rng.random(words) < 0.05) for _ in range(size)]
    offsets = np.cumsum([0, *rng.integers(1, 6, size)])
    weights = rng.random(sum(map(len, ids))).astype(np.float32) + 0.01
    tokens = rng.standard_normal((int(offsets[-1]), 16)).astype(np.float16)
    return Encoded(
        dense.astype(np.float32),
        SparseMatrix(np.cumsum([0, *map(len, ids)]), np.concatenate(ids).astype(np.int32), weights, words)
        if "sparse" in heads
        else None,
        TokenMatrix(tokens, offsets) if "multi_vector" in heads else None,
    )


def compare(size: int, heads: Sequence[str], similarity: Similarity, codes: Quantization, graph: bool) -> str:
    """Every retriever over `size` passages: agreement of the first ten and largest difference of a score."""
    rng = np.random.default_rng(size)
    topics = rng.standard_normal((50, 128))
    both = EncodedSet(encoded(rng, topics, size, heads), encoded(rng, topics, 50, heads), similarity)
    corpus, engine = Texts([f"p{i:05}" for i in range(size)], ["text"] * size), Engine(graph)
    client: Any = engine
    create_collection(client, "x", both.passages, similarity, Storage(codes))
    write_points(client, "x", corpus, both.passages, np.arange(size), payload_of(corpus), "")
    if graph:
        engine.shard.optimize()
    weights, told = ensemble_weights(CONFIG.train), []
    for retriever in (*heads, "hybrid") if len(heads) > 1 else heads:
        exact = rankings(both, CONFIG, [retriever], "exact", depth=10)[retriever]
        ours = list(as_results([str(i) for i in range(50)], corpus.ids, *exact).values())
        settings = both.questions, range(50), similarity, retriever, 10, CONFIG.eval.candidates, weights
        found = list(search_collection(client, "x", *settings, exact=not graph, quantized=codes != "none"))
        pairs = list(zip(found, ours, strict=True))
        if not graph:
            wrong = [line for line in (difference(*pair) for pair in pairs) if line]
            assert not wrong, (heads, similarity, retriever, wrong[0])
        apart = max(abs(theirs[key] - wanted[key]) for theirs, wanted in pairs for key in theirs.keys() & wanted.keys())
        told.append(f"{retriever} {np.mean([agreement(*pair) for pair in pairs]):.3f} ({apart:.0e})")
    return ", ".join(told)


if __name__ == "__main__":
    print("share of the first ten that is bgetune's (largest difference of a score)")
    for similarity in get_args(Similarity):
        for heads in (("dense",), ("dense", "sparse"), ("dense", "multi_vector"), HEADS):
            print(f"every vector compared, {similarity}: {compare(400, heads, similarity, 'none', graph=False)}")
    for codes in get_args(Quantization):
        print(f"graph over 3,000, codes: {codes}: {compare(3_000, HEADS, 'cosine', codes, graph=True)}")
