"""Sparse and multi-vector indexes: equal to plain loops, with ties, empty texts and blocks forced small."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.index import multi_vector, sparse
from bgetune.index.multi_vector import MultiVectorIndex, TokenMatrix
from bgetune.index.sparse import SparseIndex, SparseMatrix

# Weights and vectors of a few halves: sums are exact in float32, so scores tie often and can be compared with ==.
HALVES = np.array([0.5, 1.0, 1.5, 2.0])
shapes = st.tuples(st.integers(0, 6), st.integers(0, 25), st.integers(1, 9), st.integers(0, 2**32 - 1))


@pytest.mark.parametrize("module", [sparse, multi_vector])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def sparse_matrix(rng: np.random.Generator, size: int, width: int, exact: bool = True) -> SparseMatrix:
    ids = [np.flatnonzero(rng.random(width) < rng.choice([0.0, 0.2, 0.6])) for _ in range(size)]
    total = sum(map(len, ids))
    weights = rng.choice(HALVES, total) if exact else rng.random(total) + 0.01
    indptr = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    flat = np.concatenate([*ids, np.zeros(0)]).astype(np.int32)
    return SparseMatrix(indptr, flat, weights.astype(np.float32), width)


def as_dicts(matrix: SparseMatrix) -> list[dict[int, float]]:
    return [
        dict(zip(matrix.ids[low:high].tolist(), matrix.weights[low:high].tolist(), strict=True))
        for low, high in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    ]


def plain_sparse(queries: SparseMatrix, passages: SparseMatrix) -> list[list[float | None]]:
    """[Q, N]; None where nothing is shared."""
    found: list[list[float | None]] = []
    for query in as_dicts(queries):
        found.append([])
        for passage in as_dicts(passages):
            shared = query.keys() & passage.keys()
            found[-1].append(sum(query[i] * passage[i] for i in shared) if shared else None)
    return found


def token_matrix(rng: np.random.Generator, size: int, width: int, exact: bool = True) -> TokenMatrix:
    lengths = rng.integers(0, 4, size)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    shape = (int(offsets[-1]), width)
    vectors = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], shape) if exact else rng.standard_normal(shape)
    return TokenMatrix(vectors.astype(np.float16 if exact else np.float32), offsets)


def plain_maxsim(query: np.ndarray, passage: np.ndarray) -> float:
    if len(query) == 0 or len(passage) == 0:
        return 0.0
    return sum(max(float(q @ p) for p in passage) for q in query.astype(float)) / len(query)


def plain_multi(queries: TokenMatrix, passages: TokenMatrix) -> list[list[float]]:
    return [[plain_maxsim(q, p) for p in texts(passages)] for q in texts(queries)]


def texts(matrix: TokenMatrix) -> list[np.ndarray]:
    return np.split(matrix.vectors, matrix.offsets[1:-1]) if len(matrix) else []


def ranked(scores: list[float | None], depth: int) -> tuple[list[float], list[int]]:
    """Scores and rows of the best, filled up with row -1."""
    found = sorted((-score, row) for row, score in enumerate(scores) if score is not None)[:depth]
    gap = min(depth, len(scores)) - len(found)
    return [-score for score, _ in found] + [0.0] * gap, [row for _, row in found] + [-1] * gap


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 30), st.sampled_from([1, 7, 2**24]))
def test_sparse_search_equals_loops(shape, depth, block):
    queries_n, passages_n, width, seed = shape
    rng = np.random.default_rng(seed)
    queries, passages = sparse_matrix(rng, queries_n, width), sparse_matrix(rng, passages_n, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_BLOCK_SCORES", block)
        scores, rows = SparseIndex.build(passages).search(queries, depth)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    assert scores.shape == rows.shape == (queries_n, min(depth, passages_n))
    expected = [ranked(each, depth) for each in plain_sparse(queries, passages)]
    assert [(s.tolist(), r.tolist()) for s, r in zip(scores, rows, strict=True)] == expected


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_sparse_scores_of_equals_loops(shape):
    queries_n, passages_n, width, seed = shape
    rng = np.random.default_rng(seed)
    queries, passages = sparse_matrix(rng, queries_n, width), sparse_matrix(rng, passages_n, width)
    rows = rng.integers(-1, passages_n, (queries_n, 5))  # some twice
    plain = plain_sparse(queries, passages)
    expected = [[(plain[q][row] or 0.0) if row >= 0 else 0.0 for row in each] for q, each in enumerate(rows)]
    scores = SparseIndex.build(passages).scores_of(queries, rows)
    assert scores.dtype == np.float32
    assert scores.tolist() == expected


def test_sparse_scores_of_has_the_bits_of_search_on_any_weights():
    rng = np.random.default_rng(0)
    queries, passages = sparse_matrix(rng, 20, 300, exact=False), sparse_matrix(rng, 200, 300, exact=False)
    index = SparseIndex.build(passages)
    scores, rows = index.search(queries, 50)
    assert index.scores_of(queries, rows).tobytes() == scores.tobytes()
    for q, p in ((1, 0), (7, 3)):
        plain = plain_sparse(queries, passages)[q][rows[q, p]] if rows[q, p] >= 0 else 0.0
        assert scores[q, p] == pytest.approx(plain, rel=1e-5)


def test_sparse_ties_across_the_cut_go_to_the_lowest_rows():
    same = SparseMatrix(np.arange(51), np.zeros(50, np.int32), np.ones(50, np.float32), width=3)
    one = SparseMatrix(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1, np.float32), width=3)
    assert SparseIndex.build(same).search(one, 4)[1].tolist() == [[0, 1, 2, 3]]


def test_to_scipy_keeps_ids_narrow():
    assert sparse_matrix(np.random.default_rng(0), 5, 8).to_scipy().indices.dtype == np.int32


@pytest.fixture
def small_blocks(monkeypatch):
    for name, value in (("_QUERY_TOKENS", 5), ("_PASSAGE_TOKENS", 4), ("_SIMILARITIES", 7), ("_PASSAGES", 3)):
        monkeypatch.setattr(multi_vector, name, value)


def check_multi_vector(shape: tuple[int, int, int, int], depth: int) -> None:
    queries_n, passages_n, width, seed = shape
    rng = np.random.default_rng(seed)
    queries, passages = token_matrix(rng, queries_n, width), token_matrix(rng, passages_n, width)
    plain = plain_multi(queries, passages)
    plain = [[float(np.float32(score)) for score in each] for each in plain]  # a third is not exact
    index = MultiVectorIndex(passages)

    scores, rows = index.search(queries, depth)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    assert scores.shape == rows.shape == (queries_n, min(depth, passages_n))
    expected = [ranked(each, depth) for each in plain]
    assert [(s.tolist(), r.tolist()) for s, r in zip(scores, rows, strict=True)] == expected

    asked = rng.integers(-1, passages_n, (queries_n, 6))  # some twice
    again = index.rerank(queries, asked)
    assert again.dtype == np.float32
    expected = [[plain[q][row] if row >= 0 else -np.inf for row in each] for q, each in enumerate(asked)]
    assert again.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 30))
def test_multi_vector_equals_loops(shape, depth):
    check_multi_vector(shape, depth)


def test_multi_vector_equals_loops_in_small_blocks(small_blocks):
    for seed in range(40):
        check_multi_vector((seed % 7, 3 * seed % 26, 1 + seed % 9, seed), depth=seed)


def test_multi_vector_on_any_vectors_from_a_mapped_file(tmp_path):
    rng = np.random.default_rng(0)
    queries, passages = token_matrix(rng, 12, 64, exact=False), token_matrix(rng, 70, 64, exact=False)
    path = tmp_path / "vectors.bin"
    passages.vectors.tofile(path)
    mapped = np.memmap(path, np.float32, "r", shape=passages.vectors.shape)
    index = MultiVectorIndex(TokenMatrix(mapped, passages.offsets))
    plain = np.array(plain_multi(queries, passages))
    scores, rows = index.search(queries, 70)
    np.testing.assert_allclose(scores, np.take_along_axis(plain, rows, axis=1), atol=1e-5)
    np.testing.assert_allclose(scores, -np.sort(-plain, axis=1), atol=1e-5)
    np.testing.assert_allclose(index.rerank(queries, rows), scores, atol=1e-5)
    first, second = index.search(queries, 9), index.search(queries, 9)
    assert [x.tobytes() for x in first] == [x.tobytes() for x in second]


def test_the_bar_is_shown_for_long_work_only(capsys, monkeypatch):
    rng = np.random.default_rng(0)
    queries, passages = token_matrix(rng, 4, 8), token_matrix(rng, 10, 8)
    index = MultiVectorIndex(passages)
    index.rerank(queries, index.search(queries, 3, "short")[1], "short")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(multi_vector, "_BAR_FROM", 0)
    rows = index.search(queries, 3, "dev search")[1]
    index.rerank(queries, rows, "dev re-ranking")
    shown = capsys.readouterr().err
    assert "dev search: 100%" in shown
    assert "40.0/40.0" in shown or "40/40" in shown
    assert "dev re-ranking: 100%" in shown
    assert "12/12" in shown


def test_workers_have_a_thread_each_and_torch_gets_its_own_back():
    before = torch.get_num_threads()

    def work() -> None:
        with multi_vector._pool() as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert torch.get_num_threads() == before
