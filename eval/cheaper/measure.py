"""What one way of keeping passage vectors finds, and how much processor time a query takes.

Shapes: Q queries, K results of a query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from bgetune.progress import progress
from bgetune.searched import Ranking

from ..one_thread import one_thread

TIMED = 200
"""Queries whose time is taken, at most."""
_AT_ONCE = 64  # queries between two updates of the bar

Search = Callable[[slice], Ranking]
"""Ranks for some of the queries."""


@dataclass(frozen=True)
class Way:
    """One way of keeping passage vectors; `build` gives the mean bytes of a passage, and the search over them."""

    kind: str
    setting: str
    build: Callable[[], tuple[float, Search]]


@dataclass(frozen=True)
class Measured:
    """What one way costs and finds."""

    kind: str
    setting: str
    bytes: float
    """The mean of a passage."""
    ranking: Ranking
    """Of all queries."""
    ms: float
    """Processor time of the median query on one thread, in milliseconds; no wall clock, see `ms_a_query`."""


def measure(ways: Sequence[Way], queries: int, label: str) -> list[Measured]:
    """Build each way, search it with all of `queries`, and again one by one on one thread for the time.

    One is built at a time, so that memory holds one copy of the vectors besides the given one.
    """
    with progress(len(ways) * (queries + min(queries, TIMED)), label, "query") as bar:
        return [_measured(way, queries, bar.update) for way in ways]


def _measured(way: Way, queries: int, done: Callable[[int], object]) -> Measured:
    size, search = way.build()
    found = []
    for start in range(0, queries, _AT_ONCE):
        some = slice(start, min(start + _AT_ONCE, queries))
        found.append(search(some))
        done(some.stop - some.start)
    timed = min(queries, TIMED)
    ms = ms_a_query(lambda i: search(slice(i, i + 1)), timed)
    done(timed)
    scores, rows = (np.concatenate(part) for part in zip(*found, strict=True))
    return Measured(way.kind, way.setting, size, (scores, rows), ms)


def ms_a_query(ask: Callable[[int], object], queries: int) -> float:
    """The median processor time of `ask(i)` over the first `queries`, one at a time on one thread, in milliseconds.

    That is the latency on a free core, and a busy machine does not change it. Production indexes are timed by the wall
    clock instead (`eval/production.py`): a server's work is no processor time of this process.
    """
    times = []
    with one_thread():
        for i in range(queries):
            start = time.process_time()
            ask(i)
            times.append(time.process_time() - start)
    return 1000 * median(times)
