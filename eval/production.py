"""What a production index adds to the model: loss, size, time to build, latency.

Exact search gives the model's quality. Each index is asked for the same few passages that an application shows, and
compared with exact search cut to as many, query by query.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import faiss
import numpy as np

from bgetune.config import JobConfig
from bgetune.encoded import Encoded
from bgetune.errors import UserError
from bgetune.index.dense import DenseIndex, sample_rows
from bgetune.index.exact import exact_search
from bgetune.index.qdrant import MEMORY, connected, is_local
from bgetune.index.qdrant_search import search_collection
from bgetune.index.qdrant_write import write_collection
from bgetune.index.tune import Tuned, tune
from bgetune.metrics import DECIDING, Results, per_query
from bgetune.search import HYBRID, EncodedSet, as_results, ensemble_weights

from .one_thread import one_thread
from .sets import EvalSet
from .significance import compare

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

log = logging.getLogger("bgetune")

QDRANT = "qdrant"
"""Among `eval.indexes`: Qdrant's local mode; `qdrant:URL` is a server."""
COLLECTIONS = "bgetune-eval-"
"""Collections made for measuring are named so, and removed after it. One that is there while nothing is measured was
left by a run that was killed, and may be removed."""

_OPTION = "eval.indexes"
_DEPTH = 10
_SAMPLE = 256  # passages that stand for queries where an index is tuned
_TIMED, _WARM_UP = 500, 10  # queries
# Qdrant's local mode compares in Python, 0.4 ms a pair of query and passage: no more passages, and queries by pairs.
_LOCAL_PASSAGES, _LOCAL_PAIRS = 20_000, 1 << 18

# How the rows' latency was taken, as `setting` tells it.
_ONE_THREAD = "timed by the wall clock on one thread"
_LOCAL = "qdrant-client's local mode: exact, timed by the wall clock, which is no server's latency"
_SERVER = "a server with its defaults, timed by the wall clock with the network"

T = TypeVar("T")


@dataclass(frozen=True)
class _Task:
    """One system over one set."""

    encoded: EncodedSet
    test: EvalSet
    config: JobConfig
    system: str


@dataclass(frozen=True)
class _Found:
    """What an index gave, before it is compared."""

    index: str
    retriever: str
    setting: str
    """How it was searched and timed, in words."""
    results: Results
    """Of the queries that were asked, all or a sample."""
    bytes: int
    build_s: float
    milliseconds: list[float]
    """Of single queries, by the wall clock."""


def measure_indexes(
    encoded: EncodedSet,
    test: EvalSet,
    exact: Mapping[str, Results],
    config: JobConfig,
    system: str,
    index_recall: float = 0.95,
) -> list[dict[str, Any]]:
    """Build each of `eval.indexes` over one set and measure it: the rows `indexes` of the report.

    A FAISS index holds the dense vectors; nprobe or efSearch is raised on a sample of passages, never on the test's
    queries, until its recall is `index_recall`. A Qdrant collection holds all heads' vectors, and gives a row for each
    retriever of `exact`.

    p50_ms and p95_ms are by the wall clock, of one query after the other, at most 500: FAISS searches on one thread, a
    Qdrant server as it will, and its network is in them. (The ms of cheaper vectors are of processor time.)

    Each call makes Qdrant collections of its own, which jobs that share a server never share, and removes them. Those
    that a killed run has left are found by their names' beginning, `COLLECTIONS`.

    Args:
        exact: dense, and hybrid where there are several heads -> what exact search found, best first.
        index_recall: share of a sample's nearest passages that a FAISS index shall find.

    Returns:
        Rows with set, system, index, retriever, setting, exact and found (mean nDCG@10), loss, ci95, recall, bytes,
        build_s, p50_ms, p95_ms, n_queries.

    Raises:
        UserError: FAISS does not know a factory string, a Qdrant server does not answer, or the set is empty.
    """
    if config.eval.indexes and not (len(test.corpus) and len(test.queries)):
        raise UserError(f"{_OPTION}: the set {test.name} has no passage or no query to measure with; leave it empty")
    task = _Task(encoded, test, config, system)
    rows = []
    for index in config.eval.indexes:
        name, _, location = index.partition(":")
        if name == QDRANT:
            found = _qdrant(task, list(exact), location or MEMORY)
        else:
            found = [_faiss(task, index, index_recall)]
        rows += [_row(task, each, exact[each.retriever]) for each in found]
    return rows


def recall(exact: Results, found: Results) -> float:
    """Share of exact search's ten best that were found; one that scores as the tenth does is as good. 1 without any.

    >>> exact = {"q": {f"p{i}": 1.0 - i / 100 for i in range(12)}, "r": {}}
    >>> recall(exact, {"q": {f"p{i}": 0.5 for i in range(2, 12)}, "r": {"p0": 1.0}})
    0.8
    """
    hits, wanted = 0, 0
    for query_id, ranking in exact.items():
        best = _first(ranking)
        least = min(best.values(), default=0.0)
        good = {passage_id for passage_id, score in ranking.items() if score >= least}
        hits += min(len(good & found[query_id].keys()), len(best))
        wanted += len(best)
    return hits / wanted if wanted else 1.0


def _first(ranking: Mapping[str, float]) -> dict[str, float]:
    return dict(list(ranking.items())[:_DEPTH])


def _row(task: _Task, found: _Found, exact: Results) -> dict[str, Any]:
    settings = task.config.eval
    qrels = {query_id: judged for query_id, judged in task.test.qrels.items() if query_id in found.results}
    exact = {query_id: exact[query_id] for query_id in qrels}
    best = {query_id: _first(ranking) for query_id, ranking in exact.items()}
    there, here = (per_query(qrels, results, [DECIDING])[DECIDING] for results in (best, found.results))
    comparison = compare(here, there, settings.bootstrap_samples, settings.permutations, settings.seed)
    p50, p95 = np.percentile(found.milliseconds, [50, 95])
    return {
        "set": task.test.name,
        "system": task.system,
        "index": found.index,
        "retriever": found.retriever,
        "setting": found.setting,
        "exact": float(there.mean()),
        "found": float(here.mean()),
        "loss": comparison.abs,
        "ci95": list(comparison.ci95),
        "recall": recall(exact, found.results),
        "bytes": found.bytes,
        "build_s": found.build_s,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "n_queries": len(qrels),
    }


def _faiss(task: _Task, factory: str, index_recall: float) -> _Found:
    test, seed, similarity = task.test, task.config.eval.seed, task.encoded.similarity
    vectors, questions = task.encoded.passages.vectors, task.encoded.questions.vectors
    started = time.perf_counter()
    index = DenseIndex.build(vectors, similarity, factory, seed, _OPTION, f"{task.system} {test.name} {factory}")
    build_s = time.perf_counter() - started
    sample = np.asarray(vectors[sample_rows(len(vectors), _SAMPLE, seed)])
    nearest = exact_search(sample, vectors, similarity, _DEPTH)[1]
    tuned = tune(index, sample, nearest, _DEPTH, index_recall, _OPTION)
    results = as_results(test.queries.ids, test.corpus.ids, *index.search(questions, _DEPTH))
    some = questions[sample_rows(len(questions), _TIMED, seed)]
    with one_thread():
        _timed(index.search(query[None], _DEPTH) for query in some[:_WARM_UP])
        _, milliseconds = _timed(index.search(query[None], _DEPTH) for query in some)
    return _Found(factory, "dense", _setting(index, tuned), results, _file_size(index), build_s, milliseconds)


def _setting(index: DenseIndex, tuned: Tuned) -> str:
    said = [f"{tuned.parameter} {tuned.value}"] if tuned.parameter else []
    if not index.exact_scores:
        said.append(f"the {index.wider * _DEPTH} found are scored again with the vectors, which are kept besides")
    return ", ".join([*(said or ["nothing to set"]), _ONE_THREAD])


def _file_size(index: DenseIndex) -> int:
    """Bytes of the index as FAISS writes it to a file; none is written."""
    total = 0

    def count(block: bytes) -> int:
        nonlocal total
        total += len(block)
        return len(block)

    writer: Any = getattr(faiss, "PyCallbackIOWriter")  # noqa: B009 - FAISS's own stubs lack it
    faiss.write_index(index.faiss_index, writer(count))
    return total


def _qdrant(task: _Task, retrievers: Sequence[str], location: str) -> list[_Found]:
    test, passages, local = task.test, task.encoded.passages, is_local(location)
    if local and len(test.corpus) > _LOCAL_PASSAGES:
        log.warning(
            "%s: left out %s of %s: Qdrant's local mode is too slow for its %d passages; name a server as qdrant:URL",
            *(_OPTION, QDRANT, test.name, len(test.corpus)),
        )
        return []
    asked = max(_LOCAL_PAIRS // len(test.corpus), 1) if local else len(test.queries)
    rows = sample_rows(len(test.queries), asked, task.config.eval.seed)
    name = f"{COLLECTIONS}{os.getpid()}-{secrets.token_hex(8)}"
    label = f"{task.system} {test.name} {QDRANT}"
    setting = _LOCAL if local else _SERVER
    found = []
    with connected(location, _OPTION) as client:
        try:
            started = time.perf_counter()
            write_collection(client, name, test.corpus, passages, task.encoded.similarity, False, _OPTION, label)
            build_s = time.perf_counter() - started
            for retriever in retrievers:
                results, milliseconds = _asked(client, name, task, retriever, rows)
                index, size = f"{QDRANT} {retriever}{', local' if local else ''}", _vector_bytes(passages)
                found.append(_Found(index, retriever, setting, results, size, build_s, milliseconds))
        finally:
            client.delete_collection(name)
    return found


def _asked(
    client: QdrantClient, name: str, task: _Task, retriever: str, rows: np.ndarray
) -> tuple[Results, list[float]]:
    """What the queries at `rows` find, and how long each takes."""
    weights = ensemble_weights(task.config.train) if retriever == HYBRID else None
    settings = task.encoded.similarity, retriever, _DEPTH, task.config.eval.candidates, weights
    _timed(search_collection(client, name, task.encoded.questions, rows[:_WARM_UP], *settings))
    found, milliseconds = _timed(search_collection(client, name, task.encoded.questions, rows, *settings))
    return {task.test.queries.ids[row]: each for row, each in zip(rows, found, strict=True)}, milliseconds[:_TIMED]


def _vector_bytes(passages: Encoded) -> int:
    """What a server keeps of the vectors: float32, 4 bytes for an id and a weight each, token vectors as they are."""
    total = 4 * passages.vectors.size
    if passages.sparse is not None:
        total += 8 * len(passages.sparse.ids)
    if (multi := passages.multi_vector) is not None:
        total += multi.vectors.shape[0] * multi.vectors.shape[1] * multi.vectors[0:0].dtype.itemsize
    return total


def _timed(searches: Iterable[T]) -> tuple[list[T], list[float]]:
    """What each search found, made as it is taken, and its milliseconds by the wall clock."""
    found, milliseconds, before = [], [], time.perf_counter()
    for each in searches:
        now = time.perf_counter()
        found.append(each)
        milliseconds.append(1000 * (now - before))
        before = now
    return found, milliseconds
