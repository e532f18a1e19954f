"""A later round against the one before it: whose negatives stay, and how many have changed."""

from __future__ import annotations

import logging
import shutil

import numpy as np

from bgetune.config import JobConfig
from bgetune.config_data import Signal
from bgetune.corpus import Corpus
from bgetune.data import Texts
from bgetune.examples import read_examples
from bgetune.files import atomic_folder, read_json, write_json
from bgetune.manifest import holds
from bgetune.run import Run
from bgetune.stages import stage_named

from .choose import Chosen, Windows
from .select import Candidate

log = logging.getLogger("bgetune")


def is_mined_already(config: JobConfig, run: Run) -> bool:
    """Whether the round before mined with the very model that this one would: the base, which no checkpoint beat.

    What it left must hold, with the same sources: one that had no head then may have it now.
    """
    before = run.round_before
    if before is None or not (_best_is_base(before) and _best_is_base(before.round_before)):
        return False
    with np.load(before.examples.parent / "ranks.npz") as ranks:
        same_sources = set(ranks.files) == set(config.mine.sources)
    return same_sources and holds(stage_named("mine"), config, before)


def _best_is_base(run: Run | None) -> bool:
    """Whether a round ended with the base model, without heads that were started for it; None: before the first."""
    if run is None:
        return True
    note = run.best / "best.json"
    return run.base_heads is None and note.is_file() and read_json(note)["step"] == 0


def keep_round_before(run: Run) -> None:
    """This round's files are the round before's; no query's negatives have changed."""
    before = run.round_before
    assert before is not None, "the first round has none before it"
    source = before.examples.parent
    with atomic_folder(run.examples.parent) as partial:
        for name in (run.examples.name, "audit.html", "ranks.npz"):
            shutil.copyfile(source / name, partial / name)
        write_json(partial / "stats.json", {**read_json(source / "stats.json"), "queries_changed": 0})
    log.info(
        "mine: round %d ended with the base model itself, so that round %d would find the same: its negatives stay",
        before.round,
        run.round,
    )


def settle_with_round_before(before: Run, windows: Windows, chosen: Chosen, queries: Texts, corpus: Corpus) -> int:
    """Where the model ranks a query's window as the one before did, its negatives stay; returns how many others have.

    `chosen` is changed in place. A query whose ranks are the same may have been given others only because the scores
    around its limit moved.
    """
    with np.load(before.examples.parent / "ranks.npz") as ranks:
        same = np.ones(len(queries), dtype=bool)
        for source, (_, rows) in windows.rankings.items():
            # a source that the model before could not serve is new to every query
            same &= _same_rows(ranks[source], rows) if source in ranks else False
    examples = {example.query_id: example for example in read_examples(before.examples)}
    changed = 0
    for i, query_id in enumerate(queries.ids):
        old = corpus.rows_of(examples[query_id].neg_ids or [])
        scored = not chosen.teacher or all(row in chosen.teacher[i] for row in old)
        if same[i] and scored:
            sources = examples[query_id].neg_sources or []
            chosen.negatives[i] = [_in_window(i, *found, windows) for found in zip(old, sources, strict=True)]
        changed += sorted(old) != sorted(candidate.row for candidate in chosen.negatives[i])
    return changed


def _same_rows(window: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which queries have the same passages at the same ranks of the window; deeper ranks are the audit's alone."""
    return (window == rows[:, : window.shape[1]]).all(axis=1)


def _in_window(i: int, row: int, source: str, windows: Windows) -> Candidate:
    """The passage as the source that found it sees it now; an unchanged window holds its negatives."""
    named: Signal = next(name for name in windows.rankings if name == source)
    scores, rows = windows.rankings[named]
    at = int(np.flatnonzero(rows[i] == row)[0])
    return Candidate(row, 0 if named == "random" else at + 1, float(scores[i][at]), named)
