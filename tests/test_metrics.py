"""Metrics: by hand, with grades, ties and gaps, and against a plain implementation on random runs."""

from __future__ import annotations

import doctest
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune import metrics
from bgetune.data import Qrels
from bgetune.errors import UserError
from bgetune.index.bm25 import BM25Index
from bgetune.metrics import METRICS, Measure, Results, means, measure_of, per_query, per_query_table

KINDS = ("ndcg", "mrr", "recall", "precision", "map", "success")


def plain(name: str, judged: dict[str, int], found: dict[str, float]) -> float:
    """The definitions written out; equal scores rank by id, the later first (trec_eval's rule)."""
    kind, k = name.split("@")[0], int(name.split("@")[1])
    grades = [max(judged.get(d, 0), 0) for d in sorted(sorted(found, reverse=True), key=lambda d: -found[d])][:k]
    ideal = sorted((g for g in judged.values() if g > 0), reverse=True)
    hits = [rank for rank, grade in enumerate(grades, start=1) if grade > 0]
    if kind == "ndcg":
        gain, most = (sum(g / math.log2(rank + 1) for rank, g in enumerate(x, start=1)) for x in (grades, ideal[:k]))
        return gain / most if ideal else 0.0
    if kind == "mrr":
        return 1 / hits[0] if hits else 0.0
    if kind == "map":
        return sum(nth / rank for nth, rank in enumerate(hits, start=1)) / len(ideal) if ideal else 0.0
    if kind == "success":
        return float(bool(hits))
    return len(hits) / k if kind == "precision" else len(hits) / len(ideal) if ideal else 0.0


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


def random_run(rng: np.random.Generator, queries: int, most: int) -> tuple[Qrels, Results]:
    """Grades -1 to 3 and few distinct scores: ties everywhere, also across the cuts."""
    qrels: Qrels = {}
    results: Results = {}
    for i in range(queries):
        passages = [f"d{j}" for j in rng.permutation(most)]
        grades = rng.integers(-1, 4, rng.integers(1, max(2, most // 4)))
        qrels[f"q{i}"] = {p: int(g) for p, g in zip(rng.permutation(passages).tolist(), grades, strict=False)}
        found = passages[: rng.integers(0, most)]
        results[f"q{i}"] = {p: float(s) for p, s in zip(found, rng.integers(0, 20, len(found)) / 16, strict=True)}
    return qrels, results


def random_names(rng: np.random.Generator) -> list[str]:
    return [f"{kind}@{k}" for kind in KINDS for k in (1, *rng.integers(2, 30, 2).tolist(), 10, 100)]


def assert_plain(qrels: Qrels, results: Results, names: list[str]) -> None:
    values = per_query(qrels, results, names)
    for name in names:
        expected = [plain(name, judged, results[query_id]) for query_id, judged in qrels.items()]
        np.testing.assert_allclose(values[name], expected, rtol=0, atol=1e-9, err_msg=name)
        assert means(values)[name] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_equals_a_plain_implementation_on_random_graded_runs(seed: int):
    rng = np.random.default_rng(seed)
    qrels, results = random_run(rng, 30, 200)
    assert_plain(qrels, results, list(dict.fromkeys([*METRICS, *random_names(rng)])))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_every_metric_equals_a_plain_implementation_on_small_runs(seed: int, most: int):
    rng = np.random.default_rng(seed)
    assert_plain(*random_run(rng, 3, most), list(dict.fromkeys(random_names(rng))))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sets(st.integers(1, 200), min_size=1, max_size=3))
def test_every_metric_equals_pytrec_eval(seed: int, queries: int, cutoffs: set[int]):
    qrels, results = random_run(np.random.default_rng(seed), queries, 150)
    codes = {"ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "map": "map_cut", "success": "success"}
    at = ",".join(map(str, sorted(cutoffs)))
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank", *(f"{code}.{at}" for code in codes.values())})
    expected = evaluator.evaluate({query_id: found for query_id, found in results.items() if found})
    values = per_query(qrels, results, [f"{kind}@{k}" for kind in KINDS for k in sorted(cutoffs)])
    for i, query_id in enumerate(qrels):
        own = expected.get(query_id)
        for k in cutoffs:
            for kind, code in codes.items():
                assert values[f"{kind}@{k}"][i] == pytest.approx(own[f"{code}_{k}"] if own else 0.0, abs=1e-9)
            first = own["recip_rank"] if own else 0.0
            rank = round(1 / first) if first else 0
            assert values[f"mrr@{k}"][i] == (first if 1 <= rank <= k else 0.0)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 10, 49, 93, 100, 997])
def test_mrr_counts_rank_k_and_not_the_next_one(k: int):
    """Whatever 1/k rounds to."""
    fillers = [f"x{i}" for i in range(k)]
    at, behind = ranked(*fillers[: k - 1], "a"), ranked(*fillers, "a")
    found = per_query({"at": {"a": 1}, "behind": {"a": 1}}, {"at": at, "behind": behind}, [f"mrr@{k}", f"mrr@{k + 1}"])
    assert found[f"mrr@{k}"].tolist() == [1 / k, 0]
    assert found[f"mrr@{k + 1}"].tolist() == [1 / k, 1 / (k + 1)]


def test_a_tie_across_the_cut_is_cut_by_id():
    tied = {"a": 1.0, "b": 1.0, "c": 1.0}  # ranks: c, b, a
    values = per_query({"q": {"b": 1}}, {"q": tied}, ["mrr@1", "mrr@2", "success@1", "success@2", "precision@2"])
    assert {name: float(value[0]) for name, value in values.items()} == {
        "mrr@1": 0, "mrr@2": 0.5, "success@1": 0, "success@2": 1, "precision@2": 0.5
    }  # fmt: skip


def test_precision_divides_by_k_where_fewer_are_found():
    assert per_query({"q": {"a": 1}}, {"q": {"a": 1.0}}, ["precision@5"])["precision@5"].tolist() == [0.2]


@pytest.mark.parametrize("name", METRICS)
def test_measure_of_reads_the_default_metrics(name: str):
    kind, cutoff = name.split("@")
    assert measure_of(name) == Measure(kind, int(cutoff))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ndgc@10", "ndcg@10"), ("NDCG@5", "ndcg@5"), ("ndcg", "ndcg@10"), ("ndcg@0", "ndcg@10"), ("mrr@05", "mrr@10"),
        ("recal@100", "recall@100"), ("map @7", "map@7"), ("precision@-1", "precision@10"), ("ndcg@10\n", "ndcg@10"),
        ("bleu@3", None), ("", None), ("ndcg@1e3", "ndcg@10"), ("mrr@99999999", None),
    ],
)  # fmt: skip
def test_an_unknown_metric_is_named_with_the_nearest_known_one(name: str, meant: str | None):
    with pytest.raises(UserError, match=r"^eval\.metrics: .* is no metric; use ndcg, mrr") as raised:
        measure_of(name)
    assert repr(name) in str(raised.value)
    assert ("did you mean" in str(raised.value)) == (meant is not None)
    assert meant is None or f'"{meant}"' in str(raised.value)
    with pytest.raises(UserError):
        per_query({"q": {"a": 1}}, {}, ["ndcg@10", name])


def test_doctests():
    result = doctest.testmod(metrics)
    assert result.attempted
    assert not result.failed


# -- the table of every query


TABLE_QUERIES = {"domain": ["q2", "q10", "ü"], "guard": ["q2"]}


def table_values(reverse: bool = False) -> dict[tuple[str, str, str], dict[str, np.ndarray]]:
    keys = [
        ("domain", "dense", "tuned"),
        ("domain", "dense", "base"),
        ("domain", "bm25", "any"),
        ("guard", "dense", "base"),
    ]
    return {
        key: {"ndcg@10": (np.arange(len(TABLE_QUERIES[key[0]])) + n) / 7, "mrr@3": np.zeros(len(TABLE_QUERIES[key[0]]))}
        for n, key in (reversed(list(enumerate(keys))) if reverse else enumerate(keys))
    }


def test_the_table_has_every_value_once_and_sorted(tmp_path: Path):
    per_query_table(tmp_path / "new" / "per_query.parquet", TABLE_QUERIES, table_values())
    table = pq.read_table(tmp_path / "new" / "per_query.parquet")
    assert table.column_names == ["set", "query_id", "retriever", "system", "ndcg@10", "mrr@3"]
    rows = [tuple(row.values()) for row in table.to_pylist()]
    expected = [
        (name, query_id, retriever, system, *(float(measured[metric][i]) for metric in ("ndcg@10", "mrr@3")))
        for (name, retriever, system), measured in table_values().items()
        for i, query_id in enumerate(TABLE_QUERIES[name])
    ]
    assert rows == sorted(expected)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["per_query.parquet"]


def test_the_table_is_the_same_bytes_whatever_the_order(tmp_path: Path):
    for name, reverse in (("a", False), ("b", False), ("c", True)):
        per_query_table(tmp_path / name, TABLE_QUERIES, table_values(reverse))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_a_table_of_nothing_is_a_table(tmp_path: Path):
    per_query_table(tmp_path / "empty", {}, {})
    assert pq.read_table(tmp_path / "empty").num_rows == 0


def test_values_that_do_not_fit_their_queries_are_our_mistake_and_leave_no_file(tmp_path: Path):
    with pytest.raises(AssertionError):
        per_query_table(tmp_path / "t", {"s": ["q"]}, {("s", "dense", "base"): {"ndcg@10": np.zeros(2)}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("corpus", [["the", "a b"], ["", "the", "a"]])
def test_bm25_finds_nothing_in_a_corpus_without_words(corpus: list[str]):
    scores, rows = BM25Index.build(corpus).search(["the words", "a"], 10)
    assert (rows.dtype, rows.tolist()) == (np.int64, [[-1] * len(corpus)] * 2)
    assert (scores.dtype, scores.tolist()) == (np.float32, [[0.0] * len(corpus)] * 2)
