"""A later round against the one before it: whose negatives stay, and how many have changed."""

from __future__ import annotations

import numpy as np

from bgetune.corpus import Corpus
from bgetune.data import Texts
from bgetune.examples import read_examples
from bgetune.run import Run

from .choose import Chosen, Windows
from .select import Candidate


def settle_with_round_before(before: Run, windows: Windows, chosen: Chosen, queries: Texts, corpus: Corpus) -> int:
    """Where the model ranks a query's window as the one before did, its negatives stay; returns how many others have.

    `chosen` is changed in place. A query whose ranks are the same may have been given others only because the scores
    around its limit moved.
    """
    with np.load(before.examples.parent / "ranks.npz") as ranks:
        same = np.ones(len(queries), dtype=bool)
        for source, (_, rows) in windows.rankings.items():
            same &= (ranks[source] == rows).all(axis=1)
    negatives = {example.query_id: example.neg_ids or [] for example in read_examples(before.examples)}
    changed = 0
    for i, query_id in enumerate(queries.ids):
        old = corpus.rows_of(negatives[query_id])
        scored = not chosen.teacher or all(row in chosen.teacher[i] for row in old)
        if same[i] and scored:
            chosen.negatives[i] = [_in_window(i, row, windows) for row in old]
        changed += sorted(old) != sorted(candidate.row for candidate in chosen.negatives[i])
    return changed


def _in_window(i: int, row: int, windows: Windows) -> Candidate:
    """The first source that has the passage, as `choose` takes it."""
    for source, (scores, rows) in windows.rankings.items():
        at = np.flatnonzero(rows[i] == row)
        if len(at):
            return Candidate(row, 0 if source == "random" else int(at[0]) + 1, float(scores[i][at[0]]), source)
    raise AssertionError("an unchanged window holds its negatives")
