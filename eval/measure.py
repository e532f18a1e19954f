"""Every system over every set: each encoded, searched and examined with the encoder in memory once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bgetune.config import HEADS
from bgetune.device import autocast_dtype
from bgetune.encoder import Encoder
from bgetune.fusion_weights import tune_weights
from bgetune.search import (
    HYBRID,
    TUNED,
    EncodedSet,
    as_results,
    encode_set,
    rankings,
    retrievers_of,
    search_bm25,
)

from .compression import compression
from .probes import Probe, ProbeValues, measure_probe
from .production import measure_indexes
from .sets import EvalSet
from .systems import System

ANY = "any"
"""In the place of a system: a retriever that needs no model."""


@dataclass
class Findings:
    """What was found besides the rankings, which are in each set's `found`."""

    systems: dict[str, dict[str, Any]] = field(default_factory=dict)
    hybrid_weights: dict[str, dict[str, float]] = field(default_factory=dict)
    compression: list[dict[str, Any]] = field(default_factory=list)
    indexes: list[dict[str, Any]] = field(default_factory=list)
    probes: dict[str, dict[str, ProbeValues]] = field(default_factory=dict)
    """Probe -> system -> values."""


def measure(
    systems: Sequence[System], sets: Sequence[EvalSet], dev: EvalSet | None, probes: Sequence[Probe]
) -> Findings:
    """Search every set with every system, and with BM25; fills in the sets' `found`.

    Args:
        dev: the domain's dev split, on which the hybrid's weights are tuned; None: they are not.
    """
    depth = systems[0].config.eval.depth
    for test in sets:
        test.found["bm25"] = {ANY: search_bm25(test.queries, test.corpus, depth)}
    measured = Findings()
    for system in systems:
        encoder, config = system.load(), system.config
        measured.systems[system.name] = _facts(system, encoder)
        if dev is not None and config.eval.tune_weights and len(encoder.heads) > 1:
            measured.hybrid_weights[system.name] = _tuned(system, encoder, dev)
        for test in sets:
            _search(system, encoder, test, measured)
        for probe in probes:
            values = measure_probe(probe, encoder, config)
            measured.probes.setdefault(probe.name, {})[system.name] = values
        del encoder
    return measured


def _facts(system: System, encoder: Encoder) -> dict[str, Any]:
    dtype = autocast_dtype(system.config.encode_precision, encoder.device) or torch.float32
    return {
        "model": system.model,
        "revision": system.config.model.revision,
        "weights": encoder.weights_hash(),
        "heads": list(encoder.heads),
        "reads": {
            "query_max_length": encoder.spec.query_max_length,
            "passage_max_length": encoder.spec.passage_max_length,
            "query_instruction": encoder.spec.query_instruction,
            "passage_instruction": encoder.spec.passage_instruction,
            "pooling": encoder.spec.pooling,
        },
        "parameters": sum(p.numel() for p in encoder.backbone.parameters()),
        "device": encoder.device.type,
        "precision": str(dtype).removeprefix("torch."),
    }


def _encoded(system: System, encoder: Encoder, test: EvalSet) -> EncodedSet:
    label = f"{system.name} {test.name}"
    return encode_set(encoder, test.queries, test.corpus, system.config, encoder.heads, system.cache, label)


def _tuned(system: System, encoder: Encoder, dev: EvalSet) -> dict[str, float]:
    encoded = _encoded(system, encoder, dev)
    label = f"{system.name} {dev.name}"
    weights = tune_weights(encoded, dev.queries.ids, dev.corpus.ids, dev.qrels, system.config, label)
    return {head: weights[head] for head in HEADS if head in weights}


def _search(system: System, encoder: Encoder, test: EvalSet, measured: Findings) -> None:
    config, settings = system.config, system.config.eval
    encoded = _encoded(system, encoder, test)
    weights = measured.hybrid_weights.get(system.name)
    wanted = [name for name in retrievers_of(encoder.heads, settings) if name != TUNED or weights is not None]
    label = f"{system.name} {test.name}"
    found = rankings(encoded, config, wanted, label, settings.index, settings.depth, weights)
    for name, (scores, rows) in found.items():
        results = as_results(test.queries.ids, test.corpus.ids, scores, rows)
        test.found.setdefault(name, {})[system.name] = results
    if test.role == "domain":
        if settings.compression:
            measured.compression += compression(encoded, test, config, system.name)
        exact = {name: test.found[name][system.name] for name in ("dense", HYBRID) if name in found}
        measured.indexes += measure_indexes(encoded, test, exact, config, system.name)
