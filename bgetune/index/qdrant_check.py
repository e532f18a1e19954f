"""Is what a Qdrant collection holds what was written, and does it rank as bgetune ranks? Asked before it goes live.

Shapes: N passages, Q questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bgetune.config import JobConfig, Similarity
from bgetune.data import Texts
from bgetune.encoded import Encoded
from bgetune.index.qdrant import Unfinished, point_id
from bgetune.index.qdrant_search import search_collection
from bgetune.index.qdrant_write import missing_rows, vectors_of
from bgetune.search import HYBRID, EncodedSet, as_results, ensemble_weights, rankings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

DEPTH = 10
"""Places of a ranking that are compared."""
_REREAD, _AT_ONCE = 100, 10  # points, and in one request: token vectors of one may take megabytes
_SAME_VECTOR, _SAME_SCORE = 1e-5, 1e-4  # differences that rounding explains, of the largest number
# Qdrant's local mode compares in Python, 0.4 ms a pair of question and passage; so many pairs at most
_LOCAL_PAIRS = 1 << 16


@dataclass(frozen=True)
class Checked:
    """What was found to be the same."""

    points: int
    reread: int
    largest: float
    """Difference between a number that was read again and ours, of the largest number."""
    questions: int
    retriever: str
    approximate: float | None
    """Share of our first `DEPTH` that a server's graph finds; None for local mode, which has none."""

    def __str__(self) -> str:
        """
        >>> print(Checked(60, 60, 3.2e-8, 20, "hybrid", 0.995))  # doctest: +NORMALIZE_WHITESPACE
        checked: 60 points, every id there; 60 read again, largest difference 3.2e-08; 20 questions by hybrid, the first
        10 as bgetune ranks them (99.5 % of them by the server's graph)
        """
        graph = "" if self.approximate is None else f" ({100 * self.approximate:.1f} % of them by the server's graph)"
        return (
            f"checked: {self.points:,} points, every id there; {self.reread} read again, largest difference "
            f"{self.largest:.2g}; {self.questions} questions by {self.retriever}, the first {DEPTH} as bgetune ranks "
            f"them{graph}"
        )


def check(
    client: QdrantClient,
    name: str,
    corpus: Texts,
    both: EncodedSet,
    questions: Texts,
    config: JobConfig,
    local: bool,
    quantized: bool,
) -> Checked:
    """Compare a collection with what it was made of.

    Args:
        both: N passages and Q questions, encoded.
        questions: their texts, for messages.
        local: it is qdrant-client's local mode, which is exact, and asked less where it would take minutes.
        quantized: as `search_collection` has it, for the server's approximate search.

    Raises:
        Unfinished: something is not the same; the line says what.
    """
    _check_ids(client, name, corpus)
    rows = np.sort(np.random.default_rng(config.eval.seed).permutation(len(corpus))[:_REREAD])
    largest = _largest_difference(client, name, corpus, both.passages, rows, both.similarity)
    retriever = HYBRID if len(both.heads) > 1 else both.heads[0]
    asked = min(len(questions), max(_LOCAL_PAIRS // len(corpus), 1)) if local else len(questions)
    ours = rankings(both, config, [retriever], "checking", depth=DEPTH)[retriever]
    expected = list(as_results(questions.ids, corpus.ids, *ours).values())[:asked]
    settings = both.questions, range(asked), both.similarity, retriever, DEPTH, config.eval.candidates
    weights = ensemble_weights(config.train)
    found = search_collection(client, name, *settings, weights, exact=not local)
    for i, (theirs, wanted) in enumerate(zip(found, expected, strict=True)):
        if (told := difference(theirs, wanted)) is not None:
            question = f"the question {questions.texts[i][:60]!r}"
            raise Unfinished(f"{name}: {question} is not ranked as bgetune ranks it: {told}; {_LEFT}")
    approximate = None
    if not local and asked:
        again = search_collection(client, name, *settings, weights, quantized=quantized)
        approximate = float(np.mean([agreement(a, b) for a, b in zip(again, expected, strict=True)]))
    return Checked(len(corpus), len(rows), largest, asked, retriever, approximate)


_LEFT = "the alias was not switched; remove the collection and run again"


def _check_ids(client: QdrantClient, name: str, corpus: Texts) -> None:
    held = client.count(name, exact=True).count
    if held != len(corpus):
        raise Unfinished(f"{name}: it holds {held} points where {len(corpus)} were written; {_LEFT}")
    missing = missing_rows(client, name, corpus.ids, "checking ids")
    if len(missing):
        what = f"the point of {corpus.ids[int(missing[0])]!r} is not there, and another stands in its place"
        raise Unfinished(f"{name}: {what}; {_LEFT}")


def _largest_difference(
    client: QdrantClient, name: str, corpus: Texts, encoded: Encoded, rows: np.ndarray, similarity: Similarity
) -> float:
    ids = {point_id(corpus.ids[row]): int(row) for row in rows}
    largest, asked = 0.0, list(ids)
    some = (asked[start : start + _AT_ONCE] for start in range(0, len(asked), _AT_ONCE))
    for record in (each for part in some for each in client.retrieve(name, ids=part, with_vectors=True)):
        row = ids[str(record.id)]
        held: Any = record.vector
        difference = _vectors_differ(held, vectors_of(encoded, row), similarity)
        if (record.payload or {}).get("id") != corpus.ids[row] or not difference <= _SAME_VECTOR:
            raise Unfinished(f"{name}: the point of {corpus.ids[row]!r} is not what was written; {_LEFT}")
        largest = max(largest, difference)
    return largest


def _vectors_differ(held: Mapping[str, Any], ours: Mapping[str, Any], similarity: Similarity) -> float:
    """The largest difference of two points' vectors by head, of the largest number; inf where the shapes differ.

    >>> _vectors_differ({"dense": [0.6, 0.8]}, {"dense": [3.0, 4.0]}, "cosine")  # Qdrant keeps it with length 1
    0.0
    >>> _vectors_differ({"dense": [1.0]}, {"dense": [1.0], "multi_vector": [[1.0]]}, "dot")
    inf
    >>> _vectors_differ({"dense": [float("nan")]}, {"dense": [1.0]}, "dot")
    nan
    """
    if set(held) != set(ours):
        return np.inf
    largest = 0.0
    for head in ours:
        (their_ids, theirs), (our_ids, mine) = _numbers(held[head]), _numbers(ours[head])
        if theirs.shape != mine.shape or their_ids != our_ids:
            return np.inf
        if head == "dense" and similarity == "cosine":
            theirs, mine = (x / max(float(np.linalg.norm(x)), 1e-12) for x in (theirs, mine))
        # numpy's, which does not lose a NaN
        largest = float(np.maximum(largest, np.abs(theirs - mine).max() / max(float(np.abs(mine).max()), 1e-12)))
    return largest


def _numbers(vector: Any) -> tuple[list[int], np.ndarray]:
    """Ids, ascending, and weights of a sparse vector; no ids and the numbers of any other."""
    if not hasattr(vector, "indices"):
        return [], np.array(vector)
    order = np.argsort(vector.indices)
    return np.array(vector.indices)[order].tolist(), np.array(vector.values)[order]


def difference(theirs: Mapping[str, float], ours: Mapping[str, float]) -> str | None:
    """What is not the same in two rankings, best first, but for rounding and for the order of equal scores.

    >>> difference({"a": 0.5, "c": 0.3}, {"a": 0.5, "b": 0.3})  # b and c are tied, and both may be the last
    >>> difference({"b": 0.4, "a": 0.5}, {"a": 0.5, "b": 0.3})
    "place 2 has 'b' with 0.4 there, and 'b' with 0.3 here"
    """
    close = _SAME_SCORE * max([1.0, *(abs(score) for score in ours.values())])
    if len(theirs) != len(ours):
        return f"{len(theirs)} were found, and {len(ours)} here"
    there = sorted(theirs.items(), key=lambda item: -item[1])
    here = sorted(ours.items(), key=lambda item: -item[1])
    for place, ((their_id, their_score), (our_id, our_score)) in enumerate(zip(there, here, strict=True), start=1):
        least = min(ours.values())
        same = abs(their_score - ours.get(their_id, least)) <= close and abs(their_score - our_score) <= close
        if not same:
            told = f"{their_id!r} with {their_score:.6g} there, and {our_id!r} with {our_score:.6g} here"
            return f"place {place} has {told}"
    return None


def agreement(theirs: Mapping[str, float], ours: Mapping[str, float]) -> float:
    """
    >>> agreement({"a": 1.0, "c": 0.5}, {"a": 1.0, "b": 0.5})
    0.5
    """
    return len(theirs.keys() & ours.keys()) / len(ours) if ours else 1.0


def sample_questions(asked: Texts | None, corpus: Texts, count: int, seed: int) -> Texts:
    """Questions to check with: some of those there are, else the titles or the first words of some passages."""
    of = corpus if asked is None else asked
    rows: Sequence[int] = np.sort(np.random.default_rng(seed).permutation(len(of))[:count]).tolist()
    some = of.take(rows)
    if asked is not None:
        return some
    titles = some.titles or [""] * len(some)
    told = [title.strip() or " ".join(text.split()[:12]) for title, text in zip(titles, some.texts, strict=True)]
    return Texts([f"passage {each}" for each in some.ids], told)
