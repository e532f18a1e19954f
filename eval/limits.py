"""Limits that a job sets itself: a guard may not lose more than so much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def broken_limits(report: Mapping[str, Any], most: float | None) -> list[str]:
    """One sentence for every guard that the last system loses more than `most` on, in the metric that decides.

    >>> gains = {"dense": {"tuned": {"ndcg@10": {"abs": -0.034}}}}
    >>> guard = {"role": "guard", "decided_by": "dense", "gains": gains}
    >>> report = {"metric": "ndcg@10", "systems": {"base": {}, "tuned": {}}, "sets": {"boolq": guard}}
    >>> broken_limits(report, 0.01)
    ['guard boolq: tuned loses 0.034 of ndcg@10, more than eval.max_guard_loss 0.01']
    >>> broken_limits(report, 0.05), broken_limits(report, None)
    ([], [])
    """
    if most is None:
        return []
    metric, last = report["metric"], list(report["systems"])[-1]
    told = []
    for name, found in report["sets"].items():
        loss = -found["gains"][found["decided_by"]][last][metric]["abs"] if found["role"] == "guard" else 0.0
        if loss > most:
            told.append(f"guard {name}: {last} loses {loss:.3f} of {metric}, more than eval.max_guard_loss {most:g}")
    return told
