"""Leakage: which train queries are known from elsewhere, and what is done about it."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.data import RetrievalSet, Texts, normalised, write_retrieval_set
from bgetune.errors import UserError
from data_prep.clean.leakage import Leak, leaks, read_public, settle
from data_prep.neardup import words_of

LONG = "take two tablets a day with a glass of water after each meal"
NEAR = LONG.replace("each", "every")
OTHER = "this disease is treated by surgery and not by any drug that is known"


def a_set(**splits: dict[str, tuple[str, str]]) -> RetrievalSet:
    """A set from split -> query id -> (query, its only answer)."""
    pairs = {query_id: pair for queries in splits.values() for query_id, pair in queries.items()}
    corpus = Texts([f"p-{i}" for i in pairs], [answer for _, answer in pairs.values()])
    queries = Texts(list(pairs), [query for query, _ in pairs.values()])
    return RetrievalSet(corpus, queries, {split: {i: {f"p-{i}": 1} for i in of} for split, of in splits.items()})


def test_the_same_text_is_a_leak_whatever_answers_it():
    domain = a_set(
        train={"t1": ("What is  BERT?", LONG), "t2": ("Who wrote it?", OTHER)}, dev={"d": ("what is bert?", OTHER)}
    )
    assert leaks(domain, {}) == [Leak("t1", "What is  BERT?", "train", "dev", "d", "what is bert?", "same text")]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (LONG.upper(), "near-duplicate query with the same passage"),
        (NEAR, "near-duplicate query with a near-duplicate passage"),
        (OTHER, None),
    ],
)
def test_a_near_query_is_a_leak_only_with_a_near_answer(answer, why):
    domain = a_set(
        train={"t": ("what are all the known good treatments for flu", LONG), "u": ("something else", LONG)},
        test={"q": ("what are all the known good treatments for gout", answer)},
    )
    assert [(leak.query_id, leak.split_or_set, leak.why) for leak in leaks(domain, {})] == (
        [("t", "test", why)] if why else []
    )


def test_a_passage_that_is_no_answer_makes_no_leak():
    domain = a_set(train={"t": ("what are all the known good treatments for flu", LONG)})
    other = a_set(test={"q": ("what are all the known good treatments for gout", OTHER), "z": ("unlike", LONG)})
    other.qrels["test"]["q"]["p-z"] = 0
    assert leaks(domain, {"guard": other}) == []
    other.qrels["test"]["q"]["p-z"] = 2
    assert [leak.other_id for leak in leaks(domain, {"guard": other})] == ["q"]


def test_other_sets_are_asked_for_their_test_split_only():
    domain = a_set(train={"a": ("alpha", "1"), "b": ("beta", "2"), "c": ("gamma", "3")}, test={"x": ("beta", "4")})
    guard = a_set(train={"g1": ("alpha", "5")}, test={"g2": ("Gamma", "6"), "g3": ("gamma ", "7"), "g4": ("beta", "8")})
    found = leaks(domain, {"guard": guard})
    assert [(leak.query_id, leak.split_or_set, leak.other_id) for leak in found] == [
        ("b", "test", "x"),
        ("b", "guard", "g4"),
        ("c", "guard", "g2"),
    ]


def test_a_question_in_another_language_is_no_leak():
    domain = a_set(train={"t": ("How old was he?", LONG)}, test={"q": ("Wie alt war er?", LONG)})
    assert leaks(domain, {}) == []


def naive(domain: RetrievalSet) -> set[str]:
    def near(a: str, b: str) -> bool:
        return len(words_of(a) & words_of(b)) / len(words_of(a) | words_of(b)) >= 0.8

    def same_numbers(a: str, b: str) -> bool:
        return {w for w in words_of(a) if w.isdigit()} == {w for w in words_of(b) if w.isdigit()}

    texts, answers = dict(zip(domain.queries.ids, domain.queries.texts, strict=True)), domain.corpus.texts
    answer = {passage_id.removeprefix("p-"): text for passage_id, text in zip(domain.corpus.ids, answers, strict=True)}
    return {
        t
        for t in domain.qrels["train"]
        for q in domain.qrels["test"]
        if normalised(texts[t]) == normalised(texts[q])
        or (near(texts[t], texts[q]) and same_numbers(texts[t], texts[q]) and near(answer[t], answer[q]))
    }


some_text = st.lists(st.sampled_from("aAbcde12"), min_size=1, max_size=6).map(" ".join)
some_pairs = st.lists(st.tuples(some_text, some_text), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(some_pairs, some_pairs)
def test_leaks_are_those_of_the_double_loop(train, test):
    domain = a_set(
        train={f"t{i}": pair for i, pair in enumerate(train)}, test={f"q{i}": pair for i, pair in enumerate(test)}
    )
    found = [leak.query_id for leak in leaks(domain, {})]
    assert set(found) == naive(domain)
    assert len(found) == len(set(found))


REVENUE = "What was the total revenue of the whole company in the year FY18?"


@pytest.mark.parametrize(
    ("query", "answer", "leaks_there"),
    [
        (REVENUE.replace("FY18", "FY19"), LONG, False),  # another question on the same table
        (REVENUE.replace("year FY18", "period FY18"), LONG, True),
        (REVENUE.replace("year FY18", "period FY18"), f"{LONG} 7", True),  # a copy of the passage from page 7
    ],
)
def test_other_numbers_in_a_query_make_another_question(query, answer, leaks_there):
    domain = a_set(train={"t": (REVENUE, LONG)}, test={"q": (query, answer)})
    assert bool(leaks(domain, {})) == leaks_there


def test_dev_is_compared_with_test_and_the_other_sets():
    domain = a_set(
        train={"t": ("alpha", "1")},
        dev={"d1": ("beta", "2"), "d2": ("gamma", "3"), "d3": ("delta", "4")},
        test={"q": ("Beta", "5")},
    )
    found = leaks(domain, {"public": a_set(test={"s": ("GAMMA", "6"), "r": ("alpha", "7")})})
    assert [(leak.query_id, leak.of_split, leak.split_or_set) for leak in found] == [
        ("t", "train", "public"),
        ("d1", "dev", "test"),
        ("d2", "dev", "public"),
    ]
    with pytest.raises(
        UserError, match=r"1 train query is known from public \(1\) and 2 dev queries are known from test"
    ):
        settle(domain, found, "error")
    with pytest.raises(UserError, match=r"data\.leakage: drop leaves no train query"):
        settle(domain, found, "drop")
    left = settle(domain, found[1:], "drop")
    assert {split: list(judged) for split, judged in left.qrels.items()} == {
        "train": ["t"],
        "dev": ["d3"],
        "test": ["q"],
    }
    assert left.queries.ids == ["t", "d3", "q"]
    domain.qrels["dev"].pop("d3")
    with pytest.raises(UserError, match=r"data\.leakage: drop leaves no dev query"):
        settle(domain, found[1:], "drop")


def test_thousands_of_one_template_take_seconds():
    """4,000 queries that are all near, each with its own passage; and passages that are, each with its own query."""
    names = [f"x{''.join('abcdefghij'[int(c)] for c in f'{i:04d}')}" for i in range(8000)]
    query = "what are all of the known and common treatments for the disease {} ?"
    passage = "the disease {} is one of the many that are treated by surgery and by no drug"
    for ask, answer in ((query, "{0} {0}a {0}b"), ("{0} {0}a {0}b", passage)):
        pairs = [(ask.format(name), answer.format(name)) for name in names]
        pairs.append((ask.format(names[0] + "z"), answer.format(names[1]).upper()))
        domain = a_set(
            train={f"t{i}": pair for i, pair in enumerate(pairs[:4000])},
            test={f"q{i}": pair for i, pair in enumerate(pairs[4000:])},
        )
        start = time.monotonic()
        found = [(leak.query_id, leak.other_id) for leak in leaks(domain, {})]
        assert found == ([("t1", "q4000")] if ask == query else [])
        assert time.monotonic() - start < 10  # a second; every pair would be minutes


def leaky() -> tuple[RetrievalSet, list[Leak]]:
    long = "a very long question that goes on and on and on and on until nobody wants to read it"
    domain = a_set(
        train={"t1": (long, "1"), "t2": ("fine", "2"), "t3": ("known", "3")},
        dev={"d": (long, "4")},
        test={"q": ("known", "5")},
    )
    return domain, leaks(domain, {"squad": a_set(test={"s": ("KNOWN", "6")})})


def test_error_tells_how_many_where_an_example_and_the_ways_out():
    with pytest.raises(UserError) as caught:
        settle(*leaky(), "error")
    message = str(caught.value)
    assert message == (
        "data.leakage: 2 train queries are known from dev (1), test (1), squad (1), e.g. "
        't1 "a very long question that goes on and on and on and on un..." from dev\'s '
        'd "a very long question that goes on and on and on and on un..." (same text); '
        "mend the data, or set data.leakage to drop (they are left out) or to warn"
    )


def test_drop_takes_them_out_of_train_and_nowhere_else():
    domain, found = leaky()
    domain.qrels["dev"]["t1"] = {"p-t1": 1}
    left = settle(domain, found, "drop")
    assert list(left.qrels["train"]) == ["t2"]
    assert left.queries.ids == ["t1", "t2", "d", "q"]
    assert (left.qrels["dev"], left.qrels["test"]) == (domain.qrels["dev"], domain.qrels["test"])
    assert left.corpus == domain.corpus
    assert leaks(left, {}) == []


def test_drop_must_leave_something():
    domain = a_set(train={"t": ("same", "1")}, test={"q": ("same", "2")})
    with pytest.raises(UserError, match=r"data\.leakage: drop leaves no train query: 1 train query is known from test"):
        settle(domain, leaks(domain, {}), "drop")


def test_warn_says_so_and_nothing_found_says_nothing(caplog):
    domain, found = leaky()
    with caplog.at_level(logging.INFO, logger="bgetune"):
        assert settle(domain, [], "error") is domain
        assert not caplog.records
        assert settle(domain, found, "warn") is domain
    assert "2 train queries are known from dev (1), test (1), squad (1)" in caplog.text


def test_public_sets_are_read_and_need_a_test_split(tmp_path):
    good = a_set(test={"q": ("a", "b")})
    write_retrieval_set(tmp_path / "good", good)
    write_retrieval_set(tmp_path / "train", a_set(train={"q": ("a", "b")}))
    assert read_public({"x": str(tmp_path / "good")})["x"].qrels == good.qrels
    with pytest.raises(UserError, match=r"^data\.public\.x: .*train has no test split; it needs qrels/test.tsv"):
        read_public({"x": str(tmp_path / "train")})
    with pytest.raises(UserError, match=r"^data\.public\.x: .*nowhere: no such folder"):
        read_public({"x": str(tmp_path / "nowhere")})
