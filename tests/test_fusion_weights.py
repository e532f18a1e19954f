"""Weights tuned on a dev split: our nDCG equals trec_eval's, and the best point of the grid is found."""

from __future__ import annotations

import dataclasses
import doctest
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune import fusion_weights
from bgetune.config import EvalConfig, HeadConfig, JobConfig, TrainConfig
from bgetune.data import Qrels
from bgetune.encoded import Encoded
from bgetune.fusion import weighted_sum
from bgetune.fusion_weights import _spread, _weights, judge, ndcg, simplex, tune_weights
from bgetune.index.multi_vector import TokenMatrix
from bgetune.index.sparse import SparseMatrix
from bgetune.metrics import means, per_query
from bgetune.search import HYBRID, TUNED, EncodedSet, as_results, rankings
from bgetune.searched import Searched

HEADS = ("dense", "sparse", "multi_vector")
CONFIG = JobConfig(eval=EvalConfig(candidates=100))


def test_doctests():
    result = doctest.testmod(fusion_weights)
    assert result.attempted
    assert not result.failed


# -- nDCG


def random_candidates(seed: int) -> tuple[np.ndarray, np.ndarray, list[str], list[str], Qrels]:
    """Ties everywhere, empty places, ids whose order is not that of rows, judged passages that are no candidates."""
    rng = np.random.default_rng(seed)
    queries, width, size = int(rng.integers(1, 8)), int(rng.integers(1, 40)), 60
    passage_ids = [f"d{i}" for i in rng.permutation(size)]
    rows = np.stack([np.sort(rng.choice(size, width, replace=False)) for _ in range(queries)])
    for i, found in enumerate(rng.integers(0, width + 1, queries)):
        rows[i, found:] = -1
    scores = np.where(rows < 0, -np.inf, rng.integers(0, 5, rows.shape) / 4).astype(np.float32)
    query_ids = [f"q{i}" for i in range(queries)]
    qrels = {
        query_id: {p: int(rng.integers(-1, 4)) for p in rng.choice(passage_ids, rng.integers(1, 30), replace=False)}
        for query_id in query_ids
    }
    return scores, rows, query_ids, passage_ids, qrels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ndcg_equals_trec_evals(seed):
    scores, rows, query_ids, passage_ids, qrels = random_candidates(seed)
    found = ndcg(scores, judge(rows, query_ids, passage_ids, qrels))
    expected = per_query(qrels, as_results(query_ids, passage_ids, scores, rows), ["ndcg@10"])["ndcg@10"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_ndcg_in_blocks_is_the_same(monkeypatch):
    scores, rows, query_ids, passage_ids, qrels = random_candidates(5)
    judged = judge(rows, query_ids, passage_ids, qrels)
    assert len(judged.query) > 2
    at_once = ndcg(scores, judged)
    monkeypatch.setattr(fusion_weights, "_COMPARED", 1)
    assert ndcg(scores, judged).tolist() == at_once.tolist()


@pytest.mark.parametrize(("parts", "points"), [(1, 1), (2, 11), (3, 66)])
def test_the_grid_is_every_split_once(parts, points):
    grid = list(simplex(parts, 10))
    assert len(set(grid)) == len(grid) == points
    assert all(sum(shares) == pytest.approx(1) and min(shares) >= 0 for shares in grid)


# -- tuning


def encoded_set(seed: int, sparse_scale: float = 1.0, heads: tuple[str, ...] = HEADS) -> EncodedSet:
    """30 queries over 80 passages of noise; heads that are not named are absent."""
    rng = np.random.default_rng(seed)

    def side(count: int) -> Encoded:
        dense = rng.normal(size=(count, 8)).astype(np.float32)
        ids = np.stack([np.sort(rng.choice(40, 6, replace=False)) for _ in range(count)]).astype(np.int32)
        weights = ((rng.random(count * 6) + 0.01) * sparse_scale).astype(np.float32)
        sparse = SparseMatrix(np.arange(count + 1) * 6, ids.ravel(), weights, 40)
        tokens = rng.normal(size=(count * 3, 4)).astype(np.float32)
        multi = TokenMatrix(tokens / np.linalg.norm(tokens, axis=1, keepdims=True), np.arange(count + 1) * 3)
        there = {"dense": dense, "sparse": sparse, "multi_vector": multi}
        return Encoded(**{head: there[head] for head in heads})

    return EncodedSet(side(80), side(30), "cosine")


def ids_of(encoded: EncodedSet) -> tuple[list[str], list[str]]:
    return [f"q{i}" for i in range(len(encoded.questions.vectors))], [
        f"d{i}" for i in range(len(encoded.passages.vectors))
    ]


def answered_by(encoded: EncodedSet, weights: dict[str, float]) -> Qrels:
    """Judgements by which the five best of a hybrid with these weights are the right answers."""
    query_ids, passage_ids = ids_of(encoded)
    found = rankings(encoded, CONFIG, [TUNED], "test", tuned_weights=weights)
    results = as_results(query_ids, passage_ids, *found[TUNED])
    return {query_id: dict.fromkeys(list(passages)[:5], 1) for query_id, passages in results.items()}


def value_of(encoded: EncodedSet, qrels: Qrels, weights: dict[str, float]) -> float:
    query_ids, passage_ids = ids_of(encoded)
    found = rankings(encoded, CONFIG, [TUNED], "test", tuned_weights=weights)[TUNED]
    return means(per_query(qrels, as_results(query_ids, passage_ids, *found), ["ndcg@10"]))["ndcg@10"]


def tuned(encoded: EncodedSet, qrels: Qrels, config: JobConfig = CONFIG) -> dict[str, float]:
    return tune_weights(encoded, *ids_of(encoded), qrels, config, "test")


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("only", HEADS)
def test_the_head_that_is_right_is_found_whatever_its_scale(only, scale):
    encoded = encoded_set(0, scale)
    weights = tuned(encoded, answered_by(encoded, {head: float(head == only) for head in HEADS}))
    assert weights == {head: float(head == only) for head in HEADS}


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_no_point_of_the_grid_is_better(scale):
    """By trec_eval, over what `hybrid_tuned` then finds."""
    encoded = encoded_set(1, scale)
    truth = {"dense": 0.9, "sparse": 1.1 / scale, "multi_vector": 0.5}
    qrels = answered_by(encoded, truth)
    weights = tuned(encoded, qrels)
    best = value_of(encoded, qrels, weights)
    configured = {head: getattr(CONFIG.train, head).ensemble_weight for head in HEADS}
    assert value_of(encoded, qrels, configured) < best
    spreads = {head: _spread(values) for head, values in Searched(encoded, CONFIG, "Flat", 100, "").scores().items()}
    for shares in list(simplex(3, 10))[::3]:
        assert value_of(encoded, qrels, _weights(dict(zip(HEADS, shares, strict=True)), spreads)) <= best + 1e-9
    assert best > 0.9


def test_the_configured_weights_win_a_tie():
    encoded = encoded_set(2)
    train = TrainConfig(
        dense=HeadConfig(ensemble_weight=0.37),
        sparse=HeadConfig(ensemble_weight=0.11),
        multi_vector=HeadConfig(ensemble_weight=0.83),
    )
    config = dataclasses.replace(CONFIG, train=train)
    configured = {"dense": 0.37, "sparse": 0.11, "multi_vector": 0.83}
    assert tuned(encoded, answered_by(encoded, configured), config) == configured
    nothing_found = {query_id: {"elsewhere": 1} for query_id in ids_of(encoded)[0]}
    assert tuned(encoded, nothing_found, config) == configured


def test_tuned_weights_that_are_the_configured_ones_give_the_hybrid():
    encoded = encoded_set(2)
    configured = {head: getattr(CONFIG.train, head).ensemble_weight for head in HEADS}
    found = rankings(encoded, CONFIG, [HYBRID, TUNED], "test", tuned_weights=configured)
    for hybrid, other in zip(found[HYBRID], found[TUNED], strict=True):
        assert hybrid.tobytes() == other.tobytes()


@pytest.mark.parametrize("heads", [("dense",), ("dense", "sparse"), ("dense", "multi_vector")], ids="+".join)
def test_only_heads_that_are_there_get_a_weight(heads):
    encoded = encoded_set(3, heads=heads)
    last = {head: float(head == heads[-1]) for head in heads}
    assert tuned(encoded, answered_by(encoded, last)) == last
    assert tuned(encoded, answered_by(encoded, last)) == last  # and again


def test_a_head_that_says_nothing_does_no_harm():
    scores = np.full((2, 3), 0.5, dtype=np.float32)
    assert _spread(scores) == 1.0
    assert _spread(np.full((2, 3), -np.inf)) == 1.0
    assert _spread(np.zeros((2, 0))) == 1.0


def test_a_thousand_queries_take_no_time():
    """With 400 candidates, 3 heads and 66 points: half a second on a machine that does nothing else."""
    rng = np.random.default_rng(0)
    queries, width, size = 1000, 400, 5000
    rows = np.sort(rng.integers(0, size, (queries, width)), axis=1)
    query_ids, passage_ids = [f"q{i}" for i in range(queries)], [f"d{i}" for i in range(size)]
    qrels = {query_id: {passage_ids[row]: 1 for row in rows[i, :3]} for i, query_id in enumerate(query_ids)}
    scores = {head: rng.random((queries, width), dtype=np.float32) for head in HEADS}
    start = time.process_time()
    judged = judge(rows, query_ids, passage_ids, qrels)
    for shares in simplex(3, 10):
        ndcg(weighted_sum(scores, dict(zip(HEADS, shares, strict=True))), judged)
    assert time.process_time() - start < 20
