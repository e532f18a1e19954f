"""Limits that a job sets itself: a guard may not lose more than so much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def broken_limits(report: Mapping[str, Any], most: float | None, systems: Sequence[str]) -> list[str]:
    """One sentence for every guard and system that loses more than `most` on it, in the metric that decides.

    >>> gains = {"dense": {"tuned": {"ndcg@10": {"abs": -0.034}}}}
    >>> guard = {"role": "guard", "decided_by": "dense", "gains": gains}
    >>> report = {"metric": "ndcg@10", "sets": {"boolq": guard}}
    >>> broken_limits(report, 0.01, ["tuned"])
    ['guard boolq: tuned loses 0.0340 of ndcg@10 on average, more than eval.max_guard_loss 0.01']
    >>> broken_limits(report, 0.05, ["tuned"]), broken_limits(report, None, ["tuned"])
    ([], [])
    """
    if most is None:
        return []
    metric = report["metric"]
    guards = {name: found for name, found in report["sets"].items() if found["role"] == "guard"}
    told = []
    for name, found in guards.items():
        for system in systems:
            loss = -found["gains"][found["decided_by"]][system][metric]["abs"]
            if loss > most:
                lost = f"{loss:.4f} of {metric} on average"
                told.append(f"guard {name}: {system} loses {lost}, more than eval.max_guard_loss {most:g}")
    return told
