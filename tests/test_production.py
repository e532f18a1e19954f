"""What production indexes lose, weigh and take, beside exact search; and a user's mistakes."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from bgetune.config import EvalConfig, JobConfig
from bgetune.data import Texts
from bgetune.encoded import Encoded
from bgetune.errors import UserError
from bgetune.index.dense import DenseIndex
from bgetune.index.multi_vector import TokenMatrix
from bgetune.index.qdrant import connected
from bgetune.index.sparse import SparseMatrix
from bgetune.metrics import Results, per_query
from bgetune.search import EncodedSet, as_results, rankings
from eval import production
from eval.production import measure_indexes
from eval.sets import EvalSet

PASSAGES, QUERIES, WIDTH = 240, 16, 16
TIMES = {"build_s", "p50_ms", "p95_ms"}


def config(*indexes: str) -> JobConfig:
    return JobConfig(eval=EvalConfig(indexes=indexes, candidates=50, bootstrap_samples=200, permutations=200))


def texts_of(rng: np.random.Generator, dense: np.ndarray) -> Encoded:
    size = len(dense)
    ids = np.stack([np.sort(rng.permutation(50)[:4]) for _ in range(size)]).astype(np.int32)
    offsets = np.arange(size + 1) * 2
    return Encoded(
        dense,
        SparseMatrix(np.arange(size + 1) * 4, ids.ravel(), rng.random(4 * size).astype(np.float32) + 0.01, 50),
        TokenMatrix(rng.standard_normal((2 * size, 4)).astype(np.float16), offsets),
    )


@pytest.fixture(scope="module")
def encoded() -> EncodedSet:
    """Query i is near passage i."""
    rng = np.random.default_rng(0)
    passages = rng.standard_normal((PASSAGES, WIDTH)).astype(np.float32)
    queries = passages[:QUERIES] + 0.8 * rng.standard_normal((QUERIES, WIDTH)).astype(np.float32)
    return EncodedSet(texts_of(rng, passages), texts_of(rng, queries), "cosine")


@pytest.fixture(scope="module")
def test_set() -> EvalSet:
    queries = Texts([f"q{i}" for i in range(QUERIES)], [f"query {i}" for i in range(QUERIES)])
    corpus = Texts([f"p{i:03}" for i in range(PASSAGES)], [f"passage {i}" for i in range(PASSAGES)])
    qrels = {f"q{i}": {f"p{i:03}": 1} for i in range(QUERIES)}
    return EvalSet("clinic", "domain", queries, corpus, qrels, "hash")


@pytest.fixture(scope="module")
def exact(encoded: EncodedSet, test_set: EvalSet) -> dict[str, Results]:
    found = rankings(encoded, config(), ["dense", "hybrid"], "test")
    return {name: as_results(test_set.queries.ids, test_set.corpus.ids, *ranking) for name, ranking in found.items()}


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_doctests():
    result = doctest.testmod(production)
    assert result.attempted
    assert not result.failed


def test_flat_loses_nothing_and_is_as_large_as_its_file(
    encoded: EncodedSet, test_set: EvalSet, exact: dict[str, Results], tmp_path: Path
):
    (row,) = measure_indexes(encoded, test_set, exact, config("Flat"), "tuned")
    faiss.write_index(DenseIndex.build(encoded.passages.vectors, "cosine").faiss_index, str(tmp_path / "index"))
    values = per_query(test_set.qrels, exact["dense"], ["ndcg@10"])["ndcg@10"]
    assert 0 < values.mean() < 1
    assert {key: row[key] for key in ("set", "system", "index", "retriever", "setting", "n_queries")} == {
        "set": "clinic", "system": "tuned", "index": "Flat", "retriever": "dense",
        "setting": "nothing to set, timed by the wall clock on one thread", "n_queries": QUERIES,
    }  # fmt: skip
    assert row["exact"] == row["found"] == pytest.approx(values.mean())
    assert (row["loss"], row["ci95"], row["recall"]) == (0.0, [0.0, 0.0], 1.0)
    assert row["bytes"] == (tmp_path / "index").stat().st_size
    assert 0 < row["p50_ms"] <= row["p95_ms"]
    assert row["build_s"] > 0


def test_a_poor_index_is_said_to_be_poor(encoded: EncodedSet, test_set: EvalSet, exact: dict[str, Results]):
    (row,) = measure_indexes(encoded, test_set, exact, config("IVF32,Flat"), "tuned", index_recall=0.0)
    assert row["setting"] == "nprobe 1, timed by the wall clock on one thread"
    assert row["recall"] < 0.8
    assert row["loss"] == pytest.approx(row["exact"] - row["found"])
    assert 0.02 < row["loss"] < row["ci95"][1]
    (row,) = measure_indexes(encoded, test_set, exact, config("IVF32,Flat"), "tuned", index_recall=1.0)
    assert row["setting"].startswith("nprobe 32, ")
    assert (row["loss"], row["recall"]) == (0.0, 1.0)


def test_rows_in_the_order_of_the_option_and_the_same_twice(
    encoded: EncodedSet, test_set: EvalSet, exact: dict[str, Results]
):
    threads = faiss.omp_get_max_threads()
    asked = config("HNSW8", "qdrant", "IVF8,PQ4x4")
    dense = {"dense": exact["dense"]}
    rows = measure_indexes(encoded, test_set, dense, asked, "base")
    assert [row["index"] for row in rows] == ["HNSW8", "qdrant dense, local", "IVF8,PQ4x4"]
    assert rows[0]["setting"].startswith("efSearch ")
    assert rows[2]["setting"].startswith("nprobe ")
    assert "scored again with the vectors" in rows[2]["setting"]
    assert all(row["recall"] > 0.85 for row in rows)
    assert without_times(rows) == without_times(measure_indexes(encoded, test_set, dense, asked, "base"))
    assert faiss.omp_get_max_threads() == threads


def test_qdrant_loses_nothing_in_local_mode(encoded: EncodedSet, test_set: EvalSet, exact: dict[str, Results]):
    dense, hybrid = measure_indexes(encoded, test_set, exact, config("qdrant"), "tuned")
    assert [dense["index"], hybrid["index"]] == ["qdrant dense, local", "qdrant hybrid, local"]
    for row in (dense, hybrid):
        assert (row["loss"], row["recall"], row["n_queries"]) == (0.0, 1.0, QUERIES)
        assert "local mode" in row["setting"]
        assert "wall clock" in row["setting"]
        assert row["bytes"] == PASSAGES * (4 * WIDTH + 8 * 4 + 2 * 2 * 4)
    assert hybrid["exact"] != dense["exact"]


def test_qdrants_local_mode_is_asked_little_of_a_large_set(
    encoded: EncodedSet,
    test_set: EvalSet,
    exact: dict[str, Results],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(production, "_LOCAL_PAIRS", 4 * PASSAGES + 1)
    (row,) = measure_indexes(encoded, test_set, {"dense": exact["dense"]}, config("qdrant"), "tuned")
    assert (row["n_queries"], row["loss"]) == (4, 0.0)
    monkeypatch.setattr(production, "_LOCAL_PASSAGES", PASSAGES - 1)
    assert measure_indexes(encoded, test_set, exact, config("qdrant"), "tuned") == []
    assert "name a server as qdrant:URL" in caplog.text


def collections(folder: Path) -> set[str]:
    with connected(str(folder), "x") as client:
        return {found.name for found in client.get_collections().collections}


def test_what_a_killed_run_left_is_found_by_its_name_and_left_alone(
    encoded: EncodedSet, test_set: EvalSet, exact: dict[str, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "db"
    asked = config(f"qdrant:{folder}")
    few = replace(encoded, passages=texts_of(np.random.default_rng(1), encoded.passages.vectors[:40]))
    small = replace(test_set, corpus=test_set.corpus.take(range(40)))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def measured() -> list[dict[str, Any]]:
        return measure_indexes(few, small, {"dense": exact["dense"]}, asked, "tuned")

    with monkeypatch.context() as patch:
        patch.setattr(production, "search_collection", killed)
        with pytest.raises(KeyboardInterrupt):
            measured()
        assert collections(folder) == set()  # an interrupt leaves none
        patch.setattr("qdrant_client.QdrantClient.delete_collection", lambda *_: True)  # as after kill -9
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                measured()
    left = collections(folder)  # as another job's, of the same set and system, would be there
    assert len(left) == 2
    assert all(name.startswith(production.COLLECTIONS) for name in left)
    assert measured()[0]["index"] == "qdrant dense, local"
    assert collections(folder) == left


def test_no_indexes_no_rows(encoded: EncodedSet, test_set: EvalSet, exact: dict[str, Results]):
    assert measure_indexes(encoded, test_set, exact, config(), "tuned") == []


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("HNWS32", r"^eval\.indexes: FAISS cannot build 'HNWS32' over 240 vectors: .*HNWS32"),
        ("IVF1024,Flat", r"^eval\.indexes: FAISS cannot build 'IVF1024,Flat' over 240 vectors"),
        ("qdrant:http://127.0.0.1:9", r"^eval\.indexes: no Qdrant server answers at http://127\.0\.0\.1:9 "),
    ],
)
def test_mistakes_are_one_line(
    encoded: EncodedSet, test_set: EvalSet, exact: dict[str, Results], index: str, told: str
):
    with pytest.raises(UserError, match=told) as error:
        measure_indexes(encoded, test_set, exact, config(index), "tuned")
    assert "\n" not in str(error.value)


def test_an_empty_set_is_named(encoded: EncodedSet, test_set: EvalSet):
    for empty in (replace(test_set, corpus=Texts([], [])), replace(test_set, queries=Texts([], []), qrels={})):
        with pytest.raises(UserError, match=r"^eval\.indexes: the set clinic has no passage or no query"):
            measure_indexes(encoded, empty, {}, config("Flat"), "tuned")
