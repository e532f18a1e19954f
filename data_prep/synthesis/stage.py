"""Synthetic queries as a step of `prepare`: ask, and keep what the base model finds again."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from bgetune.config import JobConfig
from bgetune.data import RetrievalSet, Texts
from bgetune.errors import UserError
from bgetune.files import sha256_json
from bgetune.run import Run

from ..split import origins
from .generate import synthesize
from .merge import chosen_rows, with_synthetic
from .round_trip import keep_found

log = logging.getLogger("bgetune")


def add_synthetic(data: RetrievalSet, config: JobConfig, run: Run) -> RetrievalSet:
    """The set with queries for passages that have none; each finds its passage with the base model's dense search.

    Answers are kept in the job's `synthesized/`, so that none is paid for twice.

    Raises:
        UserError: see `synthesize`; no query was found again.
    """
    settings = config.synthesize
    split_by = config.data.domain.split_by
    measured = _measured(data, split_by)
    rows = [row for row in chosen_rows(data, settings) if measured.isdisjoint(_places(data.corpus, row, split_by))]
    generated = synthesize(data.corpus.take(rows), settings, run.root / "synthesized")
    if settings.round_trip_rank is not None:
        generated = _found_again(data.corpus, rows, generated, settings.round_trip_rank, config, run)
    count = sum(len(queries) for queries in generated)
    if rows and not count:
        raise UserError(
            f"synthesize.round_trip_rank: {settings.round_trip_rank}: no synthetic query finds its passage; raise it, "
            "mend the prompt, or set it to null"
        )
    log.info("prepare: %d synthetic queries for %d passages", count, len(rows))
    return with_synthetic(data, generated, rows)


def _measured(data: RetrievalSet, split_by: str) -> set[str]:
    """Documents or groups, as the set was cut by, that dev or test are about: train must not be."""
    if split_by == "query":
        return set()
    row_of = {passage_id: row for row, passage_id in enumerate(data.corpus.ids)}
    judged = [passages for split in ("dev", "test") for passages in data.qrels.get(split, {}).values()]
    rows = {row_of[passage_id] for passages in judged for passage_id in passages}
    return {place for row in rows for place in _places(data.corpus, row, split_by)}


def _places(corpus: Texts, row: int, split_by: str) -> list[str]:
    return origins(corpus.metadata[row], split_by) if corpus.metadata and split_by != "query" else []


def _found_again(
    corpus: Texts, rows: list[int], generated: list[list[str]], rank: int, config: JobConfig, run: Run
) -> list[list[str]]:
    """Promptagator's round trip (arXiv 2209.11755): keep a query that finds its own passage within `rank`."""
    from bgetune.encode import encode_shards  # imports torch
    from bgetune.encoder import Encoder
    from bgetune.index.dense import DenseIndex

    flat = [(row, query) for row, queries in zip(rows, generated, strict=True) for query in queries]
    if not flat:
        return generated
    encoder = Encoder.load(replace(config.model, heads=("dense",)))
    asked = Texts([sha256_json(query) for _, query in flat], [query for _, query in flat])
    passages = encode_shards(encoder, corpus, "passage", config, "synthesize: passages", run.vectors).read()
    questions = encode_shards(encoder, asked, "query", config, "synthesize: queries", run.vectors).read()
    index = DenseIndex.build(passages.vectors, encoder.spec.similarity)
    found = np.asarray(index.search(questions.vectors, rank)[1])
    keep = iter(keep_found(asked.texts, [row for row, _ in flat], found, rank))
    kept = [[query for query in queries if next(keep)] for queries in generated]
    before, after = len(flat), sum(map(len, kept))
    log.info("prepare: %d of %d synthetic queries find their passage within rank %d", after, before, rank)
    return kept
