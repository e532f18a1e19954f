"""Slices part the queries and lose none; the language matrix is each cell's own measurement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.data import Qrels, Texts
from bgetune.metrics import per_query
from eval.sets import EvalSet
from eval.slices import FEWEST, by_border, by_quartile, matrix, size, slices, terms, unit_of

METRIC = "ndcg@10"


def make_set(
    queries: list[str],
    passages: list[str],
    qrels: list[dict[int, int]] | None = None,
    query_metadata: list[dict[str, Any]] | None = None,
    passage_metadata: list[dict[str, Any]] | None = None,
) -> EvalSet:
    """Query i has passage i, unless told otherwise."""
    judged = qrels or [{i: 1} for i in range(len(queries))]
    return EvalSet(
        "x",
        "domain",
        Texts([f"q{i}" for i in range(len(queries))], queries, metadata=query_metadata or []),
        Texts([f"d{i}" for i in range(len(passages))], passages, metadata=passage_metadata or []),
        {f"q{i}": {f"d{p}": grade for p, grade in of.items()} for i, of in enumerate(judged)},
        "hash",
    )


def by_name(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in found}


def test_means_and_gains_of_a_slice() -> None:
    queries = ["word"] * 30 + ["three words here"] * 30 + ["a rather long query of eight words together"] * 40
    test = make_set(queries, [" ".join(dict.fromkeys(queries))] * 100)  # no word is rare
    base, better = np.zeros(100), np.where(np.arange(100) < 30, 0.5, 0.0)
    values = {"base": base, "better": better, "same": base + 1e-12}
    found = slices(test, values, "base", 500, seed=0)
    assert [one["name"] for one in found] == ["query length"]  # of all else there is one group
    assert found[0]["unit"] == "words"
    assert [(group["label"], group["n_queries"]) for group in found[0]["groups"]] == [
        ("1", 30), ("2 to 3", 30), ("4 or more", 40)
    ]  # fmt: skip
    first, *others = found[0]["groups"]
    assert first["values"] == {"base": 0.0, "better": 0.5, "same": pytest.approx(0.0)}
    assert first["gain"]["better"] == {"abs": 0.5, "ci95": [0.5, 0.5]}
    assert all(group["gain"]["better"] == {"abs": 0.0, "ci95": [0.0, 0.0]} for group in others)
    assert all(group["gain"]["same"] == {"abs": 0.0, "ci95": [0.0, 0.0]} for group in found[0]["groups"])
    assert "base" not in first["gain"]
    assert values["better"][0] == 0.5


def test_the_interval_is_seeded() -> None:
    queries = ["word"] * 40 + ["three words here"] * 40
    test = make_set(queries, ["a passage"] * 80)
    values = {"base": np.zeros(80), "tuned": np.random.default_rng(0).normal(0.1, 0.3, 80)}
    once, again, other = (slices(test, values, "base", 200, seed) for seed in (0, 0, 1))
    assert once == again != other
    for group in once[0]["groups"]:
        low, high = group["gain"]["tuned"]["ci95"]
        assert low < group["gain"]["tuned"]["abs"] < high


def test_passage_length_is_of_the_first_of_the_most_relevant_with_its_title() -> None:
    short, long = "one two", "word " * 50
    corpus = Texts(["a", "b", "c"], [short, long, short], ["title", "", ""])
    qrels: Qrels = {f"q{i}": ({"a": 1, "b": 2} if i < 25 else {"a": 1, "c": 1, "b": 0}) for i in range(50)}
    test = EvalSet("x", "guard", Texts(list(qrels), ["query"] * 50), corpus, qrels, "hash")
    found = by_name(slices(test, {"base": np.zeros(50)}, "base", 10, 0))
    groups = found["passage length"]["groups"]
    assert [(group["label"], group["n_queries"]) for group in groups] == [("3", 25), ("4 or more", 25)]
    assert groups[0]["gain"] == {}


def test_number_of_relevant_passages() -> None:
    grades = [{0: 1}] * 30 + [{0: 1, 1: 2, 2: 0}] * 30 + [{0: 1, 1: 1, 2: 1}] * 15 + [{0: 1, 1: 1, 2: 1, 3: 1}] * 10
    test = make_set(["query"] * 85, ["passage"] * 4, grades)
    found = by_name(slices(test, {"base": np.zeros(85)}, "base", 10, 0))["relevant passages"]
    assert [(group["label"], group["n_queries"]) for group in found["groups"]] == [
        ("1", 30),
        ("2", 30),
        ("3 or more", 25),
    ]


def test_rare_words() -> None:
    # 2,000 passages: a word is rare that at most 2 have
    passages = [f"common {'uncommon' if i < 3 else ''} {'seldom,' if i < 2 else ''}" for i in range(2000)]
    queries = ["Common uncommon"] * 25 + ["common SELDOM common absent"] * 25 + ["seldom?"] * 25
    test = make_set(queries, passages, [{0: 1}] * 75)
    found = by_name(slices(test, {"base": np.zeros(75)}, "base", 10, 0))["rare words in the query"]
    assert found["unit"] == "% of its words; rare: in at most 2 of 2,000 passages"
    assert [(group["label"], group["n_queries"]) for group in found["groups"]] == [
        ("0", 25), ("1 to 50", 25), ("51 or more", 25)
    ]  # fmt: skip


def test_too_few_queries_for_any_slice() -> None:
    test = make_set([f"{'word ' * i}" or "?" for i in range(39)], ["passage"] * 39)
    assert slices(test, {"base": np.zeros(39), "tuned": np.ones(39)}, "base", 10, 0) == []
    one = make_set(["..."], ["!"])  # no word in it
    assert slices(one, {"base": np.zeros(1), "tuned": np.ones(1)}, "base", 10, 0) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 3000) | st.integers(0, 4), min_size=1, max_size=150),
    st.lists(st.integers(0, 100), min_size=1, max_size=4),
)
def test_groups_part_the_queries(numbers: list[int], borders: list[int]) -> None:
    for groups in (by_quartile(numbers), by_border(numbers, borders)):
        assert sorted(np.concatenate([members for _, members in groups]).tolist()) == list(range(len(numbers)))
        assert len(groups) == 1 or min(len(members) for _, members in groups) >= FEWEST
        assert len({label for label, _ in groups}) == len(groups)
        for label, members in groups:
            own = [numbers[i] for i in members]
            bounds = [int(word.replace(",", "")) for word in label.split() if word[0].isdigit()]
            if label.startswith("up to"):
                assert max(own) <= bounds[0]
            elif label.endswith("or more"):
                assert min(own) >= bounds[0]
            else:
                assert bounds[0] <= min(own) <= max(own) <= bounds[-1]


def test_words_of_many_languages() -> None:
    assert terms("Was kostet’s? 1,496.5 – oder “mehr”…") == ["was", "kostet’s", "1,496.5", "oder", "mehr"]
    assert terms("हृदय रोग") == ["हृदय", "रोग"]  # vowel signs do not part a word
    assert terms("ผู้ป่วย") == ["ผู", "ู้", "้ป", "ป่", "่ว", "วย"]
    assert terms("iPhone手机。x") == ["iphone", "手机", "x"]
    assert terms("病") == ["病"]
    assert terms(" ... \n") == []
    assert (size("心脏 病", "characters"), size("heart attack", "words")) == (3, 2)
    assert unit_of(["heart"] * 100 + ["心脏病"] * 5) == "words"
    assert unit_of(["heart"] * 90 + ["โรคหัวใจ"] * 10) == "characters"
    assert unit_of(["heart with one 心 in it"] * 10) == "words"


def test_a_set_without_spaces_is_measured_in_characters() -> None:
    queries = ["心脏病"] * 30 + ["心脏病是什么原因引起的"] * 30
    found = by_name(slices(make_set(queries, ["病"] * 60), {"base": np.zeros(60)}, "base", 10, 0))
    assert found["query length"]["unit"] == "characters"
    assert [group["label"] for group in found["query length"]["groups"]] == ["3", "4 or more"]


def languages(*counts: tuple[str | None, int], key: str = "lang") -> list[dict[str, Any]]:
    return [{key: code} if code else {} for code, count in counts for _ in range(count)]


def test_slices_by_language() -> None:
    told = languages(("en", 30), ("de", 25), ("fr", 12), ("it", 11), (None, 5))
    own = languages(("en", 83), key="language")
    found = by_name(slices(make_set(["q"] * 83, ["p"] * 83, None, told, own), {"base": np.zeros(83)}, "base", 10, 0))
    assert list(found) == ["query language"]  # passages have one only
    groups = found["query language"]["groups"]
    assert [(group["label"], group["n_queries"]) for group in groups] == [("de", 25), ("en", 30), ("others", 23)]
    grades = [{0: 1}] * 20 + [{1: 1}] * 20 + [{0: 1, 1: 2}] * 20 + [{2: 1}] * 3
    passages: list[dict[str, Any]] = [{"lang": "en"}, {"lang": "de"}, {"lang": 7}]
    found = by_name(
        slices(make_set(["q"] * 63, ["p"] * 3, grades, None, passages), {"base": np.zeros(63)}, "base", 10, 0)
    )
    groups = found["passage language"]["groups"]
    assert [(group["label"], group["n_queries"]) for group in groups] == [("de", 20), ("en", 20), ("several", 20)]


def crosslingual(prefers_own: bool) -> EvalSet:
    """Two questions in each of two languages; each has the answer in both, beside ten other passages in each."""
    codes = ["en", "de"]
    queries = Texts(
        [f"{c}{n}" for n in "01" for c in codes], ["?"] * 4, metadata=[{"lang": c} for _ in "01" for c in codes]
    )
    ids = [f"{c}-{n}" for c in codes for n in range(12)]
    corpus = Texts(ids, ["text"] * 24, metadata=[{"lang": i[:2]} for i in ids])
    qrels: Qrels = {query_id: {f"{c}-{query_id[2]}": 1 for c in codes} for query_id in queries.ids}
    found = {}
    for query_id, judged in qrels.items():
        # right ones first in either language, then wrong ones; or all of its own language before any of the other
        own = [query_id[:2], *(c for c in codes if c != query_id[:2])] if prefers_own else codes
        order = [p for c in own for p in sorted((i for i in ids if i[:2] == c), key=lambda i: i not in judged)]
        order = order if prefers_own else sorted(ids, key=lambda i: i not in judged)
        found[query_id] = {passage_id: 1 / rank for rank, passage_id in enumerate(order, start=1)}
    return EvalSet("x", "domain", queries, corpus, qrels, "hash", {"dense": {"base": found}})


def test_matrix_of_a_model_that_is_blind_to_language() -> None:
    found = matrix(crosslingual(prefers_own=False), "dense", METRIC)
    assert found == {
        "name": "language pair",
        "rows": ["de", "en"],
        "columns": ["de", "en"],
        "n": [[2, 2], [2, 2]],
        "values": {"base": [[1.0, 1.0], [1.0, 1.0]]},
    }


def test_matrix_of_a_model_that_prefers_the_query_s_language() -> None:
    found = matrix(crosslingual(prefers_own=True), "dense", METRIC)
    assert found is not None
    # eleven wrong ones in its own language stand before the answer in the other
    assert found["values"]["base"] == [[1.0, 0.0], [0.0, 1.0]]
    wider = matrix(crosslingual(prefers_own=True), "dense", "mrr@20")
    assert wider is not None
    assert wider["values"]["base"][0] == pytest.approx([1.0, 1 / 12])


def test_matrix_equals_the_plain_metric_where_answers_are_in_one_language() -> None:
    draw = np.random.default_rng(0)
    told, own = languages(("en", 12), ("de", 18)), languages(("en", 20), ("fr", 20))
    grades = [{int(p): int(draw.integers(1, 3)) for p in 20 * (i % 2) + draw.choice(20, 3)} for i in range(30)]
    test = make_set(["q"] * 30, ["p"] * 40, grades, told, own)
    results = {q: {f"d{p}": float(draw.integers(0, 6)) for p in draw.choice(40, 30, replace=False)} for q in test.qrels}
    results["q3"] = {}
    del results["q5"]
    test.found["dense"] = {"a": results}
    plain = per_query(test.qrels, results, [METRIC])[METRIC]
    found = matrix(test, "dense", METRIC)
    assert found is not None
    assert (found["rows"], found["columns"]) == (["de", "en"], ["en", "fr"])
    assert found["n"] == [[9, 9], [6, 6]]
    for row, code in enumerate(found["rows"]):
        for column in (0, 1):
            members = [i for i in range(30) if told[i]["lang"] == code and i % 2 == column]
            assert found["values"]["a"][row][column] == pytest.approx(plain[members].mean(), abs=1e-12)


def test_matrix_with_empty_cells_and_languages_that_are_not_told() -> None:
    told, own = languages(("en", 1), ("de", 1), (None, 1)), languages(("en", 1), ("de", 1), ("fr", 1), (None, 1))
    test = make_set(["q"] * 3, ["p"] * 4, [{0: 1, 3: 1}, {1: 1}, {2: 1}], told, own)
    test.found["dense"] = {"a": {"q0": {"d3": 2.0, "d0": 1.0}, "q1": {"d0": 1.0}, "q2": {"d2": 1.0}}}
    found = matrix(test, "dense", METRIC)
    assert found is not None
    assert (found["rows"], found["columns"]) == (["de", "en"], ["de", "en"])
    assert found["n"] == [[1, 0], [0, 1]]
    assert found["values"]["a"] == [[0.0, None], [None, 1.0]]


@pytest.mark.parametrize(
    ("queries", "passages"),
    [(None, None), (languages(("en", 2)), None), (None, languages(("en", 2))), *[(languages(("en", 2)),) * 2]],
)
def test_no_matrix_where_there_is_nothing_to_compare(queries: Any, passages: Any) -> None:
    test = make_set(["q"] * 2, ["p"] * 2, None, queries, passages)
    test.found["dense"] = {"a": {"q0": {"d0": 1.0}}}
    assert matrix(test, "dense", METRIC) is None
