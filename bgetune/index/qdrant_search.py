"""Searches in a Qdrant collection that rank as bgetune's own do.

Qdrant's own fusions are of ranks (RRF) and of normalised scores (DBSF); the weighted sum of scores is made by its
formula query, which servers have from 1.14 on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bgetune.config import Similarity
from bgetune.encoded import Encoded
from bgetune.index.qdrant_write import vectors_of

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

OVERSAMPLING = 3.0
"""Of a quantized head so many times as many are found as are asked for, and scored again with the whole vectors."""


def search_collection(
    client: QdrantClient,
    name: str,
    questions: Encoded,
    rows: Iterable[int],
    similarity: Similarity,
    retriever: str,
    depth: int,
    candidates: int = 200,
    weights: Mapping[str, float] | None = None,
    exact: bool = False,
    quantized: bool = False,
) -> Iterator[dict[str, float]]:
    """Ask question after question, one request each, as an application does; the scores are bgetune's.

    Of a distance too, higher is nearer, and the multi-vector score is the mean over query tokens, Qdrant's the sum.

    Args:
        rows: which of the questions.
        retriever: dense, sparse, multi_vector or hybrid; the last two score the union of the `candidates` best of
            dense and of sparse, exactly.
        depth: passages a question.
        weights: of each head's score in hybrid.
        exact: a server compares every vector, whole, instead of going by its graph; local mode always does.
        quantized: dense vectors are also kept in fewer bits; what those find is scored with the whole vectors.

    Yields:
        For each question passage id -> score, best first, equal scores by id.
    """
    assert retriever in ("dense", "sparse", "multi_vector") or (retriever == "hybrid" and weights is not None)
    fused = {"multi_vector": {"multi_vector": 1.0}, "hybrid": weights}.get(retriever)
    sign = -1.0 if retriever == "dense" and similarity == "euclidean" else 1.0
    how = _exactly() if exact else _rescored() if quantized else None
    for row in rows:
        vectors = vectors_of(questions, row)
        if fused is not None:
            asked = _weighted_sum(vectors, candidates, fused, similarity, how)
        elif retriever in vectors:
            asked = {"query": vectors[retriever], "using": retriever, "search_params": how}
        else:  # no word that the sparse head weighs
            yield {}
            continue
        points = client.query_points(name, limit=depth, with_payload=["id"], **asked).points
        found = [(-sign * point.score, str((point.payload or {})["id"])) for point in points]
        yield {passage_id: -score for score, passage_id in sorted(found)}


def _exactly() -> models.SearchParams:
    from qdrant_client import models

    return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))


def _rescored() -> models.SearchParams:
    from qdrant_client import models

    # servers do not re-score by themselves what scalar codes find
    return models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING))


def _weighted_sum(
    vectors: Mapping[str, Any],
    candidates: int,
    weights: Mapping[str, float],
    similarity: Similarity,
    how: models.SearchParams | None,
) -> dict[str, Any]:
    """A query: prefetch the candidates, score them with each head, add the scores up.

    A passage without a vector, or without an id of the query's, has no score there; a formula then takes 0, as bgetune
    does. Dense, which every passage has, is always scored, so that no candidate is lost. Scores are exact: a graph may
    not come by every candidate, and one that it misses would have a score of 0.
    """
    from qdrant_client import models

    searched = [head for head in ("dense", "sparse") if head in vectors]
    near = [models.Prefetch(query=vectors[head], using=head, limit=candidates, params=how) for head in searched]
    heads = [head for head in vectors if head == "dense" or weights.get(head)]
    most, exact = len(near) * candidates, _exactly()
    scored = [
        models.Prefetch(prefetch=near, query=vectors[head], using=head, limit=most, params=exact) for head in heads
    ]
    factors = factors_of(weights, heads, similarity, len(vectors.get("multi_vector", ())))
    terms = [models.MultExpression(mult=[factors[head], f"$score[{i}]"]) for i, head in enumerate(heads)]
    return {"prefetch": scored, "query": models.FormulaQuery(formula=models.SumExpression(sum=list(terms)))}


def factors_of(
    weights: Mapping[str, float], heads: Iterable[str], similarity: Similarity, tokens: int
) -> dict[str, float]:
    """What Qdrant's score of each head is multiplied with: a distance counts down, a sum over tokens becomes a mean.

    >>> factors_of({"dense": 1.0, "multi_vector": 0.5}, ["dense", "multi_vector"], "euclidean", tokens=5)
    {'dense': -1.0, 'multi_vector': 0.1}
    """
    signs = {"dense": -1.0 if similarity == "euclidean" else 1.0, "multi_vector": 1.0 / max(tokens, 1)}
    return {head: weights.get(head, 0.0) * signs.get(head, 1.0) for head in heads}
