"""What a made-up report has beside its sets: rounds, training, merging, indexes, cheaper vectors, probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Draw = Callable[[], float]
"""A number from 0 to 1."""


def rounds() -> Iterator[dict[str, Any]]:
    for number in (1, 2):
        yield {
            "round": number,
            "negatives": 6000 + number,
            "queries_changed": None if number == 1 else 180,
            "dev_ndcg@10": 0.5 + 0.02 * number,
            "test_ndcg@10": 0.52 + 0.02 * number,
        }


def training(heads: Sequence[str], text: str, draw: Draw) -> dict[str, Any]:
    steps = list(range(0, 400, 10))
    sizes = {"loss": 1.0, **{f"loss/{head}": 0.3 + 0.2 * draw() for head in heads}, "distillation/dense": 0.2}
    return {
        "steps": steps,
        "losses": {
            name + text: [size * (0.2 + 0.8 * 0.99**step + 0.05 * draw()) for step in steps]
            for name, size in sizes.items()
        },
        "dev": [
            {
                "step": step,
                **{metric: start + 0.0003 * step + 0.02 * draw() for metric, start in _DEV.items()},
            }
            for step in range(0, 400, 100)
        ],
    }


_DEV = {"ndcg@10": 0.5, "recall@100": 0.8}


def merging(guards: Sequence[str], draw: Draw) -> dict[str, Any]:
    points = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        gains = {name: -0.03 * share**2 - 0.002 * draw() for name in guards}
        points.append(
            {
                "share": share,
                "dev": 0.5 + 0.06 * share - 0.02 * share**2,
                "guards": {name: {"value": 0.6 + gain, "gain": gain} for name, gain in gains.items()},
                "within": all(gain >= -0.01 for gain in gains.values()),
                "chosen": share == 0.5,
            }
        )
    return {"allowed_loss": 0.01, "dev_metric": "ndcg@10", "points": points}


def indexes(sets: Sequence[str], systems: Sequence[str], draw: Draw) -> Iterator[dict[str, Any]]:
    for name in sets:
        for system in systems:
            exact = 0.6 + 0.1 * draw()
            for index in ("HNSW32", "IVF64,PQ48", "qdrant"):
                loss = 0.02 * draw() - 0.001
                yield {
                    "set": name,
                    "system": system,
                    "index": index,
                    "exact": exact,
                    "found": exact - loss,
                    "loss": loss,
                    "recall": 0.9 + 0.1 * draw(),
                    "bytes": int(4e6 + 3e7 * draw()),
                    "build_s": 0.5 + draw(),
                    "p50_ms": 0.2 + draw(),
                    "p95_ms": 1.2 + draw(),
                    "n_queries": 500,
                }


_CHEAPER = (
    ("dense", "float32", "384", 1536, 1.0),
    ("dense", "dimensions", "192", 768, 0.97),
    ("dense", "dimensions", "96", 384, 0.9),
    ("dense", "int8", "384", 384, 0.99),
    ("dense", "binary", "384", 48, 0.93),
    ("sparse", "all weights", "", 900, 1.0),
    ("sparse", "largest weights", "64", 384, 0.98),
    ("sparse", "largest weights", "16", 96, 0.86),
    ("multi_vector", "all tokens", "", 60_000, 1.0),
    ("multi_vector", "pooled", "4", 15_000, 0.96),
)
"""Head, kind, setting, bytes a passage, share kept."""


def compression(name: str, systems: Sequence[str], heads: Sequence[str], draw: Draw) -> Iterator[dict[str, Any]]:
    for system in systems:
        for head, kind, setting, size, share in _CHEAPER:
            if head in heads:
                kept = 1.0 if share == 1 else share + 0.01 * draw()
                yield {
                    "set": name,
                    "system": system,
                    "head": head,
                    "kind": kind,
                    "setting": setting,
                    "bytes": float(size),
                    "value": 0.62 * kept,
                    "share_kept": kept,
                    "ms": 0.1 + draw(),
                }


def probe(name: str, kind: str, metric: str, values: dict[str, float], gains: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "metric": metric,
        "n": 1379,
        "values": values,
        "gain": gains,
        "verdict": {system: verdict_of(gain["ci95"]) for system, gain in gains.items()},
    }


def verdict_of(ci95: Sequence[float]) -> str:
    if ci95[0] <= 0 <= ci95[1]:
        return "no difference shown"
    return "better" if ci95[0] > 0 else "worse"
