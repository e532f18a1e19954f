"""Cheaper dense vectors: fewer dimensions (Matryoshka), fp16, int8, and sign bits.

Shapes: N passages, D width, Q queries, C candidates of a query, K results of a query.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import faiss
import numpy as np

from bgetune.config import JobConfig, Similarity
from bgetune.encoded import Encoded
from bgetune.index.dense import sample_rows
from bgetune.index.exact import ROWS_AT_ONCE, metric_of, prepared, ranked, rescored
from bgetune.searched import Ranking

from .int8 import CALIBRATION
from .measure import Measured, Search, Way, measure

RESCORED = 40
"""Candidates of a binary search that are re-scored: four times the ten that nDCG@10 looks at."""
_TYPES = {"fp16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}


def dense(
    passages: Encoded, questions: Encoded, similarity: Similarity, config: JobConfig, label: str
) -> list[Measured]:
    """The full float32 vectors first, then each way to make them cheaper."""
    vectors, depth, seed = passages.vectors, config.eval.depth, config.eval.seed
    asking = np.asarray(questions.vectors, dtype=np.float32)
    width = vectors.shape[1]
    full = partial(_scalar, asking, vectors, similarity, depth, seed)

    def binary(rescored_by: str | None) -> tuple[float, Search]:
        return _binary(asking, vectors, similarity, depth, seed, rescored_by)

    ways = [Way("uncompressed", f"{width} × float32", partial(full, width, "float32"))]
    ways += [Way("dimensions", f"{d} of {width}", partial(full, d, "float32")) for d in fewer(width)]
    ways += [
        Way("fp16", "", partial(full, width, "fp16")),
        Way("int8", "", partial(full, width, "int8")),
    ]
    if width > 1:
        ways.append(Way("dimensions + int8", f"{width // 2} of {width}", partial(full, width // 2, "int8")))
    ways += [
        Way("binary", "", partial(binary, None)),
        Way("binary + re-scoring", f"best {RESCORED} by the bits", partial(binary, "bits")),
        Way("binary + re-scoring", f"best {RESCORED} by int8", partial(binary, "int8")),
    ]
    return measure(ways, len(asking), label)


def fewer(width: int, shares: tuple[float, ...] = (3 / 4, 1 / 2, 1 / 4, 1 / 8)) -> list[int]:
    """Smaller widths, the largest first, none twice.

    >>> fewer(384), fewer(3), fewer(1)
    ([288, 192, 96, 48], [2, 1], [])
    """
    return sorted({int(width * share) for share in shares} - {0, width}, reverse=True)


def _scalar(
    asking: np.ndarray, vectors: np.ndarray, similarity: Similarity, depth: int, seed: int, width: int, kind: str
) -> tuple[float, Search]:
    """The first `width` numbers of each vector as float32, fp16 or int8; under cosine of length 1 again."""
    index = _scalar_index(vectors, similarity, seed, width, kind)
    wanted = min(depth, len(vectors))

    def search(some: slice) -> Ranking:
        found, rows = index.search(prepared(asking[some, :width], similarity), wanted)
        return ranked(found, rows, similarity, depth)

    return float(index.code_size), search


def _scalar_index(
    vectors: np.ndarray, similarity: Similarity, seed: int, width: int, kind: str
) -> faiss.IndexFlatCodes:
    metric = metric_of(similarity)
    flat = kind == "float32"
    index = faiss.IndexFlat(width, metric) if flat else faiss.IndexScalarQuantizer(width, _TYPES[kind], metric)
    if not index.is_trained:
        # read whole rows: a mapped file has them together
        index.train(prepared(vectors[sample_rows(len(vectors), CALIBRATION, seed)][:, :width], similarity))
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        index.add(prepared(vectors[start : start + ROWS_AT_ONCE, :width], similarity))
    return index


def _binary(
    asking: np.ndarray, vectors: np.ndarray, similarity: Similarity, depth: int, seed: int, rescored_by: str | None
) -> tuple[float, Search]:
    """Sign bits, nearest by Hamming distance; the nearest few re-scored by the float query when asked for.

    By the bits: its product with +1 and -1, so that a doubtful bit of the query counts less than a sure one.
    By int8: its score with int8 vectors, which are kept besides the bits.
    """
    codes = np.concatenate([bits(vectors[i : i + ROWS_AT_ONCE]) for i in range(0, len(vectors), ROWS_AT_ONCE)])
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    width, size = vectors.shape[1], float(codes.shape[1])

    def nearest(some: slice, count: int) -> Ranking:
        distances, rows = index.search(bits(asking[some]), min(count, len(codes)))
        return ranked(-distances.astype(np.float32), rows, "dot", count)

    if rescored_by is None:
        return size, lambda some: nearest(some, depth)
    if rescored_by == "bits":
        return size, lambda some: _again(
            asking[some], nearest(some, RESCORED), lambda at: signs(codes[at], width), "dot"
        )
    whole = _scalar_index(vectors, similarity, seed, width, "int8")
    size += whole.code_size
    return size, lambda some: _again(asking[some], nearest(some, RESCORED), whole.reconstruct_batch, similarity)


def bits(vectors: np.ndarray) -> np.ndarray:
    """Whether each number is above 0: uint8 [N, D / 8], filled up with zeros.

    >>> bits(np.array([[0.1, -0.2, 0.0, 0.3]])).tolist()  # 1001 0000
    [[144]]
    """
    return np.packbits(np.asarray(vectors) > 0, axis=1)


def signs(codes: np.ndarray, width: int) -> np.ndarray:
    """Bits as numbers: float32 [N, width] of 1 and -1.

    >>> signs(np.array([[144]], dtype=np.uint8), 4).tolist()
    [[1.0, -1.0, -1.0, 1.0]]
    """
    return np.unpackbits(codes, axis=1, count=width).astype(np.float32) * 2 - 1


def _again(
    asking: np.ndarray, found: Ranking, read: Callable[[np.ndarray], np.ndarray], similarity: Similarity
) -> Ranking:
    """The candidates of each query in the order of their scores with what `read` gives for their rows."""
    _, rows = found
    wanted, place = np.unique(rows, return_inverse=True)
    scores, at = rescored(asking, read(wanted), place.reshape(rows.shape), similarity, rows.shape[1])
    return scores, wanted[at]
