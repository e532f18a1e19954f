"""Leakage: queries of train or dev that are known from what the tuned model is measured on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bgetune.data import SPLITS, RetrievalSet, Texts, normalised, read_retrieval_set
from bgetune.errors import UserError

from .near import NearIndex, counted

log = logging.getLogger("bgetune")

_NEAR = 0.8
_SHOWN = 60
"""Characters of a text in a message."""


@dataclass(frozen=True)
class Leak:
    """A query of train or dev that is known from a later split of its set, or from the test split of another one."""

    query_id: str
    text: str
    of_split: str
    """Where it is: train or dev."""
    split_or_set: str
    """Where it is known from."""
    other_id: str
    other_text: str
    why: str


@dataclass(frozen=True)
class _Judged:
    """Queries of one split and the texts of each one's relevant passages."""

    queries: Texts
    positives: list[list[str]]


def leaks(domain: RetrievalSet, others: Mapping[str, RetrievalSet]) -> list[Leak]:
    """Queries of `domain` that train sees or dev chooses checkpoints by, and that what is measured on knows.

    Train is compared with dev, test and the test splits of the other sets; dev with test and those.

    Known is a query with the same text, or a near-duplicate one (token Jaccard >= 0.8) with the same numbers that has
    an equal or near-duplicate positive passage as well: "What are the treatments for X?" is near for every X, and is
    another question as long as another passage answers it; the revenue of 2018 is another question than that of 2019,
    even of one table. Numbers in passages may differ: a copy with another date or page number is still a copy.

    Args:
        others: name -> a set with a test split, such as guards and public benchmarks.

    Returns:
        Train's leaks, then dev's; for each split or set, in the order dev, test, others, at most one leak a query, in
        the queries' order.
    """
    own = {split: _judged(domain, split) for split in SPLITS if split in domain.qrels}
    measured = {name: _judged(data, "test") for name, data in others.items()}
    found: list[Leak] = []
    for split in ("train", "dev"):
        later = [name for name in SPLITS[SPLITS.index(split) + 1 :] if name in own]
        for name in (*later, *measured) if split in own else ():
            other = own[name] if name in later else measured[name]
            found += _leaks_from(own[split], other, split, name)
    return found


def _judged(data: RetrievalSet, split: str) -> _Judged:
    queries = data.queries_of(split)
    row = {passage_id: i for i, passage_id in enumerate(data.corpus.ids)}
    texts = data.corpus.full_texts()
    judged = [data.qrels[split][query_id] for query_id in queries.ids]
    return _Judged(queries, [[texts[row[i]] for i, relevance in of.items() if relevance > 0] for of in judged])


def _leaks_from(mine: _Judged, other: _Judged, of_split: str, name: str) -> Iterator[Leak]:
    same: dict[str, int] = {}
    for j, text in enumerate(other.queries.texts):
        same.setdefault(normalised(text), j)
    near = _Near(mine, other)
    for i in counted(len(mine.queries), f"leakage {of_split} {name}"):
        text = mine.queries.texts[i]
        equal = same.get(normalised(text))
        known = (equal, "same text") if equal is not None else near.of(i)
        if known is not None:
            j, why = known
            yield Leak(mine.queries.ids[i], text, of_split, name, other.queries.ids[j], other.queries.texts[j], why)


class _Near:
    """The queries of `other` that are near-duplicates of one of `mine` and have a near-duplicate answer as well."""

    def __init__(self, mine: _Judged, other: _Judged) -> None:
        self._mine = len(mine.queries)
        self._queries = NearIndex([*mine.queries.texts, *other.queries.texts], _NEAR)
        number: dict[str, int] = {}
        # for each query, mine and then other's, the numbers of its answers
        self._answers = [
            list(dict.fromkeys(number.setdefault(normalised(text), len(number)) for text in texts))
            for texts in (*mine.positives, *other.positives)
        ]
        self._passages = NearIndex(list(number), _NEAR, numbers_matter=False)
        self._answered_by: dict[int, list[int]] = {}
        for j in range(self._mine, len(self._answers)):
            self._queries.add(j)
            for answer in self._answers[j]:
                self._answered_by.setdefault(answer, []).append(j)
        for answer in sorted(self._answered_by):
            self._passages.add(answer)

    def of(self, i: int) -> tuple[int, str] | None:
        """(row in other, why) for row i of mine."""
        answers = self._answers[i]
        equal = (j for answer in answers for j in self._answered_by.get(answer, ()) if self._queries.is_near(i, j))
        if (j := next(equal, None)) is not None:
            return j - self._mine, "near-duplicate query with the same passage"
        like_query = list(self._queries.candidates(i))
        like_answer = [(answer, found) for answer in answers for found in self._passages.candidates(answer)]
        # either side may be a template that thousands share: look where there is less to look at
        if sum(map(len, like_query)) <= sum(len(found) for _, found in like_answer):
            j = self._by_query(i, like_query)
        else:
            j = self._by_answer(i, like_answer)
        return None if j is None else (j - self._mine, "near-duplicate query with a near-duplicate passage")

    def _by_query(self, i: int, candidates: Sequence[Sequence[int]]) -> int | None:
        failed: set[int] = set()
        for j in (j for found in candidates for j in found):
            if j in failed:
                continue
            pairs = ((a, b) for a in self._answers[i] for b in self._answers[j])
            if self._queries.is_near(i, j) and any(self._passages.is_near(a, b) for a, b in pairs):
                return j
            failed.add(j)
        return None

    def _by_answer(self, i: int, candidates: Sequence[tuple[int, Sequence[int]]]) -> int | None:
        failed: set[tuple[int, int]] = set()
        for a, b in ((a, b) for a, found in candidates for b in found):
            if (a, b) in failed:
                continue
            failed.add((a, b))
            if self._passages.is_near(a, b):
                for j in self._answered_by[b]:
                    if self._queries.is_near(i, j):
                        return j
        return None


def settle(data: RetrievalSet, found: list[Leak], how: Literal["error", "drop", "warn"]) -> RetrievalSet:
    """Do about leaks what the option `data.leakage` says.

    Returns:
        The set: with drop, each split without its leaked queries; else as it was.

    Raises:
        UserError: there are leaks, and how is error; drop leaves no query in train or in dev.
    """
    if not found:
        return data
    if how == "error":
        raise UserError(
            f"data.leakage: {_told(found)}; mend the data, or set data.leakage to drop (they are left out) or to warn"
        )
    if how == "warn":
        log.warning("prepare: %s; what is measured there is too good", _told(found))
        return data
    qrels = dict(data.qrels)
    for split in dict.fromkeys(leak.of_split for leak in found):
        leaked = {leak.query_id for leak in found if leak.of_split == split}
        qrels[split] = {query_id: judged for query_id, judged in data.qrels[split].items() if query_id not in leaked}
        if not qrels[split]:
            raise UserError(
                f"data.leakage: drop leaves no {split} query: {_told(found)}; name other sets or other splits"
            )
    log.info("prepare: %s; left out", _told(found))
    elsewhere = {query_id for judged in qrels.values() for query_id in judged}
    gone = {leak.query_id for leak in found} - elsewhere
    stay = [i for i, query_id in enumerate(data.queries.ids) if query_id not in gone]
    return replace(data, queries=data.queries.take(stay), qrels=qrels)


def _told(found: list[Leak]) -> str:
    """How many, from where, and the first: `3 train queries are known from dev (1), test (2), 1 dev query is ...`."""
    counts: dict[str, dict[str, int]] = {}
    for leak in found:
        of_split = counts.setdefault(leak.of_split, {})
        of_split[leak.split_or_set] = of_split.get(leak.split_or_set, 0) + 1
    parts = []
    for split, known_from in counts.items():
        number = len({leak.query_id for leak in found if leak.of_split == split})
        where = ", ".join(f"{name} ({count:,})" for name, count in known_from.items())
        parts.append(f"{number:,} {split} {'queries are' if number > 1 else 'query is'} known from {where}")
    first = found[0]
    return (
        f'{" and ".join(parts)}, e.g. {first.query_id} "{_short(first.text)}" from {first.split_or_set}\'s '
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
