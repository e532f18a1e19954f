"""The queries that changed most, with their texts: what a number cannot show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bgetune.metrics import Results

from .sets import EvalSet
from .significance import TIE

_SHOWN = 300
Examples = dict[str, dict[str, list[dict[str, Any]]]]
"""System -> "won" and "lost" -> rows."""


def examples(test: EvalSet, values: Mapping[str, np.ndarray], retriever: str, reference: str, count: int) -> Examples:
    """The queries that each system most won and most lost, equal differences in the order of the query's id.

    Args:
        test: with what the retriever found, for every system of `values`.
        values: system -> float64 [Q] of the metric that decides, in the order of the qrels.
        retriever: whose rankings are shown.
        reference: the system that the others are compared with.
        count: at most this many of each; fewer where fewer changed.

    Returns:
        Rows, the largest change first, for every system but the reference.
    """
    queries = dict(zip(test.queries.ids, test.queries.texts, strict=True))
    passages = dict(zip(test.corpus.ids, test.corpus.full_texts(), strict=True))
    ids = list(test.qrels)

    def rows(system: str, chosen: Sequence[int]) -> list[dict[str, Any]]:
        found = {name: test.found[retriever][name] for name in (reference, system)}
        return [
            _row(ids[i], test.qrels[ids[i]], queries, passages, found, {s: float(values[s][i]) for s in found})
            for i in chosen
        ]

    shown: Examples = {}
    for system in values:
        if system != reference:
            change = values[system] - values[reference]
            order = sorted(range(len(ids)), key=lambda i: (-abs(change[i]), ids[i]))
            shown[system] = {
                "won": rows(system, [i for i in order if change[i] >= TIE][:count]),
                "lost": rows(system, [i for i in order if change[i] <= -TIE][:count]),
            }
    return shown


def _row(
    query_id: str,
    judged: dict[str, int],
    queries: dict[str, str],
    passages: dict[str, str],
    results: dict[str, Results],
    value: dict[str, float],
) -> dict[str, Any]:
    rankings = {system: ranking(found.get(query_id, {})) for system, found in results.items()}
    positive = _shown_positive(judged, list(rankings.values()))
    row: dict[str, Any] = {
        "query_id": query_id,
        "query": shorten(queries[query_id]),
        "positive_id": positive,
        "positive": shorten(passages[positive]),
        "n_positives": sum(grade > 0 for grade in judged.values()),
        "value": value,
        "rank": {},
        "top": {},
    }
    for system, ranked in rankings.items():
        ranks = [rank for rank, passage_id in enumerate(ranked, start=1) if judged.get(passage_id, 0) > 0]
        row["rank"][system] = ranks[0] if ranks else None
        row["top"][system] = {"id": ranked[0], "text": shorten(passages[ranked[0]])} if ranked else None
    return row


def add_explanations(
    shown: Examples,
    system: str,
    test: EvalSet,
    explain: Callable[[list[tuple[str, str]]], list[dict[str, Any]]],
) -> None:
    """Put how `system` scores the positive and its own first passage into every row that shows it, as `explained`.

    Args:
        shown: what `examples` gave for `test`; rows gain a key.
        explain: (query, passage) texts, whole, to one explanation each; called once, or never where no row has the
            system, so that one model at a time is in memory.
    """
    queries = dict(zip(test.queries.ids, test.queries.texts, strict=True))
    passages = dict(zip(test.corpus.ids, test.corpus.full_texts(), strict=True))
    asked: list[tuple[dict[str, Any], str, tuple[str, str]]] = []
    for row in (row for sides in shown.values() for side in sides.values() for row in side):
        if system in row["value"]:
            row.setdefault("explained", {})[system] = {"positive": None, "top": None}
            top = row["top"][system]
            for which, passage_id in (("positive", row["positive_id"]), ("top", top and top["id"])):
                if passage_id is not None:
                    asked.append((row, which, (queries[row["query_id"]], passages[passage_id])))
    pairs = list(dict.fromkeys(pair for _, _, pair in asked))
    if not pairs:
        return
    explained = dict(zip(pairs, explain(pairs), strict=True))
    for row, which, pair in asked:
        row["explained"][system][which] = explained[pair]


def _shown_positive(judged: Mapping[str, int], rankings: Sequence[Sequence[str]]) -> str:
    """Of the most relevant passages the one that any ranking has highest, else the first.

    Where an answer has many translations, that is the one that a reader can compare with what was found.

    >>> _shown_positive({"a": 1, "b": 2, "c": 2}, [["a", "x", "c"], ["x", "y", "z"]])
    'c'
    """
    place: dict[str, int] = {}
    for ranked in rankings:
        for rank, passage_id in enumerate(ranked):
            place[passage_id] = min(rank, place.get(passage_id, rank))
    best = max(judged.values())
    behind = len(place) + 1
    return min((p for p, grade in judged.items() if grade == best), key=lambda p: place.get(p, behind))


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
