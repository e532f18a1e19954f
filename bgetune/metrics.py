"""Retrieval metrics per query, computed by ir-measures with trec_eval's own code behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import AP, RR, P, R, Success, nDCG

from bgetune.data import Qrels
from bgetune.errors import UserError, did_you_mean
from bgetune.files import atomic_file

Results = dict[str, dict[str, float]]
"""query id -> passage id -> score."""

DECIDING = "ndcg@10"
"""What checkpoints, merges and verdicts are decided by, of the retriever that dev is measured with."""
METRICS = (DECIDING, "mrr@10", "recall@10", "recall@100", "map@100")
"""What is measured where nothing else is asked for."""

_KINDS = {"ndcg": nDCG, "mrr": RR, "recall": R, "precision": P, "map": AP, "success": Success}
_KEYS = ("set", "query_id", "retriever", "system")


@dataclass(frozen=True)
class Measure:
    """A metric over a query's first `cutoff` results."""

    kind: str
    cutoff: int

    @property
    def library(self) -> Any:
        """What trec_eval computes of it; MRR over all results, to be cut at the rank (see `per_query`)."""
        return RR if self.kind == "mrr" else _KINDS[self.kind] @ self.cutoff


def measure_of(name: str) -> Measure:
    """The metric of a name such as `ndcg@10`.

    Raises:
        UserError: none of ndcg, mrr, recall, precision, map, success with a cutoff of 1 or more.

    >>> measure_of("recall@100")
    Measure(kind='recall', cutoff=100)
    """
    match = re.fullmatch(r"([a-z]+)@([1-9][0-9]{0,5})", name)
    if match and match[1] in _KINDS:
        return Measure(match[1], int(match[2]))
    cutoff = re.search(r"@([1-9][0-9]{0,5})$", name)
    hint = did_you_mean(name.lower(), [f"{kind}@{cutoff[1] if cutoff else 10}" for kind in _KINDS])
    raise UserError(f"eval.metrics: {name!r} is no metric; use {', '.join(_KINDS)} with @k, such as ndcg@10{hint}")


def per_query(qrels: Qrels, results: Results, names: Sequence[str] = METRICS) -> dict[str, np.ndarray]:
    """Each metric for each query of `qrels`, in its order; 0 for a query without results.

    nDCG has trec_eval's linear gain, so it equals BEIR's and MTEB's; equal scores rank by passage id,
    the later one first, as in trec_eval; a grade above 0 is relevant to the other metrics. Precision divides
    by k also where there are fewer results.

    Args:
        names: as `measure_of` reads them.

    Returns:
        Metric name -> float64 [Q], values from 0 to 1.

    Raises:
        UserError: a name is no metric's.

    >>> qrels = {"q": {"a": 2, "b": 1}}
    >>> values = per_query(qrels, {"q": {"b": 0.9, "c": 0.5, "a": 0.4}})
    >>> round(float(values["ndcg@10"][0]), 4), float(values["mrr@10"][0])  # (1 + 2/2) / (2 + 1/log2(3))
    (0.7602, 1.0)
    """
    measures = {name: measure_of(name) for name in names}
    position = {query_id: i for i, query_id in enumerate(qrels)}
    found = {measure.library: np.zeros(len(qrels)) for measure in measures.values()}
    run = {query_id: passages for query_id, passages in results.items() if passages}
    # by name: another provider, such as MS MARCO's script for `RR @ 10`, ranks ties the other way round
    for metric in ir_measures.pytrec_eval.iter_calc(list(found), qrels, run):
        found[metric.measure][position[metric.query_id]] = metric.value
    return {name: _cut(found[measure.library], measure) for name, measure in measures.items()}


def _cut(values: np.ndarray, measure: Measure) -> np.ndarray:
    """Reciprocal ranks below 1/k are of ranks behind k; the other metrics were cut before they were computed."""
    if measure.kind != "mrr":
        return values
    return np.where(values < 1 / measure.cutoff, 0.0, values)


def means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(per_query_values.mean()) for name, per_query_values in values.items()}


def per_query_table(
    path: Path,
    query_ids: Mapping[str, Sequence[str]],
    values: Mapping[tuple[str, str, str], Mapping[str, np.ndarray]],
) -> None:
    """Write every query's value of every metric as parquet: one row a set, query, retriever and system, sorted by them.

    Columns: set, query_id, retriever, system (strings), then one a metric (float64), in the order of the metrics.

    Args:
        query_ids: set -> ids of its Q queries.
        values: (set, retriever, system) -> what `per_query` gave, each [Q] in the order of `query_ids`; the same
            metrics everywhere.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    metrics = list(next(iter(values.values()), {}))
    schema = pa.schema([*((key, pa.string()) for key in _KEYS), *((metric, pa.float64()) for metric in metrics)])
    blocks = []
    for (name, retriever, system), measured in values.items():
        ids = query_ids[name]
        assert list(measured) == metrics
        assert all(len(column) == len(ids) for column in measured.values())
        named = [pa.repeat(pa.scalar(word, pa.string()), len(ids)) for word in (name, retriever, system)]
        columns = [named[0], pa.array(ids, pa.string()), *named[1:], *(pa.array(c) for c in measured.values())]
        blocks.append(pa.Table.from_arrays(columns, schema=schema))
    table = pa.concat_tables(blocks) if blocks else schema.empty_table()
    with atomic_file(path, "wb") as file:
        pq.write_table(table.sort_by([(key, "ascending") for key in _KEYS]).combine_chunks(), file, compression="zstd")
