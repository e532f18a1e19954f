"""Metrics: by hand, with grades, ties and gaps, and against a plain implementation on random runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bgetune.data import Qrels
from bgetune.index.bm25 import BM25Index
from bgetune.metrics import METRICS, Results, means, per_query


def plain(judged: dict[str, int], found: dict[str, float]) -> dict[str, float]:
    """The definitions written out; equal scores rank by id, the later first (trec_eval's rule)."""
    ranked = sorted(sorted(found, reverse=True), key=lambda d: -found[d])
    grades = np.array([max(judged.get(d, 0), 0) for d in ranked], dtype=float)
    ideal = np.array(sorted((g for g in judged.values() if g > 0), reverse=True), dtype=float)
    hits = grades > 0
    first = np.flatnonzero(hits[:10])

    def dcg(gains: np.ndarray) -> float:
        return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())

    precision_at_hits = np.cumsum(hits)[:100] / np.arange(1, min(len(hits), 100) + 1)
    return {
        "ndcg@10": dcg(grades[:10]) / dcg(ideal[:10]),
        "mrr@10": 1 / (first[0] + 1) if len(first) else 0.0,
        "recall@10": hits[:10].sum() / len(ideal),
        "recall@100": hits[:100].sum() / len(ideal),
        "map@100": float(precision_at_hits[hits[:100]].sum()) / len(ideal),
    }


def ranked(*ids: str) -> dict[str, float]:
    return {passage_id: 1.0 / rank for rank, passage_id in enumerate(ids, start=1)}


def one(judged: dict[str, int], found: dict[str, float]) -> dict[str, float]:
    return {name: float(value[0]) for name, value in per_query({"q": judged}, {"q": found}).items()}


def test_graded_by_hand():
    values = one({"a": 3, "b": 2, "c": 1}, ranked("b", "x", "a"))
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert values["ndcg@10"] == pytest.approx((2 + 3 / 2) / ideal)  # linear gain, not 2^3 - 1
    assert values["mrr@10"] == 1
    assert values["recall@10"] == pytest.approx(2 / 3)
    assert values["map@100"] == pytest.approx((1 / 1 + 2 / 3) / 3)


def test_binary_by_hand():
    values = one({"a": 1, "b": 1}, ranked("x", "a", "y", "b"))
    assert values["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)))
    assert values["mrr@10"] == 0.5
    assert values["recall@10"] == 1
    assert values["map@100"] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_rank_ten_counts_and_eleven_does_not():
    fillers = [f"x{i}" for i in range(10)]
    tenth = one({"a": 1}, ranked(*fillers[:9], "a"))
    eleventh = one({"a": 1}, ranked(*fillers, "a"))
    assert (tenth["mrr@10"], tenth["recall@10"]) == (pytest.approx(0.1), 1)
    assert tenth["ndcg@10"] == pytest.approx(1 / math.log2(11))
    assert (eleventh["mrr@10"], eleventh["recall@10"], eleventh["ndcg@10"]) == (0, 0, 0)
    assert eleventh["recall@100"] == 1
    assert eleventh["map@100"] == pytest.approx(1 / 11)


def test_judged_not_relevant_is_not_relevant():
    assert one({"a": 1, "b": 0, "c": -1}, ranked("b", "c", "a"))["mrr@10"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("relevant", "first"), [("b", 1.0), ("a", 0.5)])
def test_ties_rank_the_later_id_first_in_every_metric(relevant: str, first: float):
    values = one({relevant: 1}, {"a": 1.0, "b": 1.0})
    assert values["mrr@10"] == values["map@100"] == first
    assert values["ndcg@10"] == pytest.approx(1 / math.log2(1 + 1 / first))


def test_query_without_results_scores_zero_and_keeps_its_place():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}}
    values = per_query(qrels, {"q2": {}, "q3": {"a": 1.0}, "not asked": {"a": 1.0}})
    assert set(values) == set(METRICS)
    for value in values.values():
        assert value.tolist() == [0, 0, 1]
    assert all(value.tolist() == [0, 0, 0] for value in per_query(qrels, {}).values())


def test_only_the_named_metrics():
    assert list(per_query({"q": {"a": 1}}, {"q": {"a": 1.0}}, ["ndcg@10"])) == ["ndcg@10"]


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_plain_implementation_on_random_graded_runs(seed: int):
    rng = np.random.default_rng(seed)
    qrels: Qrels = {}
    results: Results = {}
    for i in range(30):
        passages = [f"d{j}" for j in rng.permutation(200)]
        grades = rng.integers(0, 4, rng.integers(1, 30))
        grades[0] = 1
        qrels[f"q{i}"] = {p: int(g) for p, g in zip(rng.permutation(passages), grades, strict=False)}
        # few distinct scores: ties everywhere, also across the cuts at 10 and 100
        found = passages[: rng.integers(1, 150)]
        results[f"q{i}"] = {p: float(s) for p, s in zip(found, rng.integers(0, 20, len(found)) / 16, strict=True)}
    values = per_query(qrels, results)
    expected = [plain(qrels[q], results[q]) for q in qrels]
    for name in METRICS:
        np.testing.assert_allclose(values[name], [e[name] for e in expected], atol=1e-9, err_msg=name)
        assert means(values)[name] == pytest.approx(np.mean([e[name] for e in expected]))


@pytest.mark.parametrize("corpus", [["the", "a b"], ["", "the", "a"]])
def test_bm25_finds_nothing_in_a_corpus_without_words(corpus: list[str]):
    scores, rows = BM25Index.build(corpus).search(["the words", "a"], 10)
    assert (rows.dtype, rows.tolist()) == (np.int64, [[-1] * len(corpus)] * 2)
    assert (scores.dtype, scores.tolist()) == (np.float32, [[0.0] * len(corpus)] * 2)
