"""How many lists to read, how far to walk a graph: as little as finds what is wanted of exact search.

Shapes: Q queries, K results of a query.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from bgetune.index.dense import DenseIndex

log = logging.getLogger("bgetune")

_WALK_FROM, _WALK_TO = 16, 4096  # efSearch
_WIDEST = 32  # times depth: what an index of codes is asked for at most, to be re-scored


@dataclass(frozen=True)
class Tuned:
    """What was set, and what it gave on the sample."""

    parameter: str
    """nprobe or efSearch; empty: the index has neither."""
    value: int
    """0 without a parameter."""
    recall: float
    """Share of exact search's results that were found."""
    milliseconds: float
    """Time a query, asked all at once."""
    wider: int = 1
    """An index of codes: times as many are taken as are asked for, to be re-scored."""


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of `exact` rows [Q, K] that are among `found` rows [Q, C]; -1 counts in neither. 1 when there are none.

    >>> recall(np.array([[3, 1], [4, -1]]), np.array([[1, 2], [4, 5]]))
    0.5
    """
    hits = sum(np.isin(wanted[wanted >= 0], at).sum() for at, wanted in zip(found, exact, strict=True))
    total = int((exact >= 0).sum())
    return float(hits / total) if total else 1.0


def tune(
    index: DenseIndex,
    queries: np.ndarray,
    exact_rows: np.ndarray,
    depth: int,
    wanted_recall: float,
    option: str = "mine.index_recall",
) -> Tuned:
    """Raise nprobe or efSearch, doubling, until recall@depth is what is wanted; the index keeps the value.

    Of an index of codes first what is taken for re-scoring is raised, with all lists read: where the codes mistake
    neighbours, no more lists would mend it. The values depend on recall alone, so that two runs set the same. Where
    none suffices, it keeps the first of the best and warns.

    Args:
        queries: float [Q, D], a sample held for this.
        exact_rows: int64 [Q, K], what `exact_search` finds for them, K = min(depth, N).
        option: where `wanted_recall` comes from, for the warning.
    """

    def measured(name: str, value: int) -> Tuned:
        if name:
            set_parameter(index, name, value)
        start = time.perf_counter()
        _, rows = index.search(queries, depth)
        milliseconds = 1000 * (time.perf_counter() - start) / max(len(queries), 1)
        return Tuned(name, value, recall(rows, exact_rows), milliseconds, index.wider)

    steps = list(_steps(index))
    while not index.exact_scores and index.wider < _WIDEST and measured(*steps[-1]).recall < wanted_recall:
        index.wider *= 2
    best: Tuned | None = None
    for step in steps:
        got = measured(*step)
        if best is None or got.recall > best.recall:
            best = got
        if got.recall >= wanted_recall:
            return got
    assert best is not None
    if best.parameter:
        set_parameter(index, best.parameter, best.value)
    log.warning(
        "%s: %.3f of exact search's %d nearest were wanted, the index finds %.3f at best%s; Flat finds all, codes of "
        "more bytes find more",
        *(option, wanted_recall, depth, best.recall, f" ({best.parameter} {best.value})" if best.parameter else ""),
    )
    return best


def set_parameter(index: DenseIndex, name: str, value: int) -> None:
    """Set what `tune` found, for example on an index that was loaded."""
    space = faiss.GpuParameterSpace() if index.on_gpu else faiss.ParameterSpace()
    space.set_index_parameter(index.faiss_index, name, value)


def _steps(index: DenseIndex) -> Iterator[tuple[str, int]]:
    """Powers of two up to the most that makes sense, that itself last."""
    inner: Any = index.faiss_index
    while type(inner).__name__ in ("IndexPreTransform", "IndexIDMap", "IndexRefineFlat", "IndexRefine"):
        inner = faiss.downcast_index(inner.base_index if "Refine" in type(inner).__name__ else inner.index)
    if "IVF" in type(inner).__name__:
        name, value, last = "nprobe", 1, int(inner.nlist)
    elif hasattr(inner, "hnsw"):
        name, value, last = "efSearch", _WALK_FROM, _WALK_TO
    else:
        yield "", 0
        return
    while value < last:
        yield name, value
        value *= 2
    yield name, last
