"""What was measured, as one JSON tree: the contract that page, model card and CI read. Its keys: docs/evaluation.md.

No dates and no host names: the same job gives the same bytes, but for the times of indexes and cheaper vectors.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from bgetune.config import EvalConfig, JobConfig
from bgetune.config_io import to_dict
from bgetune.files import sha256_json
from bgetune.metrics import DECIDING, means, per_query
from bgetune.progress import progress

from .examples import examples
from .figures import headline
from .measure import Findings
from .probes import Probe, compare_probes
from .sets import EvalSet
from .significance import Comparison, compare_all, holm, verdict
from .slices import matrix, slices

FORMAT = 2

_PACKAGES = (
    "bgetune",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "scikit-learn",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "bm25s",
    "ir-measures",
    "pytrec_eval-terrier",
)
_NOTES = (
    "nDCG has trec_eval's linear gain (the grade itself, not 2^grade - 1), as BEIR and MTEB have.",
    "MRR, Recall, Precision, MAP and success count every grade above 0 as relevant. A query without results scores 0.",
    "Equal scores rank as in trec_eval: by passage id, the later one first.",
    "p is that of a two-sided paired randomisation test (sign flips), p (Holm) the same corrected by Holm's method for "
    "the number of sets, p_t that of a paired t test; the interval is a 95 % percentile bootstrap over queries; "
    "effect_size is Cohen's d of the differences.",
    "A probe's verdict is its interval's alone, uncorrected.",
    "Slices have an interval each, uncorrected: of twenty, about one leaves out 0 by chance. In a matrix of languages "
    "the relevant passages of other languages are taken out of the ranking; wrong ones of any language stay.",
    "A verdict needs an interval without 0 and p (Holm) < 0.05; everything else is called `no difference shown`.",
)
_DIFFERENCES = 400


def _notes(config: JobConfig, sets: Sequence[EvalSet]) -> list[str]:
    return [
        f"Each query retrieves {config.eval.depth} passages from index {config.eval.index}.",
        *(
            f"{test.left_out} test queries of {test.name} chose a merge, and are left out for every system."
            for test in sets
            if test.left_out
        ),
    ]


Values = dict[str, dict[str, dict[str, np.ndarray]]]
"""Retriever -> system -> metric -> float64 [Q]."""


def build_report(
    config: JobConfig,
    title: str,
    sets: Sequence[EvalSet],
    values: Sequence[Values],
    measured: Findings,
    deciding: str,
    probes: Sequence[Probe] = (),
) -> dict[str, Any]:
    """Metrics, comparisons, slices and examples of every set.

    Args:
        title: stands at the top.
        sets, values: with their results filled in, and what `values_of` each gave.
        deciding: the retriever that verdicts, headline and examples are about.

    Returns:
        Plain dicts, lists, strings and finite numbers.
    """
    job = to_dict(config)
    del job["output"]  # where a job is kept does not change what it measures
    report: dict[str, Any] = {
        "format": FORMAT,
        "title": title,
        "reference": next(iter(measured.systems)),
        "systems": measured.systems,
        "metric": DECIDING,
        "metrics": metrics_of(config.eval),
        "sets": _sets(sets, values, config.eval, list(measured.systems), deciding),
        "hybrid_weights": measured.hybrid_weights,
        "indexes": measured.indexes,
        "compression": measured.compression,
        "probes": [_probe(probe, measured, config.eval) for probe in probes],
        "settings": job["eval"],
        "config_hash": sha256_json(job),
        "versions": versions(),
        "notes": [*_NOTES, *_notes(config, sets)],
    }
    return {"headline": headline(report), **report}


def metrics_of(settings: EvalConfig) -> list[str]:
    """Those of the tables; the one that decides is always there."""
    return list(dict.fromkeys((DECIDING, *settings.metrics)))


def _sets(
    sets: Sequence[EvalSet], values: Sequence[Values], settings: EvalConfig, systems: list[str], deciding: str
) -> dict[str, Any]:
    """Every set's part, with Holm's correction over the sets."""
    reference, others = systems[0], systems[1:]
    gains = [_gains(found, reference, others, settings) for found in values]
    for retriever in gains[0]:
        for system, of_metric in gains[0][retriever].items():
            for metric in of_metric:
                rows = [gain[retriever][system][metric] for gain in gains]
                for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
                    row["p_holm"] = p
    return {
        test.name: _measured_set(test, found, gain, settings, reference, others, deciding)
        for test, found, gain in zip(sets, values, gains, strict=True)
    }


def values_of(test: EvalSet, settings: EvalConfig) -> Values:
    """What every ranking of the set is worth, for each query, in every metric."""
    values: Values = {retriever: {} for retriever in test.found}
    with progress(sum(map(len, test.found.values())), f"{test.name} metrics", "ranking") as bar:
        for retriever, found in test.found.items():
            for system, results in found.items():
                values[retriever][system] = per_query(test.qrels, results, metrics_of(settings))
                bar.update()
    return values


def _gains(values: Values, reference: str, others: list[str], settings: EvalConfig) -> dict[str, Any]:
    """Retriever -> system -> metric -> comparison, where both the reference and the system have the retriever."""
    gains: dict[str, Any] = {retriever: {} for retriever, found in values.items() if reference in found}
    places = [
        (retriever, name, metric)
        for retriever in gains
        for name in others
        if name in values[retriever]
        for metric in values[retriever][reference]
    ]
    if not places:
        return gains
    base = np.stack([values[retriever][reference][metric] for retriever, _, metric in places], axis=1)
    other = np.stack([values[retriever][name][metric] for retriever, name, metric in places], axis=1)
    found = compare_all(base, other, settings.bootstrap_samples, settings.permutations, settings.seed)
    for (retriever, name, metric), comparison in zip(places, found, strict=True):
        gains[retriever].setdefault(name, {})[metric] = comparison.to_row()
    return gains


def _measured_set(
    test: EvalSet,
    values: Values,
    gains: dict[str, Any],
    settings: EvalConfig,
    reference: str,
    others: list[str],
    deciding: str,
) -> dict[str, Any]:
    decided = {system: found[DECIDING] for system, found in values[deciding].items()}
    part = {
        "role": test.role,
        "n_queries": len(test.queries),
        "n_docs": len(test.corpus),
        "left_out": test.left_out,
        "data_hash": test.data_hash,
        "decided_by": deciding,
        "verdicts": {name: verdict(Comparison.from_row(gains[deciding][name][DECIDING])) for name in others},
        "retrievers": {name: {s: means(found) for s, found in by_system.items()} for name, by_system in values.items()},
        "gains": gains,
        "differences": {name: _spread(decided[name] - decided[reference]) for name in others},
        "slices": [],
        "examples": examples(test, decided, deciding, reference, settings.examples),
    }
    if settings.slices:
        part["slices"] = slices(test, decided, reference, settings.bootstrap_samples, settings.seed)
        if (found := matrix(test, deciding, DECIDING)) is not None:
            part["matrix"] = found
    return part


def _spread(differences: np.ndarray) -> list[float]:
    """Sorted from most won to most lost; of more than 400, as many evenly picked, both ends among them."""
    ordered = np.sort(differences)[::-1]
    if len(ordered) > _DIFFERENCES:
        ordered = ordered[np.linspace(0, len(ordered) - 1, _DIFFERENCES).round().astype(int)]
    return [round(float(value), 6) for value in ordered]


def _probe(probe: Probe, measured: Findings, settings: EvalConfig) -> dict[str, Any]:
    return compare_probes(probe, measured.probes[probe.name], settings.bootstrap_samples, settings.seed)


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
