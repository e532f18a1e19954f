"""Rows of query, positives and negatives (FlagEmbedding's JSONL, `datasets`) to a retrieval set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bgetune.data import RetrievalSet, Texts
from bgetune.errors import UserError
from bgetune.examples import Example


@dataclass(frozen=True)
class Row:
    """One row: `where` is its file:line for messages; `titles` belong to the positives, by position."""

    where: str
    example: Example
    titles: Sequence[str] = ()


def text_id(text: str, letter: str) -> str:
    """An id made from the text itself, so that it is the same wherever the text is read.

    >>> text_id("", "d")
    'de3b0c44298fc1c14'
    """
    return letter + hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class _Names:
    """Gives each text one id: the first that a row gives it, else one made from the text."""

    letter: str
    id_of: dict[tuple[str, str], str] = field(default_factory=dict)
    owner: dict[str, tuple[tuple[str, str], str]] = field(default_factory=dict)

    def name(self, text: str, title: str, given: str | None, where: str) -> str:
        key = (title, text)
        if key in self.id_of:
            return self.id_of[key]
        chosen = text_id(f"{title}\n{text}" if title else text, self.letter) if given is None else given
        if not chosen or any(c.isspace() for c in chosen):
            raise UserError(f"{where}: the id {chosen!r} is empty or has white space, which TREC run files cannot hold")
        if chosen in self.owner:
            raise UserError(
                f'{where}: the id "{chosen}" has another text at {self.owner[chosen][1]}; give each its own'
            )
        self.id_of[key] = chosen
        self.owner[chosen] = (key, where)
        return chosen

    def texts(self, source: Path, with_titles: bool) -> Texts:
        keys = list(self.id_of)
        titles = [title for title, _ in keys] if with_titles else []
        return Texts(list(self.id_of.values()), [text for _, text in keys], titles, source)


@dataclass
class _Merged:
    """All that the rows say of one query: passage id -> score, in the order of the rows."""

    first: Example
    pos: dict[str, float | None] = field(default_factory=dict)
    neg: dict[str, float | None] = field(default_factory=dict)


def assemble(rows: Iterable[Row], source: Path) -> tuple[RetrievalSet, list[Example] | None]:
    """Rows to a set with a train split only, and the examples again, one a query, with ids.

    Equal queries are merged, equal passages are one; a passage that is both positive and negative of a query is
    positive. The examples are None when no row has a negative.

    Raises:
        UserError: an id that two texts share, or that is no id; no row at all.
    """
    passages, queries = _Names("d"), _Names("q")
    merged: dict[str, _Merged] = {}
    for row in rows:
        example = row.example
        query_id = queries.name(example.query, "", example.query_id, row.where)
        entry = merged.setdefault(query_id, _Merged(example))
        for side, texts, ids, scores, into in (
            ("pos", example.pos, example.pos_ids, example.pos_scores, entry.pos),
            ("neg", example.neg, example.neg_ids, example.neg_scores, entry.neg),
        ):
            for i, text in enumerate(texts):
                title = row.titles[i] if side == "pos" and row.titles else ""
                passage_id = passages.name(text, title, ids[i] if ids else None, row.where)
                into.setdefault(passage_id, scores[i] if scores else None)
    if not merged:
        raise UserError(f"{source}: no row in it")
    corpus = passages.texts(source, with_titles=any(title for title, _ in passages.id_of))
    qrels = {query_id: dict.fromkeys(entry.pos, 1) for query_id, entry in merged.items()}
    data = RetrievalSet(corpus, queries.texts(source, with_titles=False), {"train": qrels})
    if not any(entry.neg for entry in merged.values()):
        return data, None
    full = dict(zip(corpus.ids, corpus.full_texts(), strict=True))
    return data, [_example(query_id, entry, full) for query_id, entry in merged.items()]


def _example(query_id: str, entry: _Merged, full: dict[str, str]) -> Example:
    neg = {passage_id: score for passage_id, score in entry.neg.items() if passage_id not in entry.pos}
    return Example(
        query=entry.first.query,
        pos=[full[passage_id] for passage_id in entry.pos],
        neg=[full[passage_id] for passage_id in neg],
        query_id=query_id,
        pos_ids=list(entry.pos),
        neg_ids=list(neg),
        pos_scores=_scores(entry.pos),
        neg_scores=_scores(neg),
        prompt=entry.first.prompt,
        source=entry.first.source,
    )


def _scores(by_passage: dict[str, float | None]) -> list[float] | None:
    """All scores, or None where one is missing."""
    known = [score for score in by_passage.values() if score is not None]
    return known if known and len(known) == len(by_passage) else None
