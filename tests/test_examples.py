"""Examples: which queries are shown for each system, with which texts, and how explanations come to them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from bgetune.data import Texts
from eval.examples import add_explanations, examples, ranking
from eval.sets import EvalSet

PASSAGES = ["d0", "d1", "d2", "d3"]
LONG = "very " * 200 + "long"


def make_set(qrels: dict[str, dict[str, int]], found: dict[str, dict[str, list[str]]]) -> EvalSet:
    """`found`: system -> query -> passage ids, best first."""
    results = {
        system: {q: {p: 1 / rank for rank, p in enumerate(ranked, start=1)} for q, ranked in by_query.items()}
        for system, by_query in found.items()
    }
    queries = Texts(list(qrels), [f"question\n{query_id}" for query_id in qrels])
    corpus = Texts(PASSAGES, ["text 0", "text  1", LONG, "text 3"], ["title", "", "", ""])
    return EvalSet("x", "domain", queries, corpus, qrels, "hash", {"dense": results})


def values(**by_system: list[float]) -> dict[str, np.ndarray]:
    return {system: np.array(found) for system, found in by_system.items()}


def three() -> tuple[EvalSet, dict[str, np.ndarray]]:
    qrels = {"q1": {"d0": 1}, "q0": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1}}
    found = {
        "base": {"q1": ["d1", "d0"], "q0": ["d0", "d1"], "q2": ["d2"], "q3": ["d3"]},
        "tuned": {"q1": ["d0", "d1"], "q0": ["d1", "d0"], "q2": [], "q3": ["d3"]},
        "merged": {"q1": ["d1", "d0"], "q0": ["d0", "d1"], "q2": ["d2"], "q3": ["d0", "d3"]},
    }
    scores = values(base=[0.5, 0.5, 1, 1], tuned=[1, 1, 0, 1 + 1e-12], merged=[0.5, 0.5, 1, 0.6])
    return make_set(qrels, found), scores


def test_every_system_against_the_reference() -> None:
    test, scores = three()
    shown = examples(test, scores, "dense", "base", 5)
    assert list(shown) == ["tuned", "merged"]
    ids = {
        system: {side: [row["query_id"] for row in rows] for side, rows in of.items()} for system, of in shown.items()
    }
    assert ids == {"tuned": {"won": ["q0", "q1"], "lost": ["q2"]}, "merged": {"won": [], "lost": ["q3"]}}
    row = shown["tuned"]["won"][0]
    assert row == {
        "query_id": "q0",
        "query": "question q0",
        "positive_id": "d1",
        "positive": "text 1",
        "n_positives": 1,
        "value": {"base": 0.5, "tuned": 1.0},
        "rank": {"base": 2, "tuned": 1},
        "top": {"base": {"id": "d0", "text": "title text 0"}, "tuned": {"id": "d1", "text": "text 1"}},
    }
    lost = shown["tuned"]["lost"][0]
    assert (lost["rank"], lost["top"]["tuned"]) == ({"base": 1, "tuned": None}, None)
    assert len(lost["positive"]) <= 300
    assert lost["positive"].endswith("…")
    assert set(shown["merged"]["lost"][0]["value"]) == {"base", "merged"}


def test_any_system_can_be_the_reference() -> None:
    test, scores = three()
    shown = examples(test, scores, "dense", "tuned", 1)
    assert list(shown) == ["base", "merged"]
    assert [row["query_id"] for row in shown["base"]["won"]] == ["q2"]
    assert [row["query_id"] for row in shown["base"]["lost"]] == ["q0"]
    assert examples(test, scores, "dense", "base", 0)["tuned"] == {"won": [], "lost": []}


@pytest.mark.parametrize(
    ("judged", "base", "tuned", "expected"),
    [
        ({"d0": 1, "d1": 2}, ["d0"], ["d0", "d1"], "d1"),  # the grade before all else
        ({"d0": 1, "d1": 1, "d3": 1}, ["d2", "d3"], ["d2", "d0", "d1"], "d0"),  # of equal ranks the first
        ({"d0": 1, "d1": 1, "d3": 1}, ["d2", "d0"], ["d3"], "d3"),
        ({"d1": 1, "d0": 1}, ["d2"], [], "d1"),  # none was found
    ],
)
def test_which_answer_is_shown(judged: dict[str, int], base: list[str], tuned: list[str], expected: str) -> None:
    test = make_set({"q": judged}, {"base": {"q": base}, "tuned": {"q": tuned}})
    row = examples(test, values(base=[0], tuned=[1]), "dense", "base", 5)["tuned"]["won"][0]
    assert (row["positive_id"], row["n_positives"]) == (expected, len(judged))


def test_equal_scores_rank_as_in_trec_eval() -> None:
    assert ranking({"a": 0.1, "b": 0.1 + 1e-12, "c": 0.1}) == ["c", "b", "a"]


class Explainer:
    """Says which pair it was asked about, and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def __call__(self, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
        self.calls.append(pairs)
        return [{"scores": {"dense": 0.5}, "of": pair} for pair in pairs]


def test_explanations_come_to_every_row_of_a_system() -> None:
    test, scores = three()
    shown = examples(test, scores, "dense", "base", 5)
    before = copy.deepcopy(shown)
    explain = {system: Explainer() for system in scores}
    for system in scores:
        add_explanations(shown, system, test, explain[system])
    for system, sides in shown.items():
        for side, rows in sides.items():
            for row, plain in zip(rows, before[system][side], strict=True):
                explained = row.pop("explained")
                assert row == plain
                assert list(explained) == ["base", system]
                full = dict(zip(PASSAGES, test.corpus.full_texts(), strict=True))
                for which in explained:
                    query = f"question\n{row['query_id']}"  # as it is, not as it is shown
                    assert explained[which]["positive"]["of"] == (query, full[row["positive_id"]])
                    top = row["top"][which]
                    if top is None:
                        assert explained[which]["top"] is None
                    else:
                        assert explained[which]["top"]["of"] == (query, full[top["id"]])
    # one call a system, and no pair twice: the base is in all four rows, and first finds the answer in two of them
    assert {system: [len(pairs) for pairs in one.calls] for system, one in explain.items()} == {
        "base": [6], "tuned": [3], "merged": [2]
    }  # fmt: skip
    assert all(len(set(pairs)) == len(pairs) for one in explain.values() for pairs in one.calls)
    assert ("question\nq2", LONG) in explain["base"].calls[0]


def test_no_call_without_a_row() -> None:
    test, scores = three()
    shown = examples(test, scores, "dense", "base", 0)
    explain = Explainer()
    add_explanations(shown, "base", test, explain)
    add_explanations(examples(test, scores, "dense", "base", 5), "another", test, explain)
    assert explain.calls == []
