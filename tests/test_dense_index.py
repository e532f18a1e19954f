"""Dense indexes: exact where they say so, the same bytes twice, one line for a mistake."""

from __future__ import annotations

import logging

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.errors import UserError
from bgetune.index import dense
from bgetune.index.choose import bytes_per_vector, choose, estimated_seconds
from bgetune.index.dense import DenseIndex, sample_rows
from bgetune.index.exact import exact_search, pair_scores, rescored
from bgetune.index.tune import recall, tune

KINDS = ["Flat", "IVF16,Flat", "HNSW16", "IVF16,PQ8x4fs", "PCA8,Flat", "SQ8"]


def clustered(count: int, seed: int = 0, width: int = 16) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(20, width))
    return (centres[draw.integers(0, 20, count)] + draw.normal(size=(count, width))).astype(np.float32)


VECTORS, QUERIES = clustered(2000), clustered(40, seed=1)


def naive(queries: np.ndarray, vectors: np.ndarray, similarity: str, depth: int) -> tuple[np.ndarray, np.ndarray]:
    q, v = queries.astype(np.float64), vectors.astype(np.float64)
    if similarity == "euclidean":
        scores = -np.linalg.norm(q[:, None] - v[None], axis=2)
    else:
        scores = q @ v.T
        if similarity == "cosine":
            scores /= np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(v, axis=1)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_flat_and_blockwise_search_equal_the_double_loop(similarity, dtype, monkeypatch, tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS.astype(dtype))
    vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    scores, rows = naive(QUERIES, vectors, similarity, 10)
    for module in ("bgetune.index.dense", "bgetune.index.exact"):
        monkeypatch.setattr(f"{module}.ROWS_AT_ONCE", 300)
    monkeypatch.setattr(dense, "_QUERIES_AT_ONCE", 30)
    index = DenseIndex.build(vectors, similarity)
    for found, at in (index.search(QUERIES, 10), exact_search(QUERIES, vectors, similarity, 10)):
        assert (found.dtype, at.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(at, rows)
        np.testing.assert_allclose(found, scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("factory", KINDS)
def test_scores_of_any_index_are_exact(factory, similarity):
    """Filters compare them with the positive's score; what codes say would shift them."""
    scores, rows = DenseIndex.build(VECTORS, similarity, factory).search(QUERIES, 10)
    places = rows >= 0
    assert places.mean() > 0.5
    np.testing.assert_allclose(scores[places], pair_scores(QUERIES, VECTORS, rows, similarity)[places], atol=2e-3)
    assert (np.diff(np.nan_to_num(scores, neginf=-1e9), axis=1) <= 0).all()
    assert np.isneginf(scores[~places]).all()


def test_equal_scores_come_by_row_and_empty_places_last():
    vectors = np.tile(np.eye(2, dtype=np.float32), (4, 1))
    scores, rows = DenseIndex.build(vectors, "dot").search(np.array([[1.0, 0.0]]), 20)
    assert rows.tolist() == [[0, 2, 4, 6, 1, 3, 5, 7]]
    scores, rows = DenseIndex.build(np.repeat(vectors, 20, axis=0), "dot", "IVF2,Flat").search(np.eye(1, 2), 100)
    assert (rows[0, :80] >= 0).all()
    assert (rows[0, 80:] == -1).all()
    assert np.isneginf(scores[0, 80:]).all()


def test_nothing_to_find():
    scores, rows = DenseIndex.build(np.zeros((0, 4), np.float16), "cosine").search(np.eye(4), 5)
    assert scores.shape == rows.shape == (4, 0)
    scores, rows = DenseIndex.build(VECTORS, "dot").search(np.zeros((0, 16), np.float32), 5)
    assert scores.shape == rows.shape == (0, 5)


@pytest.mark.parametrize("factory", KINDS[1:])
def test_built_twice_gives_the_same_bytes_with_any_number_of_threads(factory):
    before = faiss.omp_get_max_threads()
    made = set()
    try:
        for threads in (1, 2, 2, 4):
            faiss.omp_set_num_threads(threads)
            made.add(faiss.serialize_index(DenseIndex.build(VECTORS, "cosine", factory, seed=3).faiss_index).tobytes())
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert len(made) == 1


def test_the_seed_decides_the_training(monkeypatch):
    monkeypatch.setattr(dense, "_TRAINING_PER_CENTROID", 4)
    made = [faiss.serialize_index(DenseIndex.build(VECTORS, "dot", "IVF8,Flat", seed=s).faiss_index) for s in (0, 1)]
    assert made[0].tobytes() != made[1].tobytes()


@given(st.integers(0, 200), st.integers(0, 250), st.integers(0, 3))
def test_sample_is_ascending_without_repetition(total, count, seed):
    rows = sample_rows(total, count, seed)
    assert len(rows) == min(total, count)
    assert (np.diff(rows) > 0).all()
    assert ((rows >= 0) & (rows < total)).all()
    np.testing.assert_array_equal(rows, sample_rows(total, count, seed))


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("Nonsense", "could not parse index string Nonsense"),
        ("IVF4000,Flat", r"training points \(2000\) should be at least as large as number of clusters \(4000\)"),
        ("PQ5", "dimension of the vector .* multiple of the number of subquantizers"),
    ],
)  # fmt: skip
def test_what_faiss_refuses_is_one_line_with_the_option(factory, reason):
    with pytest.raises(
        UserError, match=f"^mine.index: FAISS cannot build '{factory}' over 2000 vectors: .*{reason}"
    ) as e:
        DenseIndex.build(VECTORS, "cosine", factory, option="mine.index")
    assert "\n" not in str(e.value)
    assert ".cpp" not in str(e.value)


def test_few_vectors_a_list_are_told_once(caplog, capfd):
    DenseIndex.build(VECTORS, "cosine", "IVF128,Flat", option="mine.index")
    assert "mine.index: 'IVF128,Flat' has 128 lists for 2000 vectors" in caplog.text
    assert capfd.readouterr().err == ""  # FAISS itself is quiet


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 29), min_size=6, max_size=6), min_size=1, max_size=70))
def test_rescored_keeps_the_best_of_the_candidates(rows):
    at = np.array([[r if r not in row[:i] else -1 for i, r in enumerate(row)] for row in rows])
    queries = clustered(len(at), seed=2)
    scores, found = rescored(queries, VECTORS[:30].astype(np.float16), at, "cosine", 3)
    whole = pair_scores(queries, VECTORS[:30].astype(np.float16).astype(np.float32), at, "cosine")
    for i in range(len(at)):
        best = sorted((-whole[i, j], at[i, j]) for j in range(6) if at[i, j] >= 0)[:3]
        assert [r for r in found[i] if r >= 0] == [row for _, row in best]
        np.testing.assert_allclose(scores[i, : len(best)], [-s for s, _ in best], atol=1e-6)


# -- tuning


@pytest.mark.parametrize(("factory", "parameter"), [("IVF16,Flat", "nprobe"), ("HNSW4", "efSearch")])
def test_tuning_stops_at_the_first_value_that_suffices(factory, parameter):
    index = DenseIndex.build(VECTORS, "cosine", factory)
    _, exact = exact_search(QUERIES, VECTORS, "cosine", 10)
    tuned = tune(index, QUERIES, exact, 10, 0.9)
    assert tuned.parameter == parameter
    assert tuned.recall >= 0.9
    assert tuned.milliseconds > 0
    assert recall(index.search(QUERIES, 10)[1], exact) == tuned.recall  # the index keeps it
    if tuned.value > 16 or parameter == "nprobe":
        faiss.ParameterSpace().set_index_parameter(index.faiss_index, parameter, tuned.value // 2)
        assert recall(index.search(QUERIES, 10)[1], exact) < 0.9


def test_all_lists_find_all():
    index = DenseIndex.build(VECTORS, "cosine", "IVF20,Flat")
    tuned = tune(index, QUERIES, exact_search(QUERIES, VECTORS, "cosine", 10)[1], 10, 1.0)
    assert tuned.recall == 1.0
    assert tuned.value <= 20


def test_recall_out_of_reach_is_said(caplog):
    index = DenseIndex.build(VECTORS, "cosine", "IVF16,PQ1x4")
    with caplog.at_level(logging.WARNING, logger="bgetune"):
        tuned = tune(index, QUERIES, exact_search(QUERIES, VECTORS, "cosine", 10)[1], 10, 0.99)
    assert tuned.recall < 0.99
    assert "mine.index_recall: 0.990 of exact search's 10 nearest were wanted, the index finds" in caplog.text
    assert recall(index.search(QUERIES, 10)[1], exact_search(QUERIES, VECTORS, "cosine", 10)[1]) == tuned.recall


def test_codes_that_mistake_neighbours_are_asked_for_more():
    draw = np.random.default_rng(5)
    vectors, queries = draw.normal(size=(4000, 16)).astype(np.float32), draw.normal(size=(40, 16)).astype(np.float32)
    index = DenseIndex.build(vectors, "cosine", "IVF8,PQ8x4fs")
    tuned = tune(index, queries, exact_search(queries, vectors, "cosine", 10)[1], 10, 0.97)
    assert tuned.recall >= 0.97
    assert tuned.wider == index.wider > 4
    flat = DenseIndex.build(vectors, "cosine")
    assert flat.wider == 1


def test_flat_has_nothing_to_tune(caplog):
    tuned = tune(DenseIndex.build(VECTORS, "dot"), QUERIES, exact_search(QUERIES, VECTORS, "dot", 10)[1], 10, 0.99)
    assert (tuned.parameter, tuned.value, tuned.recall) == ("", 0, 1.0)
    assert caplog.text == ""


# -- choosing


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 10**8),
    st.integers(1, 2048),
    st.integers(0, 10**6),
    st.integers(1 << 16, 1 << 36),
    st.sampled_from(["auto", "Flat", "IVF64,PQ8", "HNSW32"]),
)
def test_parts_fit_the_memory_and_cover_the_corpus(rows, width, queries, memory, factory):
    choice = choose(rows, width, queries, memory, factory)
    assert 1 <= choice.rows_per_part <= rows
    assert choice.rows_per_part * bytes_per_vector(choice.factory, width) <= max(memory * 1.001, 2e5) + 1e5
    if factory != "auto":
        assert choice.factory == factory
    lists = choice.factory.startswith("IVF") and factory == "auto"
    if lists:
        assert 64 * int(choice.factory[3:].split(",")[0]) <= choice.rows_per_part


def test_auto_is_exact_until_it_takes_long():
    assert choose(1_000_000, 1024, 10_000, 4 << 30).factory == "Flat"
    assert choose(10_000_000, 1024, 100_000, 4 << 30).factory.endswith("PQ512x4fs")
    assert choose(10_000_000, 1024, 100_000, 4 << 30, device="gpu").factory == "Flat"
    assert estimated_seconds("Flat", 10**7, 1024, 10**5) > 2 * estimated_seconds(
        "IVF2048,PQ512x4fs", 10**7, 1024, 10**5
    )


@pytest.mark.parametrize("factory", ["Flat", "IVF64,Flat", "HNSW32", "IVF64,PQ8x8", "SQ8", "IVF64,PQ16x4fs"])
def test_memory_is_at_least_what_faiss_writes(factory):
    vectors = clustered(4096)
    index = DenseIndex.build(vectors, "dot", factory)
    written = faiss.serialize_index(index.faiss_index).nbytes
    centroids = 4 * 16 * (64 + 256) + 2**15
    assert written - centroids <= bytes_per_vector(factory, 16) * len(vectors) <= 1.8 * written
