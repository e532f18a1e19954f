"""Leakage: train queries that are known from what the tuned model is measured on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from bgetune.data import RetrievalSet, Texts, normalised, read_retrieval_set
from bgetune.errors import UserError

from ..neardup import near_duplicates, words_of

log = logging.getLogger("bgetune")

_NEAR = 0.8
_SHOWN = 60
"""Characters of a text in a message."""


@dataclass(frozen=True)
class Leak:
    """A train query that is known from a split of its own set, or from the test split of another one."""

    query_id: str
    text: str
    split_or_set: str
    other_id: str
    other_text: str
    why: str


@dataclass(frozen=True)
class _Judged:
    """Queries of one split and the texts of each one's relevant passages."""

    queries: Texts
    positives: list[list[str]]


def leaks(domain: RetrievalSet, others: Mapping[str, RetrievalSet]) -> list[Leak]:
    """Train queries of `domain` that are known from its dev or test, or from the test split of another set.

    Known is a query with the same text, or a near-duplicate one (token Jaccard >= 0.8) that has an equal or
    near-duplicate positive passage as well: "What are the treatments for X?" is near for every X, and is another
    question as long as another passage answers it.

    Args:
        others: name -> a set with a test split, such as guards and public benchmarks.

    Returns:
        For each split or set, in the order dev, test, others, at most one leak a train query, in the queries' order.
    """
    train = _judged(domain, "train")
    found: list[Leak] = []
    own = [split for split in ("dev", "test") if split in domain.qrels]
    measured: list[tuple[str, RetrievalSet, str]] = [(split, domain, split) for split in own]
    measured += [(name, data, "test") for name, data in others.items()]
    for name, data, split in measured:
        found += _leaks_from(train, _judged(data, split), name)
    return found


def _judged(data: RetrievalSet, split: str) -> _Judged:
    queries = data.queries_of(split)
    row = {passage_id: i for i, passage_id in enumerate(data.corpus.ids)}
    texts = data.corpus.full_texts()
    judged = [data.qrels[split][query_id] for query_id in queries.ids]
    return _Judged(queries, [[texts[row[i]] for i, relevance in of.items() if relevance > 0] for of in judged])


def _leaks_from(train: _Judged, other: _Judged, name: str) -> Iterator[Leak]:
    same: dict[str, int] = {}
    for j, text in enumerate(other.queries.texts):
        same.setdefault(normalised(text), j)
    known: dict[int, tuple[int, str]] = {}
    for i, text in enumerate(train.queries.texts):
        if (key := normalised(text)) in same:
            known[i] = same[key], "same text"
    for i, j, why in _near_with_answers(train, other, skip=set(known)):
        known.setdefault(i, (j, why))
    for i in sorted(known):
        j, why = known[i]
        yield Leak(
            train.queries.ids[i], train.queries.texts[i], name, other.queries.ids[j], other.queries.texts[j], why
        )


def _near_with_answers(train: _Judged, other: _Judged, skip: set[int]) -> Iterator[tuple[int, int, str]]:
    """(train row, other row, why) for near-duplicate queries that have an answer in common."""
    rows = [i for i in range(len(train.queries)) if i not in skip]
    mine, theirs = _by_words(train.queries, rows), _by_words(other.queries, range(len(other.queries)))
    mine_texts = [train.queries.texts[group[0]] for group in mine]
    their_texts = [other.queries.texts[group[0]] for group in theirs]
    words = lru_cache(maxsize=1 << 16)(words_of)
    for a, b in near_duplicates(mine_texts, their_texts, _NEAR):
        answers: dict[str, int] = {}
        for j in theirs[b]:
            for text in other.positives[j]:
                answers.setdefault(normalised(text), j)
        for i in mine[a]:
            keys = [normalised(text) for text in train.positives[i]]
            equal = [answers[key] for key in keys if key in answers]
            if equal:
                yield i, min(equal), "near-duplicate query with the same passage"
                continue
            near = (j for text, j in answers.items() for key in keys if _jaccard(words(key), words(text)) >= _NEAR)
            if (found := next(near, None)) is not None:
                yield i, found, "near-duplicate query with a near-duplicate passage"


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Share of common elements.

    >>> _jaccard(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def _by_words(queries: Texts, rows: Iterable[int]) -> list[list[int]]:
    """Rows with equal word sets together: thousands of equal queries would be millions of pairs."""
    groups: dict[frozenset[str], list[int]] = {}
    for i in rows:
        groups.setdefault(words_of(queries.texts[i]), []).append(i)
    return list(groups.values())


def settle(data: RetrievalSet, found: list[Leak], how: Literal["error", "drop", "warn"]) -> RetrievalSet:
    """Do about leaks what the option `data.leakage` says.

    Returns:
        The set: with drop, without the leaked queries in train; else as it was.

    Raises:
        UserError: there are leaks, and how is error; drop leaves no query in train.
    """
    if not found:
        return data
    leaked = {leak.query_id for leak in found}
    if how == "error":
        raise UserError(
            f"data.leakage: {_told(found)}; mend the data, or set data.leakage to drop (they leave train) or to warn"
        )
    if how == "warn":
        log.warning("prepare: %s; what is measured there is too good", _told(found))
        return data
    train = {query_id: judged for query_id, judged in data.qrels["train"].items() if query_id not in leaked}
    if not train:
        raise UserError(f"data.leakage: drop leaves no train query: {_told(found)}; name other sets or other splits")
    log.info("prepare: %s; left out of train", _told(found))
    qrels = {split: train if split == "train" else judged for split, judged in data.qrels.items()}
    elsewhere = {query_id for judged in qrels.values() for query_id in judged}
    gone = leaked - elsewhere
    stay = [i for i, query_id in enumerate(data.queries.ids) if query_id not in gone]
    return replace(data, queries=data.queries.take(stay), qrels=qrels)


def _told(found: list[Leak]) -> str:
    """How many, from where, and the first: `3 train queries are known from dev (1), test (2), e.g. ...`."""
    counts: dict[str, int] = {}
    for leak in found:
        counts[leak.split_or_set] = counts.get(leak.split_or_set, 0) + 1
    number = len({leak.query_id for leak in found})
    where = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    first = found[0]
    return (
        f"{number:,} train {'queries are' if number > 1 else 'query is'} known from {where}, "
        f'e.g. {first.query_id} "{_short(first.text)}" from {first.split_or_set}\'s '
        f'{first.other_id} "{_short(first.other_text)}" ({first.why})'
    )


def _short(text: str) -> str:
    """One line of at most 60 characters.

    >>> _short("a\\nb")
    'a b'
    """
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def read_public(public: Mapping[str, str]) -> dict[str, RetrievalSet]:
    """The sets of the option `data.public`, by name.

    Raises:
        UserError: a folder is missing or broken, or has no test split; with the option.
    """
    sets = {}
    for name, folder in public.items():
        path = Path(folder).expanduser()
        try:
            sets[name] = read_retrieval_set(path)
        except UserError as error:
            raise UserError(f"data.public.{name}: {error}") from None
        if "test" not in sets[name].qrels:
            raise UserError(f"data.public.{name}: {path} has no test split; it needs qrels/test.tsv")
    return sets
