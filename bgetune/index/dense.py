"""A FAISS index over dense vectors, with scores of which higher is always nearer.

Shapes: N vectors, D width, Q queries, K results of a query.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import faiss
import numpy as np
from tqdm import tqdm

from bgetune.config import Similarity
from bgetune.errors import UserError
from bgetune.index.exact import ROWS_AT_ONCE, metric_of, prepared, ranked, rescored
from bgetune.progress import progress

log = logging.getLogger("bgetune")

# FAISS wants 39 to 256 training vectors a centroid; 64 were enough for the recall of more.
_TRAINING_PER_CENTROID, _FEWEST_PER_CENTROID = 64, 39
# Indexes that keep whole vectors: their scores are exact. All others keep codes; what those find is re-scored.
_EXACT_SCORES = ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexIVFFlat", "IndexHNSWFlat", "IndexNSGFlat")
_WIDER = 4  # of an index of codes, so many times as many are taken to be re-scored, before it is tuned
_QUERIES_AT_ONCE = 4096
_GPU_DEPTH = 2048  # FAISS on a GPU finds no more for a query


class DenseIndex:
    """Built from vectors, searched by vectors; rows are positions in the corpus.

    An index that keeps codes instead of vectors (PQ, SQ, LSH, PCA before it) finds `wider` times as many as are asked
    for (four, before it is tuned), and these are re-scored with the vectors it was built over, read where they lie:
    scores are always exact, and no second copy is held (FAISS's own `,RFlat` would hold all vectors in memory, which
    codes are there to avoid).
    """

    def __init__(
        self,
        index: faiss.Index,
        similarity: Similarity,
        vectors: np.ndarray,
        option: str = "index",
        on_gpu: bool = False,
        exact_scores: bool | None = None,
        owner: object = None,
    ) -> None:
        self.faiss_index, self.similarity, self.vectors = index, similarity, vectors
        self.option, self.on_gpu = option, on_gpu
        self.exact_scores = type(index).__name__ in _EXACT_SCORES if exact_scores is None else exact_scores
        self.wider = 1 if self.exact_scores else _WIDER
        self._owner = owner  # of the memory that the index lies in; must live as long

    def __len__(self) -> int:
        return int(self.faiss_index.ntotal)

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        similarity: Similarity,
        factory: str = "Flat",
        seed: int = 0,
        option: str = "index",
        label: str = "",
    ) -> DenseIndex:
        """Build over [N, D]; what needs training is trained on a sample, at most 64 vectors a centroid.

        The same vectors, factory and seed give the same index with any number of threads; graphs (HNSW, NSG) are built
        with one, because FAISS before 1.15 linked them by who came first.

        Args:
            vectors: float16 or float32, in memory or mapped; read block by block.
            factory: FAISS's factory string.
            seed: decides the training sample and where k-means starts.
            option: whose value the factory string is, for messages.
            label: stands before the progress bar; none: no bar.

        Raises:
            UserError: FAISS does not know the factory string, or it needs more vectors than there are.
        """
        threads = 1 if re.search("HNSW|NSG", factory) else faiss.omp_get_max_threads()
        with _one_line(f"{option}: FAISS cannot build {factory!r} over {len(vectors)} vectors"), _threads(threads):
            index = faiss.index_factory(vectors.shape[1], factory, metric_of(similarity))
            if not index.is_trained:
                _train(index, vectors, similarity, factory, seed, option)
            _make_room(index, len(vectors))
            with _bar(len(vectors), label, "passage") as bar:
                for start in range(0, len(vectors), ROWS_AT_ONCE):
                    block = prepared(vectors[start : start + ROWS_AT_ONCE], similarity)
                    index.add(block)
                    bar.update(len(block))
        return cls(index, similarity, vectors, option)

    def search(self, queries: np.ndarray, depth: int, label: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows of each query.

        Args:
            queries: float16 or float32 [Q, D].
            depth: how many; fewer come back when the corpus is smaller.
            label: stands before the progress bar; none: no bar.

        Returns:
            Scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row; row -1 and score
            -inf: none found.

        Raises:
            UserError: FAISS refuses, as a GPU does when more than 2,048 are asked for.
        """
        depth = min(depth, len(self))
        scores, rows = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
        with (
            _one_line(f"{self.option}: FAISS cannot find {depth} of a query"),
            _bar(len(queries), label, "query") as bar,
        ):
            for start in range(0, len(queries) if depth else 0, _QUERIES_AT_ONCE):
                some = slice(start, start + _QUERIES_AT_ONCE)
                scores[some], rows[some] = self._search(queries[some], depth)
                bar.update(len(rows[some]))
        return scores, rows

    def _search(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(depth * self.wider, len(self))
        if self.on_gpu:
            wanted = max(depth, min(wanted, _GPU_DEPTH))
        found, rows = self.faiss_index.search(prepared(queries, self.similarity), wanted)
        if self.exact_scores:
            return ranked(found, rows, self.similarity, depth)
        return rescored(queries, self.vectors, rows, self.similarity, depth)


def sample_rows(total: int, count: int, seed: int) -> np.ndarray:
    """At most `count` of `total` rows, by seed: int64, ascending, none twice.

    >>> sample_rows(3, 5, seed=0).tolist(), len(sample_rows(1000, 5, seed=0))
    ([0, 1, 2], 5)
    """
    if count >= total:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def _train(
    index: faiss.Index, vectors: np.ndarray, similarity: Similarity, factory: str, seed: int, option: str
) -> None:
    lists = faiss.try_extract_index_ivf(index)
    centroids = lists.nlist if lists else 0
    if lists and centroids <= len(vectors) < centroids * _FEWEST_PER_CENTROID:
        log.warning(
            "%s: %r has %d lists for %d vectors; FAISS advises at least %d vectors a list, fewer lists search better",
            *(option, factory, centroids, len(vectors), _FEWEST_PER_CENTROID),
        )
    for part in (lists, getattr(lists, "pq", None), getattr(index, "pq", None)):
        if part:
            part.cp.seed = seed
            part.cp.min_points_per_centroid = 1  # it has been said above; FAISS would print it again
    for part in (lists, index):
        if part and hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False  # orders codes for a filter that is off; training took 50 times as long
    count = _TRAINING_PER_CENTROID * max(centroids, 256)  # 256: what one byte of a code can say
    index.train(prepared(vectors[sample_rows(len(vectors), count, seed)], similarity))


def _make_room(index: faiss.Index, count: int) -> None:
    """Take the memory of a flat index at once: grown block by block it would be held twice while it is copied."""
    storage = faiss.downcast_index(index.storage) if hasattr(index, "storage") else index
    if isinstance(storage, faiss.IndexFlatCodes):
        storage.codes.resize(count * storage.code_size)
        storage.codes.resize(0)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError(f"{what}: {faiss_reason(error)}") from None


def faiss_reason(error: Exception) -> str:
    """What FAISS means, without where in its sources it stands.

    >>> faiss_reason(RuntimeError("Error in void f(int) at /x/y.cpp:66: Error: 'n >= k' failed: Too few (1)"))
    'Too few (1)'
    >>> faiss_reason(RuntimeError("Error in Index* g() at /x/y.cpp:1228: could not parse index string Hallo"))
    'could not parse index string Hallo'
    >>> faiss_reason(RuntimeError("Error in Index* g() at /x/y.cpp:12: Error: 'metric == METRIC_L2' failed"))
    "'metric == METRIC_L2' failed"
    """
    words = re.sub(r"^Error in .*? at \S+:\d+: ", "", " ".join(str(error).split()))
    return re.sub(r"^Error: (?:'.*' failed: ?(?=\S))?", "", words)[:200]


def _bar(total: int, label: str, unit: str) -> tqdm:
    return progress(total, label, unit) if label else tqdm(disable=True)
