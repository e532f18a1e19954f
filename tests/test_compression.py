"""Cheaper vectors: each way equals a plain numpy computation, its bytes are counted right, and edges hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster

from bgetune.config import EvalConfig, JobConfig, Similarity
from bgetune.data import Texts
from bgetune.encoded import Encoded
from bgetune.index.multi_vector import TokenMatrix
from bgetune.index.sparse import SparseMatrix
from bgetune.metrics import per_query
from bgetune.search import as_results, rankings
from bgetune.searched import EncodedSet
from eval.cheaper import dense as dense_module
from eval.cheaper import multi_vector as multi_vector_module
from eval.cheaper.dense import bits, dense, fewer
from eval.cheaper.int8 import Int8
from eval.cheaper.measure import Measured
from eval.cheaper.multi_vector import multi_vector
from eval.cheaper.pooling import cut, means, pooled_lengths, ward
from eval.cheaper.sparse import in_int8, largest, sparse
from eval.compression import compression
from eval.sets import EvalSet

N, Q, D, M, VOCABULARY = 60, 7, 20, 16, 40
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "dot", "euclidean")


def job(depth: int = 100) -> JobConfig:
    return replace(JobConfig(), eval=EvalConfig(depth=depth, compression=True))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def sparse_rows(rng: np.random.Generator, lengths: list[int]) -> SparseMatrix:
    ids = [np.sort(rng.choice(VOCABULARY, length, replace=False)) for length in lengths]
    weights = (rng.random(sum(lengths)) + 0.01).astype(np.float32)
    return SparseMatrix(np.cumsum([0, *lengths]), np.concatenate(ids).astype(np.int32), weights, VOCABULARY)


def token_rows(rng: np.random.Generator, lengths: list[int]) -> TokenMatrix:
    vectors = unit(rng.normal(size=(sum(lengths), M)))
    return TokenMatrix(vectors.astype(np.float16), np.cumsum([0, *lengths]))


def encoded(seed: int, lengths: list[int]) -> Encoded:
    """Texts with so many tokens; each has half as many sparse weights."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(lengths), D)).astype(np.float32)
    return Encoded(vectors, sparse_rows(rng, [n // 2 for n in lengths]), token_rows(rng, lengths))


# a passage without tokens, one with one and, halved, some without sparse weights
PASSAGES = encoded(0, [0, 1, *(2 + i % 70 for i in range(N - 2))])
QUESTIONS = encoded(1, [0, 1, *(3 + i for i in range(Q - 2))])


def named(found: list[Measured], kind: str, setting: str | None = None) -> Measured:
    fitting = [each for each in found if each.kind == kind and setting in (None, each.setting)]
    assert len(fitting) == 1, (kind, setting)
    return fitting[0]


def score(questions: np.ndarray, passages: np.ndarray, similarity: Similarity) -> np.ndarray:
    """[Q, N]; vectors are of length 1 already under cosine."""
    if similarity == "euclidean":
        return -np.linalg.norm(questions[:, None] - passages[None], axis=2)
    return questions @ passages.T


def assert_ranks(found: Measured, scores: np.ndarray, atol: float = 1e-4) -> None:
    """The ranking has these scores [Q, N], best first, equal ones by row."""
    order = np.lexsort((np.broadcast_to(np.arange(scores.shape[1]), scores.shape), -scores), axis=1)
    got, rows = found.ranking
    np.testing.assert_allclose(got, np.take_along_axis(scores, order, axis=1)[:, : got.shape[1]], atol=atol)
    np.testing.assert_allclose(np.take_along_axis(scores, rows, axis=1), got, atol=atol)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_dense_ways_equal_numpy(similarity: Similarity) -> None:
    found = dense(PASSAGES, QUESTIONS, similarity, job(), "")
    scaled: Callable[[np.ndarray], np.ndarray] = unit if similarity == "cosine" else lambda rows: rows

    def int8(rows: np.ndarray) -> np.ndarray:
        low, span = rows.min(axis=0), np.ptp(rows, axis=0)
        return low + (np.clip(np.floor((rows - low) / span * 255), 0, 255) + 0.5) / 255 * span

    p, q = PASSAGES.vectors, QUESTIONS.vectors
    whole = scaled(q), scaled(p)
    assert_ranks(named(found, "uncompressed"), score(*whole, similarity))
    for d in (15, 10, 5, 2):
        expected = score(scaled(q[:, :d]), scaled(p[:, :d]), similarity)
        assert_ranks(named(found, "dimensions", f"{d} of 20"), expected)
    half = scaled(p).astype(np.float16).astype(np.float32)
    assert_ranks(named(found, "fp16"), score(whole[0], half, similarity), atol=1e-3)
    assert_ranks(named(found, "int8"), score(whole[0], int8(whole[1]), similarity), atol=2e-2)
    narrow = score(scaled(q[:, :10]), int8(scaled(p[:, :10])), similarity)
    assert_ranks(named(found, "dimensions + int8"), narrow, atol=2e-2)


def test_dense_bytes() -> None:
    found = dense(PASSAGES, QUESTIONS, "cosine", job(), "")
    assert [(each.kind, each.bytes) for each in found] == [
        ("uncompressed", 80),
        *(("dimensions", 4 * d) for d in (15, 10, 5, 2)),
        ("fp16", 40),
        ("int8", 20),
        ("dimensions + int8", 10),
        ("binary", 3),  # 20 bits
        ("binary + re-scoring", 3),
        ("binary + re-scoring", 23),
    ]
    assert all(each.ms > 0 for each in found)


def test_binary_is_hamming_and_re_scoring_orders_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_module, "RESCORED", 9)
    found = dense(PASSAGES, QUESTIONS, "cosine", job(), "")
    p, q = PASSAGES.vectors, QUESTIONS.vectors
    hamming = ((q > 0)[:, None] != (p > 0)[None]).sum(axis=2)
    plain = named(found, "binary")
    np.testing.assert_array_equal(plain.ranking[0], -np.sort(hamming, axis=1))
    order = np.lexsort((np.broadcast_to(np.arange(N), hamming.shape), hamming), axis=1)
    np.testing.assert_array_equal(plain.ranking[1], order)
    for by, asked, kept in (("by the bits", q, np.where(p > 0, 1.0, -1.0)), ("by int8", unit(q), unit(p))):
        scores, rows = named(found, "binary + re-scoring", f"best 9 {by}").ranking
        expected = asked @ kept.T
        np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), atol=2e-2)
        assert (np.diff(scores, axis=1) <= 0).all()
        for i in range(Q):
            assert len(set(rows[i])) == 9
            assert hamming[i, rows[i]].max() <= np.sort(hamming[i])[8]  # nothing nearer was left out


def test_bits_are_padded_alike() -> None:
    assert bits(np.ones((2, 9))).tolist() == [[255, 128]] * 2
    assert fewer(1) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_int8_loses_nothing_on_its_grid(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    codec = Int8(np.stack([-rng.random(width) - 0.1, rng.random(width)]))
    codes = rng.integers(0, 256, (30, width), dtype=np.uint8)
    grid = codec.decode(codes)
    np.testing.assert_array_equal(codec.encode(grid), codes)
    np.testing.assert_array_equal(codec.decode(codec.encode(grid)), grid)


def test_int8_is_within_half_a_step_clips_and_takes_a_constant_and_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    codec = Int8.fit(rows, seed=0)
    back = codec.decode(codec.encode(rows))
    assert (np.abs(back - rows) <= np.ptp(rows, axis=0) / 255 * 0.51).all()
    np.testing.assert_array_equal(codec.encode(np.full((1, 3), 99.0)), [[255] * 3])
    same = Int8(np.ones((4, 1), dtype=np.float32))
    np.testing.assert_allclose(same.decode(same.encode(np.ones((2, 1)))), 1, atol=1e-6)
    assert codec.decode(codec.encode(np.zeros((0, 3)))).shape == (0, 3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 12))
def test_largest_weights_equal_the_loop(seed: int, lengths: list[int], k: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = sparse_rows(rng, lengths)
    matrix = replace(matrix, weights=np.ceil(matrix.weights * 3).astype(np.float32))  # with ties
    kept = largest(matrix, k)
    for i in range(len(lengths)):
        low, high = matrix.indptr[i : i + 2]
        pairs = sorted(zip(-matrix.weights[low:high], matrix.ids[low:high], strict=True))[:k]
        low, high = kept.indptr[i : i + 2]
        assert sorted((id_, -weight) for weight, id_ in pairs) == list(
            zip(kept.ids[low:high], kept.weights[low:high], strict=True)
        )


def test_sparse_ways_equal_numpy_and_their_bytes() -> None:
    found = sparse(PASSAGES, QUESTIONS, job(), "")
    assert PASSAGES.sparse is not None
    assert QUESTIONS.sparse is not None
    # the longest has 29 weights, so 64 and 32 would cut nothing
    assert [each.setting for each in found] == ["all weights", "16 a passage", "8 a passage", ""]
    lengths = np.diff(PASSAGES.sparse.indptr)
    kept = {16: named(found, "top weights", "16 a passage"), 8: named(found, "top weights", "8 a passage")}
    cases = [(named(found, "uncompressed"), PASSAGES.sparse, 8 * lengths.mean())]
    cases += [(each, largest(PASSAGES.sparse, k), 8 * np.minimum(lengths, k).mean()) for k, each in kept.items()]
    cases += [(named(found, "int8"), in_int8(PASSAGES.sparse, 0), 5 * lengths.mean())]
    for each, matrix, size in cases:
        assert each.bytes == pytest.approx(size)
        expected = QUESTIONS.sparse.to_scipy().toarray() @ matrix.to_scipy().toarray().T
        scores, rows = each.ranking
        there = rows >= 0
        np.testing.assert_array_equal(there.sum(axis=1), (expected > 0).sum(axis=1))
        taken = np.take_along_axis(expected, np.maximum(rows, 0), axis=1)
        np.testing.assert_allclose(scores[there], taken[there], rtol=1e-5)
    np.testing.assert_allclose(in_int8(PASSAGES.sparse, 0).weights, PASSAGES.sparse.weights, atol=0.003)


def test_sparse_without_any_weight() -> None:
    empty = Encoded(sparse=sparse_rows(np.random.default_rng(0), [0, 0]))
    found = sparse(empty, QUESTIONS, job(), "")
    assert [(each.kind, each.bytes) for each in found] == [("uncompressed", 0)]
    assert (found[0].ranking[1] == -1).all()


def partition(clusters: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(clusters == number).tolist()) for number in np.unique(clusters)}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.data())
def test_clusters_equal_scipys(seed: int, tokens: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, tokens))
    vectors = unit(np.random.default_rng(seed).normal(size=(tokens, 6)))
    tree = ward(vectors)
    clusters = cut(tree, k)
    assert partition(clusters) == partition(fcluster(tree, k, "maxclust"))
    expected = np.stack([vectors[clusters == i].mean(axis=0) for i in range(k)])
    np.testing.assert_allclose(means(vectors, clusters, k), unit(expected), atol=1e-5)


def test_pooling_of_equal_tokens_keeps_their_number_and_length() -> None:
    vectors = np.full((6, 4), 3.0, dtype=np.float32)  # of length 6
    clusters = cut(ward(vectors), 3)
    assert sorted(np.unique(clusters)) == [0, 1, 2]  # fcluster would put all into one
    np.testing.assert_allclose(means(vectors, clusters, 3), np.full((3, 4), 3.0), rtol=1e-6)
    assert cut(ward(vectors[:1]), 1).tolist() == [0]
    assert pooled_lengths(np.array([0, 1, 2, 7, 8]), 3).tolist() == [0, 1, 1, 2, 2]


def max_sim(question: np.ndarray, passage: np.ndarray) -> float:
    return float((question @ passage.T).max(axis=1).mean()) if len(question) and len(passage) else 0.0


def texts_of(matrix: TokenMatrix) -> list[np.ndarray]:
    return [np.float32(matrix.vectors[low:high]) for low, high in zip(matrix.offsets, matrix.offsets[1:], strict=False)]


def pooled(vectors: np.ndarray, factor: int) -> np.ndarray:
    k = max(len(vectors) // factor, 1)
    if len(vectors) <= 1:
        return vectors
    clusters = fcluster(ward(vectors), k, "maxclust")
    return unit(np.stack([vectors[clusters == i].mean(axis=0) for i in np.unique(clusters)]))


EVERY = np.tile(np.arange(N), (Q, 1))


@pytest.mark.parametrize("block", [1, 500, 2**26])
def test_token_ways_equal_numpy(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(multi_vector_module, "_BLOCK", block)
    found = multi_vector(PASSAGES, QUESTIONS, EVERY, job(), "")
    assert PASSAGES.multi_vector is not None
    assert QUESTIONS.multi_vector is not None
    passages, questions = texts_of(PASSAGES.multi_vector), texts_of(QUESTIONS.multi_vector)
    ways: dict[tuple[str, str | None], tuple[Callable, Callable]] = {
        ("uncompressed", None): (lambda v: v, lambda v: v),
        ("int8", None): (lambda v: v, lambda v: v),
        **{("pooling", f"{f} to 1"): (lambda v, f=f: pooled(v, f), lambda v: v) for f in (2, 3, 4)},
        **{("dimensions", f"{d} of 16"): ((lambda v, d=d: unit(v[:, :d])),) * 2 for d in (8, 4)},
    }
    assert len(found) == len(ways)
    for (kind, setting), (of_passage, of_question) in ways.items():
        kept = [of_passage(each) for each in passages]
        expected = np.array([[max_sim(of_question(q), p) for p in kept] for q in questions])
        assert_ranks(named(found, kind, setting), expected, atol=1e-2 if kind == "int8" else 2e-3)


@pytest.mark.filterwarnings("error")
def test_vectors_that_are_mapped_read_only(tmp_path: Path) -> None:
    def mapped(found: Encoded, name: str) -> Encoded:
        assert found.multi_vector is not None
        np.save(tmp_path / f"{name}_tokens.npy", found.multi_vector.vectors[:])
        np.save(tmp_path / f"{name}.npy", found.vectors)
        tokens = TokenMatrix(np.load(tmp_path / f"{name}_tokens.npy", mmap_mode="r"), found.multi_vector.offsets)
        return Encoded(np.load(tmp_path / f"{name}.npy", mmap_mode="r"), found.sparse, tokens)

    in_memory = compression(EncodedSet(PASSAGES, QUESTIONS, "cosine"), eval_set(), job(), "base")
    files = EncodedSet(mapped(PASSAGES, "passages"), mapped(QUESTIONS, "questions"), "cosine")
    rows = compression(files, eval_set(), job(), "base")
    assert [{**row, "ms": 0} for row in rows] == [{**row, "ms": 0} for row in in_memory]


def test_token_bytes_and_candidates() -> None:
    rows = np.array([[3, 5, -1], [1, 5, 9], *[[2, 7, -1]] * (Q - 2)])
    found = multi_vector(PASSAGES, QUESTIONS, rows, job(), "")
    assert PASSAGES.multi_vector is not None
    lengths = np.diff(PASSAGES.multi_vector.offsets)
    sizes = {"uncompressed": 2 * M * lengths.mean(), "int8": M * lengths.mean()}
    assert {kind: named(found, kind).bytes for kind in sizes} == pytest.approx(sizes)
    half = named(found, "pooling", "2 to 1")
    assert half.bytes == pytest.approx(2 * M * np.mean([max(n // 2, 1) if n else 0 for n in lengths]))
    assert named(found, "dimensions", "4 of 16").bytes == pytest.approx(2 * 4 * lengths.mean())
    for each in found:
        for i in range(Q):
            assert sorted(each.ranking[1][i]) == sorted(rows[i])
        assert each.ranking[1][0, -1] == -1
        assert each.ms > 0


def test_tokens_that_no_passage_has() -> None:
    empty = Encoded(multi_vector=token_rows(np.random.default_rng(0), [0, 0]))
    found = multi_vector(empty, QUESTIONS, np.tile([0, 1], (Q, 1)), job(), "")
    assert {each.bytes for each in found} == {0.0}
    assert (found[0].ranking[0] == 0).all()


def eval_set(queries: int = Q) -> EvalSet:
    query_ids, passage_ids = [f"q{i}" for i in range(queries)], [f"d{i}" for i in range(N)]
    qrels = {query_id: {f"d{(7 * i + j) % N}": 1 + j for j in range(3)} for i, query_id in enumerate(query_ids)}
    texts = Texts(query_ids, query_ids), Texts(passage_ids, passage_ids)
    return EvalSet("domain", "domain", *texts, qrels, "")


def test_rows_of_the_report() -> None:
    test, whole = eval_set(), EncodedSet(PASSAGES, QUESTIONS, "cosine")
    rows = compression(whole, test, job(), "tuned")
    keys = {"set", "system", "head", "kind", "setting", "bytes", "value", "share_kept", "ms"}
    assert all(set(row) == keys and (row["set"], row["system"]) == ("domain", "tuned") for row in rows)
    numbers = [row[key] for row in rows for key in ("bytes", "value", "share_kept", "ms")]
    assert all(isinstance(number, float) and math.isfinite(number) for number in numbers)
    assert len({(row["head"], row["kind"], row["setting"]) for row in rows}) == len(rows)
    found = rankings(whole, job(), ["dense", "sparse", "multi_vector"], "")
    firsts = {row["head"]: row for row in reversed(rows)}
    assert list(dict.fromkeys(row["head"] for row in rows)) == list(found)
    for head, (scores, at) in found.items():
        assert (firsts[head]["kind"], firsts[head]["share_kept"]) == ("uncompressed", 1.0)
        results = as_results(test.queries.ids, test.corpus.ids, scores, at)
        assert firsts[head]["value"] == pytest.approx(per_query(test.qrels, results)["ndcg@10"].mean())
        best = firsts[head]["value"]
        assert all(row["share_kept"] == (row["value"] / best if best else 1) for row in rows if row["head"] == head)
        assert all(row["bytes"] <= firsts[head]["bytes"] for row in rows if row["head"] == head)
    again = compression(whole, test, job(), "tuned")
    assert [{**row, "ms": 0} for row in again] == [{**row, "ms": 0} for row in rows]


def test_one_query_of_a_model_with_one_head() -> None:
    whole = EncodedSet(Encoded(PASSAGES.vectors), Encoded(QUESTIONS.vectors[:1]), "dot")
    test = replace(eval_set(1), qrels={"q0": {"elsewhere": 1}})
    rows = compression(whole, test, job(), "base")
    assert {row["head"] for row in rows} == {"dense"}
    # nothing was found, so nothing was lost
    assert {(row["value"], row["share_kept"]) for row in rows} == {(0.0, 1.0)}


def test_vectors_that_make_it_easy_lose_nothing_and_few_bits_lose() -> None:
    """Passages are well apart in every share of the dimensions, and questions are noisy copies of them."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, 64)).astype(np.float32)
    asked = vectors[[7 * i % N for i in range(20)]] + rng.normal(0, 0.6, (20, 64)).astype(np.float32)
    test = replace(eval_set(20), qrels={f"q{i}": {f"d{7 * i % N}": 1} for i in range(20)})
    rows = compression(EncodedSet(Encoded(vectors), Encoded(asked), "cosine"), test, job(), "base")
    value = {(row["kind"], row["setting"]): row["value"] for row in rows}
    assert value["int8", ""] == value["fp16", ""] == value["uncompressed", "64 × float32"] == 1
    kept = [value["dimensions", f"{d} of 64"] for d in (48, 32, 16, 8)]
    assert kept[0] == 1
    assert kept[-1] < min(kept[:2])
    assert value["binary + re-scoring", "best 40 by int8"] == 1
