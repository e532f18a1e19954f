"""Exact MaxSim over token vectors: BGE-M3's multi-vector head, to search with or to re-rank with.

Shapes: N texts, T tokens of all texts together, M width of a token's vector, Q queries, C candidates of a query,
K results of a query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from bgetune.fusion import best
from bgetune.progress import progress

# What is held at once: the vectors of so many query tokens; in each thread those of so many passage tokens (at least
# one text's) and so many similarities (16 MiB); the scores of so many passages.
_QUERY_TOKENS, _PASSAGE_TOKENS, _SIMILARITIES, _PASSAGES = 2**14, 2**10, 2**22, 2**10
# Multiplications from which on a bar is shown: a few seconds on two cores.
_BAR_FROM = 2e11


class Rows(Protocol):
    """Rows [T, M] of which some can be taken by their positions, int64 [N]."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, at: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class TokenMatrix:
    """N multi-vectors; text i has the rows `offsets[i]:offsets[i + 1]` of `vectors`, and may have none.

    vectors: float16 or float32 [T, M], in memory, mapped, or in pieces; offsets: int64 [N + 1].
    """

    vectors: Rows
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


class MultiVectorIndex:
    """Score: mean over query tokens of the largest dot product with a passage token (arXiv 2402.03216 §3.2).

    In float32; 0 where query or passage has no token.
    """

    def __init__(self, passages: TokenMatrix) -> None:
        self._passages = passages

    def rerank(self, queries: TokenMatrix, rows: np.ndarray, label: str = "") -> np.ndarray:
        """Scores of each query's own candidates.

        Passage after passage, each read and converted once for all queries that have it among their candidates.

        Args:
            rows: int64 [Q, C], -1 for an empty place.
            label: stands before the progress bar, which is shown when this takes more than a few seconds.

        Returns:
            float32 [Q, C]; -inf at empty places.
        """
        lengths = np.diff(self._passages.offsets)
        tokens = np.where(rows >= 0, lengths[rows] if len(lengths) else 0, 0).sum(axis=1)
        work = float(np.diff(queries.offsets) @ tokens) * queries.vectors.shape[1]
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        with _bar(int((rows >= 0).sum()), label, work) as bar:
            for start, end in _spans(queries.offsets, _QUERY_TOKENS):
                self._rerank_span(_taken(queries, np.arange(start, end)), rows[start:end], scores[start:end], bar)
        return scores

    def _rerank_span(self, queries: TokenMatrix, rows: np.ndarray, scores: np.ndarray, bar: tqdm) -> None:
        """Fill `scores` [Q, C], a view."""
        query_at, place = np.nonzero(rows >= 0)
        order = np.argsort(rows[query_at, place], kind="stable")
        query_at, place = query_at[order], place[order]
        passages, firsts = np.unique(rows[query_at, place], return_index=True)
        firsts = np.append(firsts, len(query_at))
        tokens, pairs = _tokens_at(queries.offsets, query_at)  # the query tokens of all pairs, and where a pair begins
        bounds = pairs[firsts]  # where a passage begins
        largest = np.zeros(len(tokens), dtype=np.float32)

        def fill(span: tuple[int, int]) -> int:
            block = _taken(self._passages, passages[slice(*span)])
            for i, (low, high) in enumerate(pairwise(block.offsets), start=span[0]):
                asking = queries.vectors[tokens[bounds[i] : bounds[i + 1]]]
                if high > low and len(asking):
                    largest[bounds[i] : bounds[i + 1]] = _largest(asking, block.vectors[low:high], [0])[:, 0]
            return int(firsts[span[1]] - firsts[span[0]])

        with _pool() as pool:
            for done in pool.map(fill, _spans(_tokens_at(self._passages.offsets, passages)[1], _PASSAGE_TOKENS)):
                bar.update(done)
        scores[query_at, place] = _means(largest, pairs)

    def search(self, queries: TokenMatrix, depth: int, label: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The best passages of each query, by scoring all of them.

        Args:
            label: stands before the progress bar, which is shown when this takes more than a few seconds.

        Returns:
            Scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row, K = min(depth, N).
        """
        size = len(self._passages)
        depth = min(depth, size)
        scores = np.zeros((len(queries), depth), dtype=np.float32)
        rows = np.zeros((len(queries), depth), dtype=np.int64)
        work = float(queries.offsets[-1]) * float(self._passages.offsets[-1]) * queries.vectors.shape[1]
        with _bar(len(queries) * size, label, work) as bar:
            for start, end in _spans(queries.offsets, _QUERY_TOKENS):
                some = _taken(queries, np.arange(start, end))
                scores[start:end], rows[start:end] = self._search_span(some, depth, bar)
        return scores, rows

    def _search_span(self, queries: TokenMatrix, depth: int, bar: tqdm) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = np.zeros((len(queries), 0), dtype=np.float32), np.zeros((len(queries), 0), dtype=np.int64)

        def score(span: tuple[int, int]) -> np.ndarray:
            return _maxsim(queries, _taken(self._passages, np.arange(*span)))

        with _pool() as pool:
            for first in range(0, len(self._passages), _PASSAGES):
                last = min(first + _PASSAGES, len(self._passages))
                spans = _spans(self._passages.offsets[first : last + 1], _PASSAGE_TOKENS)
                found = [scores]
                for block in pool.map(score, [(first + start, first + end) for start, end in spans]):
                    found.append(block)
                    bar.update(block.size)
                at = np.broadcast_to(np.arange(first, last), (len(queries), last - first))
                scores, rows = best(np.concatenate(found, axis=1), np.concatenate([rows, at], axis=1), depth)
        return scores, rows


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each with one of its own.

    Threads that share a small product wait for each other; on a busy machine re-ranking took fifteen times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # new threads take it over
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _bar(total: int, label: str, work: float) -> tqdm:
    """A bar over pairs of query and passage; a silent one for little work."""
    return progress(total, label, "pair") if work >= _BAR_FROM else tqdm(disable=True)


def _spans(offsets: np.ndarray, tokens: int) -> Iterator[tuple[int, int]]:
    """Cut texts into runs of at most `tokens`, where each text counts one more than it has; a longer one is alone.

    >>> list(_spans(np.array([0, 3, 3, 5, 30, 31]), tokens=8))
    [(0, 3), (3, 4), (4, 5)]
    """
    ends = offsets + np.arange(len(offsets))
    start = 0
    while start < len(offsets) - 1:
        end = max(int(np.searchsorted(ends, ends[start] + tokens, side="right")) - 1, start + 1)
        yield start, end
        start = end


def _tokens_at(offsets: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all tokens of the texts `at`, text after text, and offsets [len(at) + 1] into them.

    >>> [x.tolist() for x in _tokens_at(np.array([0, 2, 2, 5]), np.array([2, 0]))]
    [[2, 3, 4, 0, 1], [0, 3, 5]]
    """
    lengths = offsets[at + 1] - offsets[at]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return np.repeat(offsets[at] - ends[:-1], lengths) + np.arange(ends[-1]), ends


def taken(texts: TokenMatrix, at: np.ndarray) -> TokenMatrix:
    """Some of the texts, in the order given, their vectors read.

    >>> some = taken(TokenMatrix(np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 3])), np.array([1, 0]))
    >>> some.vectors.tolist(), some.offsets.tolist()
    ([[2.0], [3.0], [1.0]], [0, 2, 3])
    """
    tokens, offsets = _tokens_at(texts.offsets, at)
    return TokenMatrix(np.asarray(texts.vectors[tokens]), offsets)


def _taken(texts: TokenMatrix, at: np.ndarray) -> TokenMatrix:
    """`taken`, its vectors made float32."""
    some = taken(texts, at)
    vectors = torch.from_numpy(np.asarray(some.vectors)).float().numpy()  # numpy takes twice as long or more
    return TokenMatrix(vectors, some.offsets)


def _means(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The mean of each text's tokens: float32 [N, ...] from [T, ...]; 0 without tokens.

    >>> _means(np.array([1.0, 3.0, 5.0], dtype=np.float32), np.array([0, 2, 2, 3])).tolist()
    [2.0, 0.0, 5.0]
    """
    lengths = np.diff(offsets)
    at = np.flatnonzero(lengths)
    found = np.zeros((len(lengths), *values.shape[1:]), dtype=np.float32)
    if len(at):
        # reduceat gives an empty segment the value behind it; with the empty texts left out, the others still join up
        sums = np.add.reduceat(values, offsets[at], axis=0)
        found[at] = (sums.T / lengths[at].astype(np.float32)).T
    return found


def _maxsim(queries: TokenMatrix, passages: TokenMatrix) -> np.ndarray:
    """MaxSim of every query with every passage: float32 [Q, N].

    >>> q = TokenMatrix(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), np.array([0, 2, 2]))
    >>> p = TokenMatrix(np.array([[3.0, 1.0], [2.0, 5.0], [1.0, 1.0]], dtype=np.float32), np.array([0, 2, 2, 3]))
    >>> _maxsim(q, p).tolist()  # (3 + 5) / 2, a passage without tokens, (1 + 1) / 2; a query without tokens
    [[4.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    largest = np.zeros((len(queries.vectors), len(passages)), dtype=np.float32)
    at = np.flatnonzero(np.diff(passages.offsets))
    if len(at):  # see _means for why not all
        largest[:, at] = _largest(np.asarray(queries.vectors), np.asarray(passages.vectors), passages.offsets[at])
    return _means(largest, queries.offsets)


def _largest(queries: np.ndarray, passages: np.ndarray, starts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The largest similarity of each query token [Tq, M] within each passage of [Tp, M]: float32 [Tq, N].

    Passages begin at `starts`, and none of them is empty.

    >>> q, p = np.array([[1.0], [-1.0]], dtype=np.float32), np.array([[4.0], [9.0], [2.0]], dtype=np.float32)
    >>> _largest(q, p, [0, 2]).tolist()
    [[9.0, 2.0], [-4.0, -2.0]]
    """
    largest = np.empty((len(queries), len(starts)), dtype=np.float32)
    turned = torch.from_numpy(passages).T
    few = max(1, _SIMILARITIES // len(passages))
    for low in range(0, len(queries), few):
        similar = (torch.from_numpy(queries[low : low + few]) @ turned).numpy()
        np.maximum.reduceat(similar, starts, axis=1, out=largest[low : low + few])
    return largest
