"""Which passages are asked about, and how their queries join the set."""

from __future__ import annotations

from collections.abc import Sequence

from bgetune.config_data import SynthesizeConfig
from bgetune.data import RetrievalSet, Texts, normalised

from ..split import stable_hash


def chosen_rows(data: RetrievalSet, settings: SynthesizeConfig) -> list[int]:
    """Rows of the passages that answer no query of any split, ascending; the first `max_passages` by hash of the id."""
    answering = {
        passage_id
        for qrels in data.qrels.values()
        for judged in qrels.values()
        for passage_id, relevance in judged.items()
        if relevance > 0
    }
    rows = [row for row, passage_id in enumerate(data.corpus.ids) if passage_id not in answering]
    if settings.max_passages is not None:
        by_hash = sorted(rows, key=lambda row: stable_hash(settings.seed, data.corpus.ids[row]))
        rows = sorted(by_hash[: settings.max_passages])
    return rows


def with_synthetic(data: RetrievalSet, generated: list[list[str]], of_rows: Sequence[int]) -> RetrievalSet:
    """The set with synthetic queries as train queries, named `syn:<passage id>:<number from 1>`.

    A query that several passages have is one query with several positives, under the name that it had first. One that
    the set's train split has, or that no split has, gives that query a positive. One that only dev or test has is left
    out: training must not see it, and no machine's judgement gets into what is measured with.

    Args:
        data: the set; it is not changed.
        generated: queries of each passage.
        of_rows: corpus rows of these passages, as many.
    """
    assert len(generated) == len(of_rows)
    train = {query_id: dict(judged) for query_id, judged in data.qrels.get("train", {}).items()}
    taker_of, taken = _takers(data), set(data.queries.ids)
    ids: list[str] = []
    texts: list[str] = []
    for row, queries in zip(of_rows, generated, strict=True):
        passage_id = data.corpus.ids[row]
        for number, text in enumerate(queries, start=1):
            key = normalised(text)
            if key not in taker_of:
                taker_of[key] = _free_id(passage_id, number, taken)
                taken.add(taker_of[key])
                ids.append(taker_of[key])
                texts.append(text)
            if taker_of[key]:
                train.setdefault(taker_of[key], {}).setdefault(passage_id, 1)
    return RetrievalSet(
        data.corpus, _joined(data.queries, ids, texts), {**data.qrels, "train": train} if train else data.qrels
    )


def _takers(data: RetrievalSet) -> dict[str, str]:
    """Normalised text of each query -> the id that takes further positives; "" where only dev or test has the query."""
    train = data.qrels.get("train", {})
    measured = {query_id for split, qrels in data.qrels.items() if split != "train" for query_id in qrels} - set(train)
    takers: dict[str, str] = {}
    for belongs in (train.__contains__, measured.__contains__, lambda _: True):  # the first group that has a text
        for query_id, text in zip(data.queries.ids, data.queries.texts, strict=True):
            if belongs(query_id):
                takers.setdefault(normalised(text), "" if query_id in measured else query_id)
    return takers


def _free_id(passage_id: str, number: int, taken: set[str]) -> str:
    """Numbers go on where a set has synthetic queries already."""
    while (query_id := f"syn:{passage_id}:{number}") in taken:
        number += 1
    return query_id


def _joined(queries: Texts, ids: list[str], texts: list[str]) -> Texts:
    """The queries with new ones after them; the file's lines are given up, for the new ones have none."""
    metadata = [*(queries.metadata or [{}] * len(queries)), *({"builder": "synthetic"} for _ in ids)]
    titles = [*queries.titles, *([""] * len(ids))] if queries.titles else []
    return Texts([*queries.ids, *ids], [*queries.texts, *texts], titles, queries.source, [], metadata)
