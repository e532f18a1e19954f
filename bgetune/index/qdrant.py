"""A Qdrant collection with all three heads' vectors, and searches in it that rank as bgetune's own do.

Its client is optional: pip install 'bgetune[qdrant]'. Qdrant's own fusions are of ranks (RRF) and of normalised scores
(DBSF); the weighted sum of scores is made by its formula query, which servers have from 1.14 on.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from bgetune.config import Similarity
from bgetune.data import Texts
from bgetune.encoded import Encoded
from bgetune.errors import UserError
from bgetune.progress import progress

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

log = logging.getLogger("bgetune")

MEMORY = ":memory:"
"""The location of collections that end with the program."""

_IDS = uuid.uuid5(uuid.NAMESPACE_DNS, "bgetune")
# A request holds at most so many points, and so many numbers or one point: 20 bytes each as JSON; a server takes 32 MB.
_POINTS, _NUMBERS = 256, 1 << 20
_LONGEST_WAIT, _BETWEEN_LOOKS, _TIMEOUT = 3600.0, 0.2, 60  # seconds


def is_local(location: str) -> bool:
    """No server but qdrant-client's local mode, an exact search in Python for tests and small collections.

    >>> is_local(":memory:"), is_local("~/of/mine"), is_local("https://db:6333")
    (True, True, False)
    """
    return not location.startswith(("http://", "https://"))


def point_id(passage_id: str) -> str:
    """A passage's point is always the same UUID; Qdrant takes nothing but numbers and UUIDs.

    >>> point_id("p1")
    'd7cb3c77-60cb-5866-8e21-d38d5b5ce334'
    """
    return str(uuid.uuid5(_IDS, passage_id))


@contextmanager
def connected(location: str, option: str) -> Iterator[QdrantClient]:
    """A client, closed at the end; whatever the server answers within the block is one line, too.

    Args:
        location: `:memory:`, a folder, or a server's URL, whose key is taken from the variable QDRANT_API_KEY.
        option: whose value the location is, for messages.

    Raises:
        UserError: the package is missing, another program holds the folder, no server answers, or it refuses.
    """
    try:
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ImportError:
        what = "qdrant needs the package qdrant-client; run pip install 'bgetune[qdrant]', or leave it out"
        raise UserError(f"{option}: {what}") from None
    where = location.rpartition("@")[2]  # without a password
    folder = str(Path(location).expanduser()) if is_local(location) and location != MEMORY else None
    key = None if is_local(location) else os.environ.get("QDRANT_API_KEY")
    place = None if folder else location
    try:
        client = QdrantClient(place, path=folder, api_key=key, timeout=_TIMEOUT, check_compatibility=False)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{option}: {where}: {_line(error)}") from None
    try:
        client.get_collections()
        yield client
    except ResponseHandlingException as error:
        what = f"no Qdrant server answers at {where} ({_line(error)}); start it, or correct the address"
        raise UserError(f"{option}: {what}") from None
    except UnexpectedResponse as error:
        raise UserError(f"{option}: the Qdrant server at {where} refuses ({_refusal(error)})") from None
    finally:
        client.close()


def write_collection(
    client: QdrantClient,
    name: str,
    corpus: Texts,
    encoded: Encoded,
    similarity: Similarity,
    with_texts: bool = False,
    option: str = "eval.indexes",
    label: str = "",
) -> None:
    """Create a collection, write every passage, and wait until its index is built.

    Args:
        corpus: N passages; their ids go into the payload.
        encoded: what the heads made of them; a passage without sparse weights or tokens has no such vector.
        similarity: of the dense vectors; token vectors are compared by dot product.
        with_texts: keep titles and texts in the payload, too.
        option, label: for messages, and before the progress bar; no label: no bar.

    Raises:
        UserError: the collection exists, or holds another number of points in the end.
    """
    if client.collection_exists(name):
        raise UserError(f"{option}: the collection {name!r} is there already; remove it, or choose another name")
    create_collection(client, name, encoded, similarity)
    write_points(client, name, corpus, encoded, np.arange(len(corpus)), with_texts, label)
    held = client.count(name, exact=True).count
    if held != len(corpus):
        raise UserError(
            f"{option}: the collection {name!r} holds {held} points where {len(corpus)} were written; "
            "does another program write to it? Remove it and try again"
        )
    wait_until_indexed(client, name)


def create_collection(client: QdrantClient, name: str, encoded: Encoded, similarity: Similarity) -> None:
    """An empty collection with a named vector for each head of `encoded`: dense, sparse, multi_vector.

    The token vectors get no graph: they re-rank, and never search.
    """
    from qdrant_client import models

    distances = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "euclidean": models.Distance.EUCLID}
    vectors = {"dense": models.VectorParams(size=encoded.vectors.shape[1], distance=distances[similarity])}
    if encoded.multi_vector is not None:
        half = encoded.multi_vector.vectors[0:0].dtype == np.float16
        vectors["multi_vector"] = models.VectorParams(
            size=encoded.multi_vector.vectors.shape[1],
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16 if half else models.Datatype.FLOAT32,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
        )
    sparse = None if encoded.sparse is None else {"sparse": models.SparseVectorParams()}
    client.create_collection(name, vectors_config=vectors, sparse_vectors_config=sparse)


def write_points(
    client: QdrantClient, name: str, corpus: Texts, encoded: Encoded, rows: np.ndarray, with_texts: bool, label: str
) -> None:
    """Write the passages at `rows`, int64 [R], batch by batch; one that is there already is replaced."""
    from qdrant_client import models

    def point(row: int) -> models.PointStruct:
        payload = {"id": corpus.ids[row]}
        if with_texts:
            payload |= {"title": corpus.titles[row] if corpus.titles else "", "text": corpus.texts[row]}
        return models.PointStruct(id=point_id(corpus.ids[row]), vector=_vectors(encoded, row), payload=payload)

    with progress(len(rows), label, "point") if label else tqdm(disable=True) as bar:
        for start, end in _batches(_numbers(encoded)[rows]):
            client.upsert(name, [point(int(row)) for row in rows[start:end]], wait=True)
            bar.update(end - start)


def wait_until_indexed(client: QdrantClient, name: str) -> None:
    """A server takes points at once and builds its graphs behind them; come back when it has, or after an hour."""
    from qdrant_client.models import CollectionStatus

    until = time.monotonic() + _LONGEST_WAIT
    while client.get_collection(name).status in (CollectionStatus.YELLOW, CollectionStatus.GREY):
        if time.monotonic() > until:
            log.warning("%s: still being indexed after an hour; what is searched now is slower", name)
            break
        time.sleep(_BETWEEN_LOOKS)


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
) -> Iterator[dict[str, float]]:
    """Ask question after question, one request each, as an application does; the scores are bgetune's.

    Of a distance too, higher is nearer, and the multi-vector score is the mean over query tokens, Qdrant's the sum.

    Args:
        rows: which of the questions.
        retriever: dense, sparse, multi_vector or hybrid; the last two score the union of the `candidates` best of
            dense and of sparse, exactly.
        depth: passages a question.
        weights: of each head's score in hybrid.

    Yields:
        For each question passage id -> score, best first, equal scores by id.
    """
    assert retriever in ("dense", "sparse", "multi_vector") or (retriever == "hybrid" and weights is not None)
    fused = {"multi_vector": {"multi_vector": 1.0}, "hybrid": weights}.get(retriever)
    sign = -1.0 if retriever == "dense" and similarity == "euclidean" else 1.0
    for row in rows:
        vectors = _vectors(questions, row)
        if fused is not None:
            asked = _weighted_sum(vectors, candidates, fused, similarity)
        elif retriever in vectors:
            asked = {"query": vectors[retriever], "using": retriever}
        else:  # no word that the sparse head weighs
            yield {}
            continue
        points = client.query_points(name, limit=depth, with_payload=["id"], **asked).points
        found = [(-sign * point.score, str((point.payload or {})["id"])) for point in points]
        yield {passage_id: -score for score, passage_id in sorted(found)}


def _weighted_sum(
    vectors: Mapping[str, Any], candidates: int, weights: Mapping[str, float], similarity: Similarity
) -> dict[str, Any]:
    """A query: prefetch the candidates, score them with each head, add the scores up.

    A passage without a vector, or without an id of the query's, has no score there; a formula then takes 0, as bgetune
    does. Dense, which every passage has, is always scored, so that no candidate is lost.
    """
    from qdrant_client import models

    searched = [head for head in ("dense", "sparse") if head in vectors]
    near = [models.Prefetch(query=vectors[head], using=head, limit=candidates) for head in searched]
    heads = [head for head in vectors if head == "dense" or weights.get(head)]
    most = len(near) * candidates
    scored = [models.Prefetch(prefetch=near, query=vectors[head], using=head, limit=most) for head in heads]
    factors = {head: weights.get(head, 0.0) for head in heads}
    if similarity == "euclidean":
        factors["dense"] *= -1.0
    if "multi_vector" in factors:
        factors["multi_vector"] /= len(vectors["multi_vector"])
    terms = [models.MultExpression(mult=[factors[head], f"$score[{i}]"]) for i, head in enumerate(heads)]
    return {"prefetch": scored, "query": models.FormulaQuery(formula=models.SumExpression(sum=list(terms)))}


def _vectors(encoded: Encoded, row: int) -> dict[str, Any]:
    """One text's vectors by head, as Qdrant takes them; none that is empty."""
    from qdrant_client import models

    vectors: dict[str, Any] = {"dense": encoded.vectors[row].tolist()}
    if encoded.sparse is not None:
        low, high = encoded.sparse.indptr[row : row + 2]
        if high > low:
            ids, weights = encoded.sparse.ids[low:high], encoded.sparse.weights[low:high]
            vectors["sparse"] = models.SparseVector(indices=ids.tolist(), values=weights.tolist())
    if encoded.multi_vector is not None:
        low, high = encoded.multi_vector.offsets[row : row + 2]
        if high > low:
            vectors["multi_vector"] = encoded.multi_vector.vectors[low:high].tolist()
    return vectors


def _numbers(encoded: Encoded) -> np.ndarray:
    """How many numbers each text's vectors have: int64 [N]."""
    counts = np.full(len(encoded.vectors), encoded.vectors.shape[1], dtype=np.int64)
    if encoded.sparse is not None:
        counts += 2 * np.diff(encoded.sparse.indptr)
    if encoded.multi_vector is not None:
        counts += encoded.multi_vector.vectors.shape[1] * np.diff(encoded.multi_vector.offsets)
    return counts


def _batches(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of points that one request holds.

    >>> list(_batches(np.array([700_000, 700_000, 100, 2_000_000])))
    [(0, 1), (1, 3), (3, 4)]
    """
    start, held = 0, 0
    for end, count in enumerate(numbers.tolist()):
        if end > start and (held + count > _NUMBERS or end - start == _POINTS):
            yield start, end
            start, held = end, 0
        held += count
    if len(numbers):
        yield start, len(numbers)


def _refusal(error: Any) -> str:
    try:
        return _line(error.structured()["status"]["error"])
    except (ValueError, LookupError, TypeError):
        return f"{error.status_code} {error.reason_phrase}"


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
