"""Which of a query's retrieved passages become its hard negatives: filters, rank window, sampling."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bgetune.config_data import MineConfig


@dataclass(frozen=True)
class Candidate:
    """A retrieved passage: its row in the corpus, its rank from 1, its score."""

    row: int
    rank: int
    score: float


def score_limit(positive_score: float, config: MineConfig) -> float:
    """The score above which a passage is taken for an unlabelled positive.

    The share is NV-Retriever's TopK-PercPos (arXiv 2407.15831). For a positive score below 0, where a share
    of it would lie above it, the limit lies the same distance below: s - (1 - share) * |s|.

    >>> score_limit(0.8, MineConfig(max_share_of_positive=0.95))
    0.76
    >>> score_limit(-10.0, MineConfig(max_share_of_positive=0.95))
    -10.5
    >>> score_limit(0.8, MineConfig(max_share_of_positive=None, margin=0.1, max_score=0.65))
    0.65
    """
    limits = [float("inf")]
    if config.max_share_of_positive is not None:
        limits.append(positive_score - (1 - config.max_share_of_positive) * abs(positive_score))
    if config.margin is not None:
        limits.append(positive_score - config.margin)
    if config.max_score is not None:
        limits.append(config.max_score)
    return min(limits)


def filter_candidates(
    candidates: Sequence[Candidate],
    known_positives: set[int],
    refused_texts: set[str],
    texts: Sequence[str],
    limit: float,
    dropped: Counter[str],
) -> list[Candidate]:
    """Drop known positives, the query itself, texts equal to a positive's, repeated texts, and scores above the limit.

    Args:
        candidates: best first.
        known_positives: rows of the query's positives.
        refused_texts: normalised texts (see `normalised`) of the query and its positives.
        texts: normalised text of every row.
        limit: from `score_limit`.
        dropped: counts each reason; changed in place.
    """
    kept, seen = [], set(refused_texts)
    for candidate in candidates:
        if candidate.row in known_positives:
            dropped["known positive"] += 1
        elif texts[candidate.row] in seen:
            dropped["same text"] += 1
        elif candidate.score > limit:
            dropped["score above the limit"] += 1
        else:
            seen.add(texts[candidate.row])
            kept.append(candidate)
    return kept


def sample(candidates: Sequence[Candidate], query_id: str, config: MineConfig) -> list[Candidate]:
    """Take `negatives_per_query` of the candidates, best first; a query's sample depends on no other query."""
    count = config.negatives_per_query
    if config.sampling == "top" or len(candidates) <= count:
        return list(candidates[:count])
    digest = hashlib.sha256(f"{config.seed}\t{query_id}".encode()).digest()
    chosen = random.Random(int.from_bytes(digest[:8], "big")).sample(range(len(candidates)), count)
    return [candidates[i] for i in sorted(chosen)]
