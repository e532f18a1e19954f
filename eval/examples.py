"""The queries that changed most, with their texts: what a number cannot show."""

from __future__ import annotations

from typing import Any

import numpy as np

from bgetune.data import Qrels
from bgetune.metrics import Results

from .significance import TIE

_SHOWN = 300


def examples(
    qrels: Qrels,
    queries: dict[str, str],
    passages: dict[str, str],
    results: dict[str, Results],
    values: dict[str, np.ndarray],
    count: int,
) -> dict[str, list[dict[str, Any]]]:
    """The queries most won and most lost, equal differences in the order of the query's id.

    Args:
        qrels: Q queries.
        queries, passages: id -> text.
        results, values: "base" and "tuned" -> what was retrieved, and float [Q] of the metric that decides.
        count: at most this many of each; fewer where fewer changed.

    Returns:
        "won" and "lost" -> rows, the largest change first.
    """
    ids = list(qrels)
    change = values["tuned"] - values["base"]
    order = sorted(range(len(ids)), key=lambda i: (-abs(change[i]), ids[i]))
    sides = {"won": [i for i in order if change[i] >= TIE], "lost": [i for i in order if change[i] <= -TIE]}
    return {
        side: [
            _row(ids[i], qrels[ids[i]], queries, passages, results, {v: float(values[v][i]) for v in values})
            for i in rows[:count]
        ]
        for side, rows in sides.items()
    }


def _row(
    query_id: str,
    judged: dict[str, int],
    queries: dict[str, str],
    passages: dict[str, str],
    results: dict[str, Results],
    scores: dict[str, float],
) -> dict[str, Any]:
    positive = max(judged, key=lambda passage_id: judged[passage_id])  # the first of the most relevant
    row: dict[str, Any] = {
        "query_id": query_id,
        "query": shorten(queries[query_id]),
        "positive_id": positive,
        "positive": shorten(passages[positive]),
        "n_positives": sum(relevance > 0 for relevance in judged.values()),
        "value": scores,
        "rank": {},
        "top": {},
    }
    for version, found in results.items():
        ranked = ranking(found.get(query_id, {}))
        ranks = [rank for rank, passage_id in enumerate(ranked, start=1) if judged.get(passage_id, 0) > 0]
        row["rank"][version] = ranks[0] if ranks else None
        row["top"][version] = {"id": ranked[0], "text": shorten(passages[ranked[0]])} if ranked else None
    return row


def ranking(found: dict[str, float]) -> list[str]:
    """Passage ids, best first, equal scores as trec_eval ranks them: the later id first.

    >>> ranking({"a": 1.0, "b": 1.0, "c": 2.0})
    ['c', 'b', 'a']
    """
    return sorted(sorted(found, reverse=True), key=lambda passage_id: -np.float32(found[passage_id]))


def shorten(text: str, limit: int = _SHOWN) -> str:
    """On one line, at most `limit` characters.

    >>> shorten("one  two\\n three", 8)
    'one two…'
    """
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"
