"""A FAISS index over dense vectors, with scores of which higher is always nearer."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from bgetune.config import Similarity
from bgetune.errors import UserError


class DenseIndex:
    """Built from vectors, searched by vectors; rows are positions in the corpus."""

    def __init__(self, index: faiss.Index, similarity: Similarity) -> None:
        self._index = index
        self._similarity = similarity

    @classmethod
    def build(cls, vectors: np.ndarray, similarity: Similarity, factory: str = "Flat") -> DenseIndex:
        """Build over float32 [N, D]; a factory string that needs training is trained on all of them.

        Raises:
            UserError: FAISS does not know the factory string, or it needs more vectors than there are.
        """
        metric = faiss.METRIC_L2 if similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
        try:
            index = faiss.index_factory(vectors.shape[1], factory, metric)
            rows = _prepared(vectors, similarity)
            if not index.is_trained:
                index.train(rows)
            index.add(rows)
        except RuntimeError as error:
            reason = " ".join(str(error).split()).rpartition("Error: ")[2][:160]
            raise UserError(f"index: FAISS cannot build {factory!r} over {len(vectors)} vectors: {reason}") from None
        return cls(index, similarity)

    def search(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows of each query.

        Args:
            queries: float32 [Q, D].
            depth: how many; fewer come back when the corpus is smaller.

        Returns:
            Scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row; row -1: none found.
        """
        depth = min(depth, self._index.ntotal)
        scores, rows = self._index.search(_prepared(queries, self._similarity), depth)
        if self._similarity == "euclidean":
            scores = -np.sqrt(np.maximum(scores, 0.0))
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def save(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path, similarity: Similarity) -> DenseIndex:
        return cls(faiss.read_index(str(path)), similarity)


def _prepared(vectors: np.ndarray, similarity: Similarity) -> np.ndarray:
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if similarity != "cosine":
        return rows
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
