"""What was measured, as one JSON tree: the contract that the model card, CI and later reports read.

    sets.<set>.role, n_queries, n_docs, data_hash, verdict, examples.{won,lost}
    sets.<set>.retrievers.<retriever>.{base,tuned}.<metric>
    sets.<set>.retrievers.<retriever>.gain.<metric>.{abs,rel,ci95,p,p_t,effect_size,won,lost,tied}
    headline, model, settings, config_hash, versions, notes

A retriever without an encoder (bm25) has `base` only. No times and no host names: the same job gives the same bytes.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from bgetune.config import EvalConfig, JobConfig
from bgetune.config_io import to_dict
from bgetune.files import sha256_json
from bgetune.metrics import means, per_query

from .examples import examples
from .figures import headline
from .sets import EvalSet
from .significance import compare, verdict

METRIC = "ndcg@10"
"""What the verdict, the headline and the examples are about, of the retriever that chose the checkpoint on dev."""

_PACKAGES = (
    "bgetune",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "bm25s",
    "ir-measures",
    "pytrec_eval-terrier",
)
_NOTES = (
    "nDCG has trec_eval's linear gain (the grade itself, not 2^grade - 1), as BEIR and MTEB have.",
    "MRR, Recall and MAP count every grade above 0 as relevant. A query without results scores 0 on everything.",
    "Equal scores rank as in trec_eval: by passage id, the later one first.",
    "p is that of a two-sided paired randomisation test (sign flips), p_t that of a paired t test, uncorrected for "
    "the number of metrics and sets; ci95 is a percentile bootstrap over queries; effect_size is Cohen's d of the "
    "differences.",
    "A verdict needs an interval without 0 and p < 0.05; everything else is called `no difference shown`.",
)


def build_report(
    config: JobConfig, sets: list[EvalSet], model: Mapping[str, str | None], deciding: str
) -> dict[str, Any]:
    """Metrics, comparisons and examples of every set.

    Args:
        deciding: the retriever that verdict, headline and examples are about.
        sets: with their results filled in.
        model: base's name and revision, `base_weights` and `tuned_weights` (hashes), device and precision.

    Returns:
        Plain dicts, lists, strings and finite numbers.
    """
    job = to_dict(config)
    del job["output"]  # where a job is kept does not change what it measures
    report: dict[str, Any] = {
        "model": dict(model),
        "sets": {test.name: _measure(test, config.eval, deciding) for test in sets},
        "settings": job["eval"],
        "config_hash": sha256_json(job),
        "versions": versions(),
        "notes": [*_NOTES, f"Each query retrieves {config.eval.depth} passages from index {config.eval.index}."],
    }
    return {"headline": headline(report, METRIC), **report}


def _measure(test: EvalSet, settings: EvalConfig, retriever: str) -> dict[str, Any]:
    values = {
        name: {which: per_query(test.qrels, results) for which, results in found.items()}
        for name, found in test.found.items()
    }
    retrievers: dict[str, Any] = {}
    verdicts: dict[str, str] = {}
    for name, by_version in values.items():
        retrievers[name] = {which: means(metrics) for which, metrics in by_version.items()}
        if "tuned" in by_version:
            retrievers[name]["gain"], verdicts[name] = _gains(by_version["base"], by_version["tuned"], settings)
    passages = dict(zip(test.corpus.ids, test.corpus.full_texts(), strict=True))
    queries = dict(zip(test.queries.ids, test.queries.texts, strict=True))
    compared = {which: metrics[METRIC] for which, metrics in values[retriever].items()}
    return {
        "role": test.role,
        "n_queries": len(test.queries),
        "n_docs": len(test.corpus),
        "data_hash": test.data_hash,
        "verdict": verdicts[retriever],
        "decided_by": retriever,
        "retrievers": retrievers,
        "examples": examples(test.qrels, queries, passages, test.found[retriever], compared, settings.examples),
    }


def _gains(
    base: dict[str, np.ndarray], tuned: dict[str, np.ndarray], settings: EvalConfig
) -> tuple[dict[str, Any], str]:
    """A comparison for each metric, and the verdict on the one that decides."""
    gains = {
        metric: compare(base[metric], tuned[metric], settings.bootstrap_samples, settings.permutations, settings.seed)
        for metric in base
    }
    return {metric: gain.to_row() for metric, gain in gains.items()}, verdict(gains[METRIC])


def versions() -> dict[str, str]:
    """Python's and the installed packages' that can move a figure."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def to_json(report: Mapping[str, Any]) -> str:
    """Strict JSON in the order of the tree; NaN and infinity are our bug, not a value."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
