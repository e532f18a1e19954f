"""Cheaper vectors: quality against bytes a passage and time a query, from what is encoded already."""

from __future__ import annotations

from typing import Any

from bgetune.config import Head, JobConfig
from bgetune.metrics import DECIDING, per_query
from bgetune.search import as_results
from bgetune.searched import EncodedSet, Searched

from .cheaper.dense import dense
from .cheaper.measure import Measured
from .cheaper.multi_vector import multi_vector
from .cheaper.sparse import sparse
from .sets import EvalSet


def compression(encoded: EncodedSet, test: EvalSet, config: JobConfig, system: str) -> list[dict[str, Any]]:
    """The report's rows `compression` of one system on one set; each head's uncompressed vectors come first.

    Returns:
        Rows with set, system, head, kind, setting, bytes (mean of a passage), value (nDCG@10), share_kept (of the
        uncompressed value; 1 where that is 0, with nothing to lose) and ms (the median query on one thread, measured).
    """
    passages, questions = encoded.passages, encoded.questions

    def label(head: str) -> str:
        return f"{test.name}, {system}: cheaper {head} vectors"

    found: dict[Head, list[Measured]] = {
        "dense": dense(passages, questions, encoded.similarity, config, label("dense"))
    }
    if "sparse" in encoded.heads:
        found["sparse"] = sparse(passages, questions, config, label("sparse"))
    if "multi_vector" in encoded.heads:
        rows = Searched(encoded, config, "Flat", config.eval.depth, label("token")).rows
        found["multi_vector"] = multi_vector(passages, questions, rows, config, label("token"))
    return [row for head, measured in found.items() for row in _rows(measured, test, system, head)]


def _rows(measured: list[Measured], test: EvalSet, system: str, head: Head) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for each in measured:
        results = as_results(test.queries.ids, test.corpus.ids, *each.ranking)
        value = float(per_query(test.qrels, results, [DECIDING])[DECIDING].mean())
        whole = rows[0]["value"] if rows else value
        rows.append(
            {
                "set": test.name,
                "system": system,
                "head": head,
                "kind": each.kind,
                "setting": each.setting,
                "bytes": each.bytes,
                "value": value,
                "share_kept": value / whole if whole else 1.0,
                "ms": each.ms,
            }
        )
    return rows
