"""Where a gain comes from: the deciding metric by kind of query and passage, and by pair of languages.

Q queries. Nothing is guessed: a language is what the texts' metadata say (`lang` or `language`), because that of a
query of five words is told wrong too often.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from bgetune.data import Qrels, Texts
from bgetune.metrics import Results, measure_of, per_query

from .examples import ranking
from .sets import EvalSet
from .significance import TIE, bootstrap_interval

FEWEST = 20
"""Queries of a group; a mean of fewer says little."""
_RARE = 1000
"""A word is rare that at most one of so many passages has."""
_SEVERAL, _OTHERS = "several", "others"
_AROUND_WORDS = string.punctuation + "“”„‘’‚«»‹›…–—¡¿،؛؟।·、。，！？：；（）《》「」『』【】"
# Thai, Lao, Tibetan, Myanmar, Khmer, Japanese kana, Chinese characters: written without spaces between words
_UNSPACED = re.compile(
    "([\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+)"
)
# From this share of texts without spaces on, all lengths of a set are in characters.
_UNSPACED_SET = 0.05

Groups = list[tuple[str, np.ndarray]]
"""Label and int64 positions of the queries, each in one group at most."""


@dataclass(frozen=True)
class _Slice:
    """A way to part the queries."""

    name: str
    unit: str
    groups: Groups


def slices(
    test: EvalSet, values: Mapping[str, np.ndarray], reference: str, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Means and gains by length of query and passage, rare words, number of relevant passages, and language.

    The passage of a query is the first of its most relevant ones. Numbers are parted at their quartiles, rounded to two
    digits; a group of fewer than 20 queries goes to its neighbour. What leaves a single group is left out.

    Args:
        values: system -> float64 [Q] of the metric that decides, in the order of the qrels.
        reference: the system that the others' gains are over.
        samples, seed: of the bootstrap intervals.

    Returns:
        One object a slice: name, unit, and groups with label, n_queries, values and gain.
    """
    others = [system for system in values if system != reference]

    def group(label: str, members: np.ndarray) -> dict[str, Any]:
        gain = {}
        for system in others:
            differences = values[system][members] - values[reference][members]
            differences[np.abs(differences) < TIE] = 0.0
            interval = bootstrap_interval(differences, samples, np.random.default_rng([seed, 0]))
            gain[system] = {"abs": float(differences.mean()), "ci95": list(interval)}
        means = {system: float(found[members].mean()) for system, found in values.items()}
        return {"label": label, "n_queries": len(members), "values": means, "gain": gain}

    return [
        {"name": one.name, "unit": one.unit, "groups": [group(label, members) for label, members in one.groups]}
        for one in _slices_of(test)
        if len(one.groups) > 1
    ]


def _slices_of(test: EvalSet) -> list[_Slice]:
    full = test.corpus.full_texts()
    row_of = {passage_id: row for row, passage_id in enumerate(test.corpus.ids)}
    passages = [full[row_of[max(judged, key=judged.__getitem__)]] for judged in test.qrels.values()]
    queries = test.queries.texts
    unit = unit_of([*queries, *passages])
    relevant = [sum(grade > 0 for grade in judged.values()) for judged in test.qrels.values()]
    at_most, shares = _rare_shares(queries, full)
    rare = f"% of its words; rare: in at most {at_most:,} of {len(full):,} passages"
    return [
        _Slice("query length", unit, by_quartile([size(text, unit) for text in queries])),
        _Slice("passage length", unit, by_quartile([size(text, unit) for text in passages])),
        _Slice("rare words in the query", rare, by_quartile(shares)),
        _Slice("relevant passages", "passages", by_border(relevant, [1, 2])),
        _Slice("query language", "", _by_label(languages(test.queries))),
        _Slice("passage language", "", _by_label(_languages_of_positives(test))),
    ]


def terms(text: str) -> list[str]:
    """Lower-cased words without the punctuation around them; pairs of characters where no spaces part the words.

    >>> terms("Heart-attack, again?  心脏病 ...")
    ['heart-attack', 'again', '心脏', '脏病']
    """
    found = []
    for piece in text.casefold().split():
        for number, part in enumerate(_UNSPACED.split(piece)):
            if number % 2:  # what the pattern has matched
                found += [part[i : i + 2] for i in range(max(1, len(part) - 1))]
            elif word := part.strip(_AROUND_WORDS):
                found.append(word)
    return found


def unit_of(texts: Sequence[str]) -> str:
    """ "characters" where more than a twentieth of the texts is written without spaces, else "words".

    >>> unit_of(["heart attack"] * 30), unit_of(["heart attack"] * 2 + ["心脏病"])
    ('words', 'characters')
    """
    unspaced = sum(2 * sum(map(len, _UNSPACED.findall(text))) > len("".join(text.split())) for text in texts)
    return "characters" if unspaced > _UNSPACED_SET * len(texts) else "words"


def size(text: str, unit: str) -> int:
    """Length in words, or in characters but white space.

    >>> size("a heart – attack", "words"), size("a heart", "characters")
    (3, 6)
    """
    return len(terms(text)) if unit == "words" else len("".join(text.split()))


def _rare_shares(queries: Sequence[str], passages: Sequence[str]) -> tuple[int, list[int]]:
    """How many passages at most have a rare word, and the percentage of each query's words that are rare."""
    at_most = max(1, len(passages) // _RARE)
    of_query = [terms(text) for text in queries]
    wanted = {word for words in of_query for word in words}
    count: Counter[str] = Counter()
    for text in passages:
        count.update(wanted.intersection(terms(text)))
    rare = [sum(count[word] <= at_most for word in words) for words in of_query]
    return at_most, [round(100 * n / len(words)) if words else 0 for n, words in zip(rare, of_query, strict=True)]


def by_quartile(numbers: Sequence[int]) -> Groups:
    """Four groups at the quartiles, rounded to two digits; fewer where they coincide or would be too small.

    >>> [(label, len(members)) for label, members in by_quartile(list(range(100, 300)))]
    [('up to 150', 51), ('151 to 200', 50), ('201 to 250', 50), ('251 or more', 49)]
    """
    quartiles = np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf")  # values that there are
    return by_border(numbers, [_two_digits(border) for border in quartiles])


def _two_digits(number: float) -> int:
    """
    >>> _two_digits(7.2), _two_digits(134.0), _two_digits(2345.6)
    (7, 130, 2300)
    """
    step = 10 ** max(0, len(str(int(number))) - 2)
    return round(number / step) * step


def by_border(numbers: Sequence[int], borders: Sequence[int]) -> Groups:
    """Groups of numbers up to each border, and of those above the last; small ones go to their smaller neighbour.

    >>> [(label, len(members)) for label, members in by_border([1] * 30 + [2] * 25 + [5] * 3 + [9] * 21, [1, 2, 8])]
    [('1', 30), ('2', 25), ('3 or more', 24)]
    """
    steps = sorted(set(borders))
    place = np.searchsorted(steps, numbers)
    # first and last place of each group; place i holds the numbers above step i - 1, up to step i
    spans = [(i, i) for i in range(len(steps) + 1)]
    counts = np.bincount(place, minlength=len(spans)).tolist()
    while len(spans) > 1 and min(counts) < FEWEST:
        small = counts.index(min(counts))
        beside = [i for i in (small - 1, small + 1) if 0 <= i < len(spans)]
        first, second = sorted((small, min(beside, key=lambda i: counts[i])))
        spans[first : second + 1] = [(spans[first][0], spans[second][1])]
        counts[first : second + 1] = [counts[first] + counts[second]]
    least = min(numbers)
    return [
        (
            _range(least if low == 0 else steps[low - 1] + 1, None if high == len(steps) else steps[high], low == 0),
            np.flatnonzero((place >= low) & (place <= high)),
        )
        for low, high in spans
    ]


def _range(low: int, high: int | None, first: bool) -> str:
    """
    >>> _range(3, 8, True), _range(9, 1200, False), _range(9, 9, False), _range(10, None, False)
    ('up to 8', '9 to 1,200', '9', '10 or more')
    """
    if high is None:
        return f"{low:,} or more"
    if low == high:
        return f"{low:,}"
    return f"up to {high:,}" if first else f"{low:,} to {high:,}"


def languages(texts: Texts) -> list[str | None]:
    """What the metadata of each text say, as `lang` or `language`; None where they do not."""
    found = []
    for known in texts.metadata or [{}] * len(texts):
        told = known.get("lang") or known.get("language")
        found.append(told if isinstance(told, str) else None)
    return found


def _languages_of_positives(test: EvalSet) -> list[str | None]:
    """The language of each query's relevant passages; None where that of one is not known."""
    language_of = dict(zip(test.corpus.ids, languages(test.corpus), strict=True))
    found: list[str | None] = []
    for judged in test.qrels.values():
        told = {language_of[passage_id] for passage_id, grade in judged.items() if grade > 0}
        found.append(None if None in told else told.pop() if len(told) == 1 else _SEVERAL)
    return found


def _by_label(labels: Sequence[str | None]) -> Groups:
    """A group a label, alphabetically; small ones together, and left out where they are too few even so."""
    members: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        if label is not None:
            members.setdefault(label, []).append(i)
    large = [(label, members.pop(label)) for label in sorted(members) if len(members[label]) >= FEWEST]
    rest = sorted(i for small in members.values() for i in small)
    if len(rest) >= FEWEST:
        large.append((_OTHERS, rest))
    return [(label, np.array(of, dtype=np.int64)) for label, of in large]


def matrix(test: EvalSet, retriever: str, metric: str) -> dict[str, Any] | None:
    """Mean of a metric by the query's language and the passage's.

    The cell of languages s and t is over the queries in s that have relevant passages in t. Where they have some in
    other languages too, as translations of each other, those are taken out of the ranking: neither right nor wrong.
    What is not relevant stays, in whatever language, so that a model loses which puts any text in s before the answer
    in t.

    Args:
        retriever: whose rankings, as in `test.found`; they must be a good deal longer than the metric's k.
        metric: a name that `per_query` knows.

    Returns:
        rows (of queries), columns (of passages), n, and values: system -> [[mean, None for an empty cell]]; None
        where the metadata do not tell, or tell a single pair.
    """
    asked = dict(zip(test.qrels, languages(test.queries), strict=True))
    told = dict(zip(test.corpus.ids, languages(test.corpus), strict=True))
    relevant = {q: {p: g for p, g in judged.items() if g > 0} for q, judged in test.qrels.items() if asked[q]}
    rows = sorted({language for language in asked.values() if language})
    columns = sorted({language for judged in relevant.values() for p in judged if (language := told[p])})
    if not columns or len(rows) == len(columns) == 1:
        return None
    ranked = {
        system: {q: [(p, found[p]) for p in ranking(found)] for q, found in results.items() if q in relevant}
        for system, results in test.found[retriever].items()
    }
    n: list[list[int]] = []
    values: dict[str, list[list[float | None]]] = {system: [] for system in ranked}
    for column in columns:
        inside = {q: {p: g for p, g in judged.items() if told[p] == column} for q, judged in relevant.items()}
        qrels = {q: judged for q, judged in inside.items() if judged}
        members = [[i for i, q in enumerate(qrels) if asked[q] == row] for row in rows]
        n.append([len(of_row) for of_row in members])
        for system, rankings in ranked.items():
            results = _without_translations(rankings, qrels, relevant, measure_of(metric).cutoff)
            found = per_query(qrels, results, [metric])[metric]
            values[system].append([float(found[of_row].mean()) if of_row else None for of_row in members])
    turned = {system: [list(row) for row in zip(*by_column, strict=True)] for system, by_column in values.items()}
    counts = [list(row) for row in zip(*n, strict=True)]
    return {"name": "language pair", "rows": rows, "columns": columns, "n": counts, "values": turned}


def _without_translations(
    rankings: Mapping[str, list[tuple[str, float]]], qrels: Qrels, relevant: Qrels, cutoff: int
) -> Results:
    """The first `cutoff` results of the queries of `qrels`, passing over what is relevant, but not in `qrels`."""
    return {
        q: dict(islice((pair for pair in rankings.get(q, []) if pair[0] in own or pair[0] not in relevant[q]), cutoff))
        for q, own in qrels.items()
    }
