"""Which of a query's retrieved passages become its hard negatives: filters, rank window, sampling."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bgetune.config_data import MineConfig, Signal

KNOWN, SAME, RELATED = "known positive", "same text", "same section as a positive"
NEAR, AGREED = "near-duplicate of a positive", "two signals agree"
LIMIT = "score above the limit of mine."
"""Begins the name of a limit; its option and value follow."""


@dataclass(frozen=True)
class Candidate:
    """A retrieved passage: its row in the corpus, its rank from 1 and score under the signal that found it."""

    row: int
    rank: int
    score: float
    source: Signal = "dense"


def score_limits(positive_score: float, config: MineConfig, said: str = LIMIT) -> dict[str, float]:
    """The scores above which a passage is taken for an unlabelled positive, each by its name.

    The share is NV-Retriever's TopK-PercPos (arXiv 2407.15831). For a positive score below 0, where a share
    of it would lie above it, the limit lies the same distance below: s - (1 - share) * |s|.

    >>> score_limits(0.8, MineConfig(max_share_of_positive=0.95))
    {'score above the limit of mine.max_share_of_positive (0.95)': 0.76}
    >>> list(score_limits(-10.0, MineConfig(max_share_of_positive=0.95)).values())
    [-10.5]
    >>> list(score_limits(0.75, MineConfig(max_share_of_positive=None, margin=0.25, max_score=0.65)).values())
    [0.5, 0.65]
    """
    share, margin, highest = config.max_share_of_positive, config.margin, config.max_score
    limits = {}
    if share is not None:
        limits[f"{said}max_share_of_positive ({share:g})"] = positive_score - (1 - share) * abs(positive_score)
    if margin is not None:
        limits[f"{said}margin ({margin:g})"] = positive_score - margin
    if highest is not None:
        limits[f"{said}max_score ({highest:g})"] = highest
    return limits


def exceeded(score: float, limits: Mapping[str, float]) -> str | None:
    """The name of the first limit that a score is above.

    >>> exceeded(0.7, {"a": 0.9, "b": 0.6, "c": 0.5}), exceeded(0.5, {"c": 0.5})
    ('b', None)
    """
    return next((name for name, limit in limits.items() if score > limit), None)


def quotas(sources: Mapping[Signal, float], count: int) -> dict[Signal, int]:
    """How many negatives each source finds: largest remainders, ties to the source named first.

    >>> quotas({"dense": 2.0, "bm25": 1.0, "random": 1.0}, 7)
    {'dense': 3, 'bm25': 2, 'random': 2}
    """
    total = sum(sources.values())
    exact = {source: count * share / total for source, share in sources.items()}
    given = {source: math.floor(value) for source, value in exact.items()}
    by_remainder = sorted(sources, key=lambda source: (given[source] - exact[source], list(sources).index(source)))
    for source in by_remainder[: count - sum(given.values())]:
        given[source] += 1
    return given


@dataclass(frozen=True)
class Query:
    """What the filters need to know of one query: rows of its positives, hashes of the texts it must not be given."""

    query_id: str
    positives: frozenset[int]
    refused_texts: frozenset[int]


@dataclass(frozen=True)
class Doubts:
    """What speaks against a passage as a negative of one query, by its row."""

    suspected: Callable[[int], bool]
    """Two signals rank it above the best positive."""
    related: Callable[[int], bool]
    """It stands under the very heading or title that the query is."""
    near_positive: Callable[[int], bool]
    """Its text is nearly that of a positive."""


def filter_candidates(
    candidates: Sequence[Candidate],
    query: Query,
    text_hash: Callable[[int], int],
    limits: Mapping[str, float],
    doubts: Doubts,
    dropped: Counter[str],
) -> list[Candidate]:
    """Drop known positives, texts equal to the query or a positive, repeated texts, scores above a limit,
    what two signals rank above the positive, what answers a heading as its section's other passages do, near-duplicates
    of a positive; the cheap tests first.

    Args:
        candidates: best first.
        text_hash: of the text of a row.
        limits: from `score_limits`.
        dropped: counts each reason; changed in place.
    """
    kept, seen = [], set(query.refused_texts)
    for candidate in candidates:
        text = text_hash(candidate.row)
        if candidate.row in query.positives:
            dropped[KNOWN] += 1
        elif text in seen:
            dropped[SAME] += 1
        elif (limit := exceeded(candidate.score, limits)) is not None:
            dropped[limit] += 1
        elif doubts.suspected(candidate.row):
            dropped[AGREED] += 1
        elif doubts.related(candidate.row):
            dropped[RELATED] += 1
        elif doubts.near_positive(candidate.row):
            dropped[NEAR] += 1
        else:
            seen.add(text)
            kept.append(candidate)
    return kept


def sample(candidates: Sequence[Candidate], count: int, query_id: str, config: MineConfig) -> list[Candidate]:
    """Take `count` of the candidates, best first; a query's sample depends on no other query."""
    if config.sampling == "top" or len(candidates) <= count:
        return list(candidates[:count])
    digest = hashlib.sha256(f"{config.seed}\t{query_id}".encode()).digest()
    draw = random.Random(int.from_bytes(digest[:8], "big"))
    if config.sampling == "random":
        chosen = draw.sample(range(len(candidates)), count)
    else:
        weights = _weights([candidate.score for candidate in candidates])
        # Efraimidis & Spirakis, IPL 2006: weighted, without replacement
        keys = [math.log(1.0 - draw.random()) / weight for weight in weights]
        chosen = sorted(range(len(candidates)), key=lambda i: -keys[i])[:count]
    return [candidates[i] for i in sorted(chosen)]


def _weights(scores: Sequence[float]) -> list[float]:
    """Softmax weights of scores in units of their own spread, so that any signal's scale will do.

    >>> [round(weight, 2) for weight in _weights([3.0, 2.0, 1.0])]
    [3.4, 1.0, 0.29]
    """
    mean = sum(scores) / len(scores)
    spread = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores)) or 1.0
    return [math.exp((score - mean) / spread) for score in scores]
