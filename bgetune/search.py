"""Retrieval over one set: queries against indexes built from the very weights under test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bgetune.config import HEADS, EvalConfig, Head, JobConfig, TrainConfig
from bgetune.data import Texts
from bgetune.encode import encode_once
from bgetune.encoder import Encoder
from bgetune.files import atomic_file, read_json
from bgetune.fusion import reciprocal_rank
from bgetune.fusion_library import library_fusion
from bgetune.index.bm25 import BM25Index
from bgetune.metrics import Results
from bgetune.run import Run
from bgetune.searched import EncodedSet, Ranking, Searched

HYBRID, RRF = "hybrid", "hybrid_rrf"
"""Weighted sum of all heads' scores, and reciprocal rank fusion of their rankings."""
TUNED = "hybrid_tuned"
"""The weighted sum with weights that were best on the dev split (fusion_weights.py)."""
DENSE_SPARSE, MULTI_VECTOR_FULL = "dense+sparse", "multi_vector_full"
"""The weighted sum without the dearest head; and that head over every passage instead of the candidates."""


def retrievers_of(heads: Sequence[Head], settings: EvalConfig | None = None) -> list[str]:
    """What a model with these heads can be searched with, and with `settings` also what they ask for.

    >>> retrievers_of(("dense",)), retrievers_of(("dense", "sparse"))
    (['dense'], ['dense', 'sparse', 'hybrid', 'hybrid_rrf'])
    >>> retrievers_of(HEADS, EvalConfig(multi_vector="both", fusions=("isr",)))[3:]
    ['multi_vector_full', 'dense+sparse', 'hybrid', 'hybrid_tuned', 'hybrid_rrf', 'hybrid_isr']
    """
    if len(heads) == 1:
        return list(heads)
    if settings is None:
        return [*heads, HYBRID, RRF]
    full = [MULTI_VECTOR_FULL] if "multi_vector" in heads and settings.multi_vector == "both" else []
    two = [DENSE_SPARSE] if set(heads) == set(HEADS) else []  # of two heads, it is the hybrid
    tuned = [TUNED] if settings.tune_weights else []
    return [*heads, *full, *two, HYBRID, *tuned, RRF, *(f"hybrid_{name}" for name in settings.fusions)]


def deciding_retriever(run: Run, heads: Sequence[Head]) -> str:
    """What chose the checkpoint on dev: a head that did not train says nothing about training."""
    note = run.best / "best.json"
    if note.is_file():
        return read_json(note)["retriever"]
    return HYBRID if len(heads) > 1 else heads[0]


def ensemble_weights(train: TrainConfig) -> dict[str, float]:
    """Weight of each head's score in the hybrid."""
    return {head: getattr(train, head).ensemble_weight for head in HEADS}


def search(
    encoder: Encoder,
    queries: Texts,
    corpus: Texts,
    config: JobConfig,
    wanted: Sequence[str],
    cache: Path,
    label: str,
    index: str = "Flat",
    depth: int = 100,
) -> dict[str, Results]:
    """Encode corpus and queries, build the indexes, search: the `depth` best passages of each query.

    Args:
        wanted: names out of `retrievers_of(encoder.heads)`.
        index: FAISS factory string of the dense index.
        cache: keeps what is encoded, see `encode_once`.
        label: for the progress bars.

    Returns:
        A ranking for each wanted retriever.
    """
    encoded = encode_set(encoder, queries, corpus, config, _heads_for(wanted, encoder.heads), cache, label)
    found = rankings(encoded, config, wanted, label, index, depth)
    return {name: as_results(queries.ids, corpus.ids, *ranking) for name, ranking in found.items()}


def _heads_for(wanted: Sequence[str], heads: Sequence[Head]) -> tuple[Head, ...]:
    """Dense and sparse name the candidates of whatever re-ranks, so all but these two need every head.

    >>> _heads_for(["sparse"], HEADS), _heads_for(["hybrid"], HEADS)
    (('dense', 'sparse'), ('dense', 'sparse', 'multi_vector'))
    """
    named = {"dense", *wanted} if DENSE_SPARSE not in wanted else {"dense", "sparse", *wanted}
    cheap = named <= {"dense", "sparse", DENSE_SPARSE}
    return tuple(head for head in heads if not cheap or head in named)


def encode_set(
    encoder: Encoder,
    queries: Texts,
    corpus: Texts,
    config: JobConfig,
    heads: Sequence[Head],
    cache: Path,
    label: str,
) -> EncodedSet:
    """Encode corpus and queries by some of the encoder's heads, or read what `cache` has of them."""
    passages = encode_once(encoder, corpus, "passage", config, f"{label} passages", cache, heads)
    questions = encode_once(encoder, queries, "query", config, f"{label} queries", cache, heads)
    return EncodedSet(passages, questions, encoder.spec.similarity)


def rankings(
    encoded: EncodedSet,
    config: JobConfig,
    wanted: Sequence[str],
    label: str,
    index: str = "Flat",
    depth: int = 100,
    tuned_weights: Mapping[str, float] | None = None,
) -> dict[str, Ranking]:
    """Build the indexes and search: the `depth` best passages of each query.

    Args:
        wanted: names out of `retrievers_of`, for the heads of which `encoded` has something.
        index: FAISS factory string of the dense index.
        label: for the progress bars.
        tuned_weights: head -> weight, of `hybrid_tuned`.

    Returns:
        Retriever -> scores float32 [Q, K] and rows int64 [Q, K], best first; row -1: nothing found.

    Raises:
        UserError: the library of a fusion out of `config.eval.fusions` is missing.
    """
    searched = Searched(encoded, config, index, depth, label)
    weights = {HYBRID: ensemble_weights(config.train), TUNED: tuned_weights}
    found = {}
    for name in wanted:
        if name == MULTI_VECTOR_FULL or (name == "multi_vector" and config.eval.multi_vector == "full"):
            found[name] = searched.every_passage()
        elif name in HEADS:
            found[name] = searched.alone(name)
        elif name == DENSE_SPARSE:
            found[name] = searched.weighted(ensemble_weights(config.train), ("dense", "sparse"))
        elif name in weights:
            of_heads = weights[name]
            assert of_heads is not None, f"{name}: no weights were given"
            found[name] = searched.weighted(of_heads)
        else:
            fusion = reciprocal_rank if name == RRF else partial(library_fusion, name.removeprefix("hybrid_"))
            found[name] = searched.fused(fusion)
    return found


def search_bm25(queries: Texts, corpus: Texts, depth: int) -> Results:
    scores, rows = BM25Index.build(corpus.full_texts()).search(queries.texts, depth)
    return as_results(queries.ids, corpus.ids, scores, rows)


def as_results(query_ids: Sequence[str], passage_ids: Sequence[str], scores: np.ndarray, rows: np.ndarray) -> Results:
    """Scores and rows, both [Q, K], to ids; rows of -1 are left out."""
    return {
        query_id: {passage_ids[row]: float(score) for score, row in zip(found, at, strict=True) if row >= 0}
        for query_id, found, at in zip(query_ids, scores, rows, strict=True)
    }


def write_trec_run(path: Path, results: Results, tag: str) -> None:
    """Write `query Q0 passage rank score tag` lines, as trec_eval reads them; nine digits hold a float32 exactly."""
    with atomic_file(path) as file:
        for query_id, found in results.items():
            for rank, (passage_id, score) in enumerate(found.items(), start=1):
                file.write(f"{query_id} Q0 {passage_id} {rank} {score:.9g} {tag}\n")
