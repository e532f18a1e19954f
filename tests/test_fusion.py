"""Fusion of scores: equal to plain loops, with ties, gaps and duplicates."""

from __future__ import annotations

import doctest
import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune import fusion, fusion_library
from bgetune.errors import UserError
from bgetune.fusion import best, candidates, reciprocal_rank, weighted_sum
from bgetune.fusion_library import FUSIONS, check_fusions, library_fusion

NAMES = ("dense", "sparse", "multi_vector")
shapes = st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(0, 2**32 - 1))


@pytest.mark.parametrize("module", [fusion, fusion_library])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def random_scores(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A few values, so that many tie; a fifth are -inf."""
    return rng.choice([-np.inf, -0.5, 0.0, 0.25, 0.7], shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 15))
def test_candidates_equal_sets(shape, other):
    queries, width, seed = shape
    rng = np.random.default_rng(seed)
    one, two = rng.integers(-1, 12, (queries, width)), rng.integers(-1, 12, (queries, other))
    found = candidates(one, two)
    unions = [sorted({*a.tolist(), *b.tolist()} - {-1}) for a, b in zip(one, two, strict=True)]
    longest = max(map(len, unions), default=0)
    assert found.dtype == np.int64
    assert found.shape == (queries, longest)
    assert found.tolist() == [union + [-1] * (longest - len(union)) for union in unions]
    assert np.array_equal(found, candidates(two, one, two))


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_weighted_sum_equals_loops(shape):
    queries, width, seed = shape
    rng = np.random.default_rng(seed)
    scores = {name: random_scores(rng, (queries, width)) for name in NAMES}
    weights = dict(zip((*NAMES, "bm25"), (1.0, 0.3, 0.0, 5.0), strict=True))
    total = weighted_sum(scores, weights)
    assert total.dtype == np.float32
    assert total.shape == (queries, width)
    for q, c in itertools.product(range(queries), range(width)):
        assert total[q, c] == pytest.approx(float(scores["dense"][q, c]) + 0.3 * float(scores["sparse"][q, c]))
    for order in itertools.permutations(NAMES):
        assert total.tobytes() == weighted_sum({name: scores[name] for name in order}, weights).tobytes()


def test_weighted_sum_wants_a_weight_of_0_or_more_for_every_retriever():
    scores = {"dense": np.zeros((1, 1)), "bm25": np.zeros((1, 1))}
    with pytest.raises(KeyError, match="bm25"):
        weighted_sum(scores, {"dense": 1.0})
    with pytest.raises(AssertionError):
        weighted_sum(scores, {"dense": 1.0, "bm25": -1.0})


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from([0, 1, 60]))
def test_reciprocal_rank_equals_loops(shape, k):
    queries, width, seed = shape
    rng = np.random.default_rng(seed)
    scores = {name: random_scores(rng, (queries, width)) for name in NAMES}
    fused = reciprocal_rank(scores, k)
    assert fused.dtype == np.float32
    assert fused.shape == (queries, width)
    for q in range(queries):
        expected = [0.0] * width
        for each in scores.values():
            found = [c for c in range(width) if each[q, c] > -np.inf]
            for rank, c in enumerate(sorted(found, key=lambda c, row=each[q]: (-row[c], c)), start=1):
                expected[c] += 1 / (k + rank)
        assert fused[q].tolist() == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 299), min_size=3, max_size=3, unique=True))
def test_reciprocal_rank_ties_where_ranks_are_permuted(ranks):
    scores = {}
    for i, name in enumerate(NAMES):
        first = np.roll(ranks, i)  # of candidates 0, 1 and 2
        scores[name] = -np.concatenate([first, np.setdiff1d(np.arange(300), first)])[None].astype(np.float32)
    fused = reciprocal_rank(scores)
    assert fused[0, 0] == fused[0, 1] == fused[0, 2] == np.float32(sum(1 / (61 + rank) for rank in sorted(ranks)[::-1]))


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(0, 14))
def test_best_equals_sorted(shape, depth):
    queries, width, seed = shape
    rng = np.random.default_rng(seed)
    scores = random_scores(rng, (queries, width))
    rows = np.stack([rng.permutation(30)[:width] for _ in range(queries)]) if queries else np.zeros((0, width), int)
    rows[rng.random(rows.shape) < 0.2] = -1
    found, at = best(scores, rows, depth)
    assert found.shape == at.shape == (queries, min(depth, width))
    for q in range(queries):
        expected = sorted(zip(rows[q].tolist(), scores[q].tolist(), strict=True), key=lambda x: (x[0] < 0, -x[1], x[0]))
        assert list(zip(at[q].tolist(), found[q].tolist(), strict=True)) == expected[:depth]


def test_the_whole_way_from_two_retrievers():
    dense, sparse = np.array([[3, 1]]), np.array([[1, 8]])
    rows = candidates(dense, sparse, np.array([[-1, -1]]))
    scores = {"dense": np.array([[0.5, 0.8, 0.1]]), "sparse": np.array([[2.0, 0.0, 1.0]])}
    assert rows.tolist() == [[1, 3, 8]]
    _, hybrid = best(weighted_sum(scores, {"dense": 1.0, "sparse": 0.3}), rows, 2)
    assert hybrid.tolist() == [[1, 3]]
    fused, order = best(reciprocal_rank(scores), rows, 10)
    assert order.tolist() == [[1, 3, 8]]  # 1/62 + 1/61; then 1/61 + 1/63; then 1/63 + 1/62
    assert fused[0] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 63 + 1 / 62])


# -- the library's fusions


def rankings_of(seed: int, queries: int = 6, width: int = 15) -> dict[str, np.ndarray]:
    """Distinct scores; sparse has not found everything, and for query 2 nothing."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.permuted(np.tile(np.arange(width) / 8, (queries, 1)), axis=1) for name in NAMES}
    scores["sparse"][rng.random((queries, width)) < 0.4] = -np.inf
    scores["sparse"][2] = -np.inf
    return {name: values.astype(np.float32) for name, values in scores.items()}


def ranks_by_loop(row: np.ndarray) -> dict[int, int]:
    found = [c for c in range(len(row)) if row[c] > -np.inf]
    return {c: rank for rank, c in enumerate(sorted(found, key=lambda c: (-row[c], c)), start=1)}


def min_max_by_loop(row: np.ndarray) -> dict[int, float]:
    found = {c: float(row[c]) for c in range(len(row)) if row[c] > -np.inf}
    low, high = min(found.values(), default=0.0), max(found.values(), default=0.0)
    return {c: (score - low) / max(high - low, 1e-9) for c, score in found.items()}


COMBINED = {
    "sum": sum,
    "max": max,
    "min": min,
    "med": np.median,
    "anz": np.mean,
    "mnz": lambda parts: sum(parts) * len(parts),
    "isr": lambda parts: sum(parts) * len(parts),
    "log_isr": lambda parts: sum(parts) * np.log(len(parts)),
    "logn_isr": lambda parts: sum(parts) * np.log(len(parts) + 0.01),
}


def fused_by_loop(name: str, scores: dict[str, np.ndarray]) -> np.ndarray:
    fused = np.zeros(scores["dense"].shape)
    for q in range(len(fused)):
        if name.endswith("isr"):
            of_heads = [{c: 1 / rank**2 for c, rank in ranks_by_loop(s[q]).items()} for s in scores.values()]
        else:
            of_heads = [min_max_by_loop(s[q]) for s in scores.values()]
        for c in set().union(*of_heads):
            fused[q, c] = COMBINED[name]([of_head[c] for of_head in of_heads if c in of_head])
    return fused


@pytest.mark.parametrize("seed", range(3))
def test_rrf_of_the_library_equals_ours(seed):
    scores = rankings_of(seed)
    np.testing.assert_allclose(library_fusion("rrf", scores), reciprocal_rank(scores), rtol=1e-6)


@pytest.mark.parametrize("name", COMBINED)
def test_the_librarys_fusions_equal_loops(name):
    scores = rankings_of(7)
    np.testing.assert_allclose(library_fusion(name, scores), fused_by_loop(name, scores), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_gives_numbers_the_same_whatever_the_order_of_the_heads(name):
    scores = {head: np.round(values) for head, values in rankings_of(3).items()}  # with ties
    fused = library_fusion(name, scores)
    assert (fused.dtype, fused.shape) == (np.float32, (6, 15))
    assert np.isfinite(fused).all()
    assert fused.tobytes() == library_fusion(name, {head: scores[head] for head in reversed(NAMES)}).tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_ties_rank_by_place_in_the_library_too(seed):
    rng = np.random.default_rng(seed)
    scores = {name: random_scores(rng, (4, 40)) for name in NAMES}
    np.testing.assert_allclose(library_fusion("rrf", scores), reciprocal_rank(scores), rtol=1e-6)
    np.testing.assert_allclose(library_fusion("isr", scores), fused_by_loop("isr", scores), rtol=1e-5)


def test_one_ranking_is_not_fused_and_none_gives_nothing():
    nothing, dense = np.full((2, 3), -np.inf), np.array([[0.5, 0.25, -np.inf], [0.0, 1.0, 2.0]])
    assert library_fusion("isr", {"dense": dense, "sparse": nothing}).tolist() == [[0.5, 0.25, 0], [0, 1, 2]]
    assert library_fusion("isr", {"dense": nothing, "sparse": nothing}).tolist() == np.zeros((2, 3)).tolist()
    assert library_fusion("isr", {"dense": np.zeros((0, 3)), "sparse": np.zeros((0, 3))}).shape == (0, 3)


def test_the_compiler_is_left_as_it_was():
    from numba import config

    before = config.DISABLE_JIT
    library_fusion("max", rankings_of(0))
    assert before == config.DISABLE_JIT


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["isr", "log_irs"], r'eval\.fusions: "log_irs": use any of anz, .*; did you mean "log_isr"\?'),
        (["condorcet"], r'eval\.fusions: "condorcet": use any of anz, '),
        (["rrf"], r"eval\.fusions: rrf is always measured, as hybrid_rrf; leave it out"),
        (["isr", "isr"], r"eval\.fusions: isr is named twice; name each fusion once"),
    ],
)
def test_a_fusion_that_cannot_be_computed_is_refused(names, message):
    with pytest.raises(UserError, match=f"^{message}"):
        check_fusions(names)


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    check_fusions(FUSIONS)
    message = r'^eval\.fusions: isr: the package ranx .*; install it with: pip install "bgetune\[fusion\]"$'
    for package in ("ranx", "numba"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=message):
            library_fusion("isr", rankings_of(0))
    with pytest.raises(UserError, match=message):
        check_fusions(["isr"])
    check_fusions([])
