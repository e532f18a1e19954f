"""Retrieval metrics per query, computed by ir-measures (trec_eval's own code behind it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
from ir_measures import AP, RR, R, nDCG

from bgetune.data import Qrels

Results = dict[str, dict[str, float]]
"""query id -> passage id -> score."""

METRICS = {
    "ndcg@10": nDCG @ 10,
    # cut at rank 10 below: `RR @ 10` would go to MS MARCO's script, which ranks ties the other way round
    "mrr@10": RR,
    "recall@10": R @ 10,
    "recall@100": R @ 100,
    "map@100": AP @ 100,
}


def per_query(qrels: Qrels, results: Results, names: Sequence[str] = tuple(METRICS)) -> dict[str, np.ndarray]:
    """Each metric for each query of `qrels`, in its order; 0 for a query without results.

    nDCG has trec_eval's linear gain, so it equals BEIR's and MTEB's; equal scores rank by passage id,
    the later one first, as in trec_eval.

    Returns:
        Metric name -> float64 [Q], values from 0 to 1.

    >>> qrels = {"q": {"a": 2, "b": 1}}
    >>> values = per_query(qrels, {"q": {"b": 0.9, "c": 0.5, "a": 0.4}})
    >>> round(float(values["ndcg@10"][0]), 4), float(values["mrr@10"][0])  # (1 + 2/2) / (2 + 1/log2(3))
    (0.7602, 1.0)
    """
    measures = {METRICS[name]: name for name in names}
    position = {query_id: i for i, query_id in enumerate(qrels)}
    values = {name: np.zeros(len(qrels)) for name in names}
    run = {query_id: found for query_id, found in results.items() if found}
    for metric in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[metric.measure]][position[metric.query_id]] = metric.value
    if "mrr@10" in values:
        values["mrr@10"][values["mrr@10"] < 1 / 10] = 0.0
    return values


def means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(per_query_values.mean()) for name, per_query_values in values.items()}
