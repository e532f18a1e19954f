"""Which candidates become hard negatives: every filter by itself, the window's sample."""

from __future__ import annotations

import doctest
from collections import Counter

import pytest

from bgetune.config_data import MineConfig
from bgetune.corpus import text_hash
from data_prep.mining import select
from data_prep.mining.select import Candidate, Doubts, Query, filter_candidates, quotas, sample, score_limits

OFF = {"max_share_of_positive": None}


def candidates(*scores: float) -> list[Candidate]:
    return [Candidate(row, rank, score) for row, (rank, score) in enumerate(enumerate(scores, start=1))]


def kept(
    found: list[Candidate],
    known: set[int] = frozenset(),  # type: ignore[assignment]
    refused: set[str] = frozenset(),  # type: ignore[assignment]
    texts: list[str] | None = None,
    limit: float = float("inf"),
    suspected: set[int] = frozenset(),  # type: ignore[assignment]
    near: set[int] = frozenset(),  # type: ignore[assignment]
    related: set[int] = frozenset(),  # type: ignore[assignment]
) -> tuple[list[int], dict[str, int]]:
    dropped: Counter[str] = Counter()
    hashes = [text_hash(text) for text in texts or [f"text {c.row}" for c in found]]
    query = Query("q", frozenset(known), frozenset(text_hash(text) for text in refused))
    doubts = Doubts(suspected.__contains__, related.__contains__, near.__contains__)
    limits = {"score above the limit": limit}
    left = filter_candidates(found, query, hashes.__getitem__, limits, doubts, dropped)
    return [c.row for c in left], dict(dropped)


def test_doctests():
    result = doctest.testmod(select)
    assert result.attempted > 0
    assert result.failed == 0


def test_without_filters_everything_stays_in_order():
    assert kept(candidates(0.9, 0.8, 0.7)) == ([0, 1, 2], {})


def test_known_positives_are_dropped():
    assert kept(candidates(0.9, 0.8, 0.7), known={1}) == ([0, 2], {"known positive": 1})


@pytest.mark.parametrize("text", ["Aspirin helps.", "aspirin  HELPS.", " \tAspirin\nhelps. "])
def test_the_text_of_a_positive_or_of_the_query_is_dropped_however_it_is_spaced(text):
    found = kept(candidates(0.9, 0.8), refused={"Aspirin helps."}, texts=[text, "other"])
    assert found == ([1], {"same text": 1})


def test_a_text_is_taken_once():
    found = kept(candidates(0.9, 0.8, 0.7), texts=["One text.", "one TEXT.", "another"])
    assert found == ([0, 2], {"same text": 1})


@pytest.mark.parametrize(
    ("options", "positive", "limit"),
    [
        ({"max_share_of_positive": 0.95}, 0.8, 0.76),
        ({"max_share_of_positive": 1.0}, 0.8, 0.8),
        ({**OFF, "margin": 0.1}, 0.8, 0.7),
        ({**OFF, "max_score": 0.5}, 0.8, 0.5),
        ({"max_share_of_positive": 0.95, "margin": 0.1, "max_score": 0.9}, 0.8, 0.7),  # the strictest
        ({"max_share_of_positive": 0.9}, -4.0, -4.4),  # euclidean and dot scores may be below 0
        ({**OFF, "margin": 0.5}, -4.0, -4.5),
        ({**OFF, "max_score": -5.0}, -4.0, -5.0),
        ({"max_share_of_positive": 0.9}, 0.0, 0.0),
        (OFF, 0.8, float("inf")),
    ],
)
def test_the_limit_of_the_score(options, positive, limit):
    assert min(score_limits(positive, MineConfig(**options)).values(), default=float("inf")) == pytest.approx(limit)


def test_scores_above_the_limit_are_dropped_and_the_limit_itself_is_not():
    assert kept(candidates(0.9, 0.76, 0.7), limit=0.76) == ([1, 2], {"score above the limit": 1})
    assert kept(candidates(-3.0, -4.4, -5.0), limit=-4.4) == ([1, 2], {"score above the limit": 1})


def test_each_limit_is_named_by_its_option_and_value():
    rule = MineConfig(max_share_of_positive=0.5, margin=0.25, max_score=0.3)
    dropped: Counter[str] = Counter()
    found = candidates(0.9, 0.35, 0.31, 0.26, 0.1)
    query, doubts = Query("q", frozenset(), frozenset()), Doubts(*[lambda row: False] * 3)
    limits = score_limits(0.56, rule)  # 0.28, 0.31 and 0.3
    assert [c.row for c in filter_candidates(found, query, lambda row: row, limits, doubts, dropped)] == [3, 4]
    assert dropped == {"score above the limit of mine.max_share_of_positive (0.5)": 3}
    dropped.clear()
    limits = score_limits(0.9, rule)  # 0.45, 0.65 and 0.3
    filter_candidates(found, query, lambda row: row, limits, doubts, dropped)
    assert dropped == {
        "score above the limit of mine.max_share_of_positive (0.5)": 1,
        "score above the limit of mine.max_score (0.3)": 2,
    }


def test_a_text_dropped_for_its_score_does_not_shadow_its_twin():
    """Equal texts score alike, yet the second may be just below the limit: rounding."""
    found = kept(candidates(0.9, 0.7), texts=["same", "same"], limit=0.8)
    assert found == ([1], {"score above the limit": 1})


def test_top_takes_the_first_and_random_takes_any():
    found = candidates(*[1 - i / 100 for i in range(50)])
    top = sample(found, 5, "q", MineConfig(sampling="top"))
    assert [c.rank for c in top] == [1, 2, 3, 4, 5]
    drawn = [sample(found, 5, f"q{i}", MineConfig(sampling="random")) for i in range(200)]
    assert all([c.rank for c in one] == sorted({c.rank for c in one}) and len(one) == 5 for one in drawn)
    counts = Counter(c.rank for one in drawn for c in one)
    assert set(counts) == set(range(1, 51))  # the whole window
    assert max(counts.values()) < 3 * 200 * 5 / 50  # and no part of it much more than another


def test_a_sample_depends_on_seed_and_query_alone():
    found = candidates(*[1 - i / 100 for i in range(50)])
    config = MineConfig(sampling="random")
    first = sample(found, 5, "q1", config)
    sample(found, 5, "another", config)
    assert sample(found, 5, "q1", config) == first
    assert sample(found, 5, "q2", config) != first
    assert sample(found, 5, "q1", MineConfig(sampling="random", seed=1)) != first


def test_few_candidates_are_all_taken():
    found = candidates(0.5, 0.4)
    for sampling in ("top", "random", "weighted"):
        assert sample(found, 7, "q", MineConfig(sampling=sampling)) == found


def test_weighted_takes_high_scores_more_often_and_every_score_at_times():
    found = candidates(*[1 - i / 50 for i in range(50)])
    config = MineConfig(sampling="weighted")
    drawn = [sample(found, 5, f"q{i}", config) for i in range(400)]
    counts = Counter(c.rank for one in drawn for c in one)
    upper, lower = (sum(counts[rank] for rank in ranks) for ranks in (range(1, 26), range(26, 51)))
    assert upper > 2.5 * lower
    assert set(counts) == set(range(1, 51))
    assert drawn[0] == sample(found, 5, "q0", config)


def test_what_two_signals_suspect_and_what_nearly_is_a_positive_are_dropped():
    reasons = {"two signals agree": 1, "near-duplicate of a positive": 1, "same section as a positive": 1}
    assert kept(candidates(0.9, 0.8, 0.7, 0.6), suspected={0}, near={2}, related={3}) == ([1], reasons)


def test_the_cheap_filters_come_first():
    found = kept(candidates(0.9, 0.8), known={0}, limit=0.5, suspected={0, 1}, near={0, 1})
    assert found == ([], {"known positive": 1, "score above the limit": 1})


@pytest.mark.parametrize("count", range(1, 12))
def test_quotas_give_out_all_and_none_is_off_by_one(count):
    shares = {"dense": 2.0, "bm25": 1.0, "random": 0.5}
    given = quotas(shares, count)
    assert sum(given.values()) == count
    assert all(abs(given[source] - count * share / 3.5) < 1 for source, share in shares.items())
