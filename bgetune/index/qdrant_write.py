"""A Qdrant collection with a named vector for each head, written in batches; what is there is not written again.

Shapes: N passages, R of them that are to be written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from bgetune.config import Similarity
from bgetune.data import Texts
from bgetune.encoded import Encoded
from bgetune.errors import UserError
from bgetune.index.qdrant import point_id
from bgetune.progress import progress

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

log = logging.getLogger("bgetune")

Quantization = Literal["none", "scalar", "binary"]
Payload = Callable[[int], dict[str, Any]]
"""From a passage's row to what is kept beside its vectors."""

POINTS = 256
"""A request holds at most so many points, and so many numbers or one point: 20 bytes each as JSON, and a text's letters
four each; a server takes 32 MB."""
_NUMBERS, _LETTERS = 1 << 20, 5  # letters that take a number's room
_LOOKED_UP = 1000  # ids a request
_LONGEST_WAIT, _BETWEEN_LOOKS = 3600.0, 0.2  # seconds


@dataclass(frozen=True)
class Storage:
    """How a server keeps the vectors."""

    quantization: Quantization = "none"
    """Of dense vectors, beside the whole ones: scalar is a byte for a number, binary a bit. Searches go by them and
    re-score with the whole vectors."""
    on_disk: bool = False
    """Vectors and payload are read from the disk when they are needed, instead of held in memory."""


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
    payload = payload_of(corpus) if with_texts else lambda row: {"id": corpus.ids[row]}
    write_points(client, name, corpus, encoded, np.arange(len(corpus)), payload, label)
    held = client.count(name, exact=True).count
    if held != len(corpus):
        raise UserError(
            f"{option}: the collection {name!r} holds {held} points where {len(corpus)} were written; "
            "does another program write to it? Remove it and try again"
        )
    wait_until_indexed(client, name)


def payload_of(corpus: Texts, **more: str) -> Payload:
    """The id, title and text of a passage, and `more`, which is the same for all."""

    def payload(row: int) -> dict[str, Any]:
        title = corpus.titles[row] if corpus.titles else ""
        return {"id": corpus.ids[row], "title": title, "text": corpus.texts[row], **more}

    return payload


def create_collection(
    client: QdrantClient,
    name: str,
    encoded: Encoded,
    similarity: Similarity,
    storage: Storage | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """An empty collection with a named vector for each head of `encoded`: dense, sparse, multi_vector.

    The token vectors get no graph: they re-rank, and never search.
    """
    from qdrant_client import models

    how = storage or Storage()
    on_disk = how.on_disk or None
    distances = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "euclidean": models.Distance.EUCLID}
    vectors = {
        "dense": models.VectorParams(
            size=encoded.vectors.shape[1],
            distance=distances[similarity],
            quantization_config=_quantization(how.quantization),
            on_disk=on_disk,
        )
    }
    if encoded.multi_vector is not None:
        half = encoded.multi_vector.vectors[0:0].dtype == np.float16
        vectors["multi_vector"] = models.VectorParams(
            size=encoded.multi_vector.vectors.shape[1],
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16 if half else models.Datatype.FLOAT32,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
            on_disk=on_disk,
        )
    sparse = None
    if encoded.sparse is not None:
        index = models.SparseIndexParams(on_disk=True) if how.on_disk else None
        sparse = {"sparse": models.SparseVectorParams(index=index)}
    more: dict[str, Any] = {} if metadata is None else {"metadata": dict(metadata)}
    client.create_collection(
        name, vectors_config=vectors, sparse_vectors_config=sparse, on_disk_payload=on_disk, **more
    )


def _quantization(kind: Quantization) -> models.QuantizationConfig | None:
    from qdrant_client import models

    if kind == "scalar":
        settings = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return models.ScalarQuantization(scalar=settings)
    if kind == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


def missing_rows(client: QdrantClient, name: str, ids: list[str], label: str) -> np.ndarray:
    """Which passages have no point in a collection: their rows, int64 [R], ascending."""
    if not client.count(name, exact=True).count:
        return np.arange(len(ids))
    missing: list[int] = []
    with progress(len(ids), label, "point") as bar:
        for start in range(0, len(ids), _LOOKED_UP):
            asked = [point_id(each) for each in ids[start : start + _LOOKED_UP]]
            held = client.retrieve(name, ids=asked, with_payload=False, with_vectors=False)
            there = {str(record.id) for record in held}
            missing += [start + place for place, each in enumerate(asked) if each not in there]
            bar.update(len(asked))
    return np.array(missing, dtype=np.int64)


def write_points(
    client: QdrantClient,
    name: str,
    corpus: Texts,
    encoded: Encoded,
    rows: np.ndarray,
    payload: Payload,
    label: str,
    batch: int = POINTS,
) -> None:
    """Write the passages at `rows`, int64 [R], batch by batch; one that is there already is replaced."""
    from qdrant_client import models

    def point(row: int) -> models.PointStruct:
        return models.PointStruct(id=point_id(corpus.ids[row]), vector=vectors_of(encoded, row), payload=payload(row))

    sizes = _numbers(encoded)[rows] + np.array([len(corpus.texts[row]) // _LETTERS for row in rows], dtype=np.int64)
    done = len(corpus) - len(rows)
    with progress(len(corpus), label, "point", done) if label else tqdm(disable=True) as bar:
        for start, end in _batches(sizes, batch):
            client.upsert(name, [point(int(row)) for row in rows[start:end]], wait=True)
            bar.update(end - start)


def wait_until_indexed(client: QdrantClient, name: str) -> bool:
    """A server takes points at once and builds its graphs behind them; come back when it has, or after an hour.

    Returns:
        Whether it has: False after an hour, or when the server says that something failed.
    """
    from qdrant_client.models import CollectionStatus, OptimizersConfigDiff

    until = time.monotonic() + _LONGEST_WAIT
    while (status := client.get_collection(name).status) != CollectionStatus.GREEN:
        if status == CollectionStatus.RED or time.monotonic() > until:
            told = "failed, as its own log says" if status == CollectionStatus.RED else "still at work after an hour"
            log.warning("%s: the server's indexing is %s; what is searched now is slower", name, told)
            return False
        if status == CollectionStatus.GREY:  # a server that was started again waits for any change before it goes on
            client.update_collection(name, optimizers_config=OptimizersConfigDiff())
        time.sleep(_BETWEEN_LOOKS)
    return True


def vectors_of(encoded: Encoded, row: int) -> dict[str, Any]:
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


def _batches(sizes: np.ndarray, most: int = POINTS) -> Iterator[tuple[int, int]]:
    """Runs of points that one request holds, `most` of them at most; `sizes`: in numbers.

    >>> list(_batches(np.array([700_000, 700_000, 100, 2_000_000])))
    [(0, 1), (1, 3), (3, 4)]
    """
    start, held = 0, 0
    for end, count in enumerate(sizes.tolist()):
        if end > start and (held + count > _NUMBERS or end - start == most):
            yield start, end
            start, held = end, 0
        held += count
    if len(sizes):
        yield start, len(sizes)
