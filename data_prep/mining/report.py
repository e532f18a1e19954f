"""What mining tells: the audit page, the summary, and the ranks that a later round compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bgetune.config import JobConfig
from bgetune.config_data import Signal, TeacherConfig
from bgetune.corpus import Corpus
from bgetune.data import Texts
from bgetune.examples import Example

from ..audit.facts import (
    AuditExample,
    AuditInput,
    AuditPassage,
    IndexFacts,
    Missed,
    TeacherScores,
    TooFew,
    choose_examples,
    missed_queries,
    suspects,
)
from .choose import Chosen, Windows
from .teacher import filters

_EXAMPLES, _LISTED = 20, 50


def audit_of(
    config: JobConfig,
    examples: Sequence[Example],
    chosen: Chosen,
    windows: Windows,
    queries: Texts,
    corpus: Corpus,
    index: IndexFacts | None,
    round_number: int,
    changed: int | None,
) -> AuditInput:
    """All that the audit page and the summary need."""
    settings = config.mine
    ranks: dict[str, np.ndarray] = {
        source: best_ranks(windows, source) for source in settings.sources if source != "random"
    }
    depth = max((rows.shape[1] for _, rows in windows.rankings.values()), default=0)
    negatives = [candidate for found in chosen.negatives for candidate in found]
    by_source = {source: [c for c in negatives if c.source == source] for source in settings.sources}
    teacher = _teacher_scores(settings.teacher, windows, chosen) if chosen.teacher else None
    missed = missed_queries(ranks, depth)[:_LISTED]
    few = [
        TooFew(queries.ids[i], queries.texts[i], len(found))
        for i, found in enumerate(chosen.negatives)
        if len(found) < settings.negatives_per_query
    ]
    return AuditInput(
        name=config.data.name,
        settings=asdict(settings),
        corpus_size=len(corpus),
        n_queries=len(queries),
        negatives_wanted=settings.negatives_per_query,
        searched_depth=depth,
        positive_scores={
            source: _known(scores) for source, scores in windows.positive_scores.items() if source != "random"
        },
        negative_scores={
            source: np.array([c.score for c in found], dtype=np.float32) for source, found in by_source.items()
        },
        negative_ranks={
            source: np.array([c.rank for c in found], dtype=np.int64) for source, found in by_source.items()
        },
        best_positive_rank=ranks,
        dropped={source: dict(sorted(counts.items())) for source, counts in chosen.dropped.items()},
        teacher=teacher,
        false_negatives=suspects(teacher) if teacher else None,
        examples=[
            _example(examples[i], settings.teacher.kind != "none")
            for i in choose_examples(len(examples), _EXAMPLES, settings.seed)
        ],
        too_few=few,
        missed=[_missed(int(i), windows, queries, corpus) for i in missed],
        index=index,
        round_number=round_number,
        queries_changed=changed,
    )


def best_ranks(windows: Windows, source: Signal) -> np.ndarray:
    """Rank, from 1, of each query's best-ranked positive, int64 [Q]; 0 where the window holds none.

    >>> rows = np.array([[5, 9, 2], [4, 1, 0]])
    >>> best_ranks(Windows({"dense": (rows * 0.0, rows)}, np.array([[2, 9], [7, -1]]), {}), "dense").tolist()
    [2, 0]
    """
    _, rows = windows.rankings[source]
    hit = (rows[:, :, None] == windows.positives[:, None, :]).any(axis=2) & (rows >= 0)
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def write_ranks(path: Path, windows: Windows, rank_last: int) -> None:
    """The rows of each source's window, for the next round; half the size where they are few enough."""
    rankings = windows.rankings.items()
    few = all(rows.max(initial=0) < 2**31 for _, (_, rows) in rankings)
    kept = {source: rows[:, :rank_last].astype(np.int32 if few else np.int64) for source, (_, rows) in rankings}
    with open(path, "wb") as file:
        np.savez(file, **kept)  # type: ignore[arg-type]


def _known(scores: np.ndarray) -> np.ndarray:
    return scores[np.isfinite(scores)].astype(np.float32)


def _teacher_scores(settings: TeacherConfig, windows: Windows, chosen: Chosen) -> TeacherScores:
    positives, negatives = [], []
    for i, scores in enumerate(chosen.teacher):
        positives.append(np.array([scores[int(row)] for row in windows.positives[i] if row >= 0]))
        negatives.append(np.array([scores[candidate.row] for candidate in chosen.negatives[i]]))
    judge = {"cross_encoder": "the cross-encoder", "hybrid": "the model's own hybrid score"}
    return TeacherScores(judge[settings.kind], positives, negatives, filters(settings))


def _example(example: Example, taught: bool) -> AuditExample:
    positives = zip(example.pos_ids or (), example.pos, example.pos_scores or (), strict=True)
    found = example.neg_found_scores or example.neg_scores or ()
    negatives = zip(
        example.neg_ids or (), example.neg, found, example.neg_sources or (), example.neg_ranks or (),
        example.neg_scores or (), strict=True,
    )  # fmt: skip
    return AuditExample(
        example.query_id or "",
        example.query,
        [
            AuditPassage(i, text, None if taught else score, teacher=score if taught else None)
            for i, text, score in positives
        ],
        [
            AuditPassage(i, text, score, source, rank or None, teacher if taught else None)
            for i, text, score, source, rank, teacher in negatives
        ],
    )


def _missed(i: int, windows: Windows, queries: Texts, corpus: Corpus) -> Missed:
    row = int(windows.positives[i][0])
    return Missed(queries.ids[i], queries.texts[i], corpus.ids[row], corpus.text(row))
