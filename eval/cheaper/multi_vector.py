"""Cheaper token vectors: pooled, int8, or fewer dimensions; each re-ranks the same candidates.

Shapes: N passages, T tokens of all passages together, M width of a token's vector, Q queries, C candidates of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from bgetune.config import JobConfig
from bgetune.encoded import Encoded
from bgetune.fusion import best
from bgetune.index.exact import ROWS_AT_ONCE
from bgetune.index.multi_vector import MultiVectorIndex, TokenMatrix, taken
from bgetune.progress import progress

from .dense import fewer
from .int8 import Decoded, Int8
from .measure import TIMED, Measured, ms_a_query
from .pooling import cut, means, pooled_lengths, resized, sizes, ward

FACTORS = (2, 3, 4)
_BLOCK = 2**26  # numbers of the passages that are held at once; 128 MiB in fp16


class _Block:
    """Some passages, their tokens in memory; the trees that pooling cuts are made once for all factors."""

    def __init__(self, texts: TokenMatrix) -> None:
        self.texts = texts

    @cached_property
    def _trees(self) -> list[np.ndarray]:
        return [ward(self._text(i)) for i in range(len(self.texts))]

    def _text(self, i: int) -> np.ndarray:
        """float32 [tokens of text i, M]."""
        low, high = self.texts.offsets[i : i + 2]
        return full(self.texts.vectors[low:high])

    def pooled(self, factor: int) -> TokenMatrix:
        left = pooled_lengths(np.diff(self.texts.offsets), factor)
        ends = np.concatenate([[0], np.cumsum(left)])
        vectors = np.empty((ends[-1], self.texts.vectors.shape[1]), dtype=np.float16)
        for i, k in enumerate(left.tolist()):
            if k:
                vectors[ends[i] : ends[i + 1]] = means(self._text(i), cut(self._trees[i], k), k)
        return TokenMatrix(vectors, ends)

    def narrow(self, width: int) -> TokenMatrix:
        return narrow(self.texts, width)

    def in_int8(self, codec: Int8) -> TokenMatrix:
        return TokenMatrix(Decoded(codec.encode(self.texts.vectors), codec), self.texts.offsets)


@dataclass(frozen=True)
class _Way:
    """One way of keeping token vectors: mean bytes of a passage, how a block of passages and the queries become it."""

    kind: str
    setting: str
    bytes: float
    passages: Callable[[_Block], TokenMatrix]
    questions: TokenMatrix


def multi_vector(
    passages: Encoded, questions: Encoded, candidates: np.ndarray, config: JobConfig, label: str
) -> list[Measured]:
    """The token vectors as they were encoded (fp16) first, then each way to make them cheaper.

    Only passages that are candidates are read, block by block; the time is of queries whose candidates are in the
    first block.

    Args:
        candidates: int64 [Q, C], rows of the passages to re-rank for each query, -1 for an empty place.
    """
    kept, asking = passages.multi_vector, questions.multi_vector
    assert kept is not None
    assert asking is not None
    ways = _ways(kept, asking, config.eval.seed)
    first, timed = timed_passages(kept, candidates)
    scores = [np.full(candidates.shape, -np.inf, dtype=np.float32) for _ in ways]
    ms = [0.0 for _ in ways]
    with progress(len(ways) * len(np.unique(candidates[candidates >= 0])), label, "passage") as bar:
        for number, rows in enumerate(_blocks(kept, candidates, first)):
            block, here = _Block(taken(kept, rows)), places(candidates, rows)
            for i, way in enumerate(ways):
                index = MultiVectorIndex(way.passages(block))
                scores[i] = np.maximum(scores[i], index.rerank(way.questions, here, label))
                if number == 0:
                    ms[i] = ms_a_query(partial(_ask, index, way.questions, here), timed)
                bar.update(len(rows))
    return [
        Measured(way.kind, way.setting, way.bytes, best(found, candidates, config.eval.depth), time)
        for way, found, time in zip(ways, scores, ms, strict=True)
    ]


def _ask(index: MultiVectorIndex, questions: TokenMatrix, candidates: np.ndarray, i: int) -> np.ndarray:
    low, high = questions.offsets[i], questions.offsets[i + 1]
    return index.rerank(TokenMatrix(questions.vectors[low:high], np.array([0, high - low])), candidates[i : i + 1])


def _ways(kept: TokenMatrix, asking: TokenMatrix, seed: int) -> list[_Way]:
    lengths, width = np.diff(kept.offsets), kept.vectors.shape[1]
    mean = float(lengths.mean())
    ways = [_Way("uncompressed", f"{width} × fp16", mean * width * 2, lambda block: block.texts, asking)]
    for factor in FACTORS:
        size = float(pooled_lengths(lengths, factor).mean()) * width * 2
        ways.append(_Way("pooling", f"{factor} to 1", size, partial(_Block.pooled, factor=factor), asking))
    if lengths.any():
        codec = Int8.fit(kept.vectors, seed)
        ways.append(_Way("int8", "", mean * width, partial(_Block.in_int8, codec=codec), asking))
    for d in fewer(width, (1 / 2, 1 / 4)):
        short = partial(_Block.narrow, width=d)
        ways.append(_Way("dimensions", f"{d} of {width}", mean * d * 2, short, narrow(asking, d)))
    return ways


def narrow(texts: TokenMatrix, width: int) -> TokenMatrix:
    """The first numbers of each vector, scaled to the whole vector's length."""
    short = np.empty((len(texts.vectors), width), dtype=np.float16)
    for start in range(0, len(short), ROWS_AT_ONCE):
        whole = full(texts.vectors[start : start + ROWS_AT_ONCE])
        short[start : start + len(whole)] = resized(whole[:, :width], sizes(whole))
    return TokenMatrix(short, texts.offsets)


def full(vectors: np.ndarray) -> np.ndarray:
    """In float32; by torch, because numpy takes several times as long. A mapped file is copied, torch wants to own."""
    return torch.from_numpy(np.array(vectors)).float().numpy()


def places(candidates: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where in `rows`, ascending, each candidate stands; -1 for those that do not.

    >>> places(np.array([[4, 7, -1]]), np.array([2, 7, 9])).tolist()
    [[-1, 1, -1]]
    """
    if not len(rows):
        return np.full_like(candidates, -1)
    at = np.minimum(np.searchsorted(rows, candidates), len(rows) - 1)
    return np.where(rows[at] == candidates, at, -1)


def timed_passages(texts: TokenMatrix, candidates: np.ndarray) -> tuple[np.ndarray, int]:
    """The candidates, ascending, of as many first queries as fit a block, and how many queries that is; at least 1."""
    rows, count = candidates[:0, :0].ravel(), 0
    while count < min(len(candidates), TIMED):
        more = np.union1d(rows, candidates[count][candidates[count] >= 0])
        numbers = int((texts.offsets[more + 1] - texts.offsets[more]).sum()) * texts.vectors.shape[1]
        if count and numbers > _BLOCK:
            break
        rows, count = more, count + 1
    return rows, count


def _blocks(texts: TokenMatrix, candidates: np.ndarray, first: np.ndarray) -> Iterator[np.ndarray]:
    """All candidates, once each: `first`, then ascending runs that fit a block."""
    yield first
    rest = np.setdiff1d(candidates[candidates >= 0], first)
    numbers = np.cumsum((texts.offsets[rest + 1] - texts.offsets[rest]) * texts.vectors.shape[1])
    cuts = np.flatnonzero(np.diff(numbers // _BLOCK)) + 1
    yield from (run for run in np.split(rest, cuts) if len(run))
