"""The teacher that the configuration names, as one function from rows to scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgetune.config_data import TeacherConfig
from bgetune.corpus import Corpus
from bgetune.data import Texts
from bgetune.files import sha256_json
from bgetune.processes import rank, wait_for_all, world_size

from .choose import Score
from .score_store import PairSource, read_scores, score_blocks
from .signals import Signals
from .teacher import cross_encoder


def teacher_of(settings: TeacherConfig, signals: Signals, queries: Texts, corpus: Corpus, folder: Path) -> Score | None:
    """Scores float32 [Q, C] of rows int64 [Q, C]; None where there is no teacher.

    Args:
        folder: keeps the scores until the stage is done, so that a killed one goes on.

    Raises:
        UserError: see `cross_encoder`.
    """
    if settings.kind == "none":
        return None
    if settings.kind == "hybrid":
        return lambda rows: signals.scores_of("hybrid", rows, "candidates")
    scorer = cross_encoder(settings)
    key = sha256_json([scorer.key, signals.made_from])

    def scores(rows: np.ndarray) -> np.ndarray:
        asking, place = np.nonzero(rows >= 0)
        pairs = PairSource(asking, rows[asking, place], queries.texts.__getitem__, corpus.text)
        score_blocks(scorer, pairs, folder / "teacher", key, "mine: teacher", rank(), world_size())
        wait_for_all()
        found = np.full(rows.shape, -np.inf, dtype=np.float32)
        found[asking, place] = read_scores(pairs, folder / "teacher", key)
        return found

    return scores
