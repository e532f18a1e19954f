"""Cleaning: what is merged or left out, what becomes of the judgements; the cut by document and group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.config_data import CleanConfig
from bgetune.data import RetrievalSet, Texts, normalised
from bgetune.errors import UserError
from data_prep.clean import duplicates
from data_prep.clean.duplicates import exact_duplicates, near_duplicate_clusters
from data_prep.clean.filters import clean, word_count
from data_prep.clean.language import foreign
from data_prep.neardup import words_of
from data_prep.split import cut

OPTION = "data.domain.clean"


def a_set(passages: dict[str, str], qrels: dict[str, dict[str, dict[str, int]]], metadata=()) -> RetrievalSet:
    ids = sorted({query_id for judged in qrels.values() for query_id in judged})
    corpus = Texts(list(passages), list(passages.values()), metadata=list(metadata))
    return RetrievalSet(corpus, Texts(ids, [f"question about {i}{i}{i}" for i in ids]), qrels)


def connected_by_double_loop(texts: list[str], threshold: float) -> list[int]:
    words = [words_of(text) for text in texts]
    first = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(words[i] & words[j]) / len(words[i] | words[j]) >= threshold:
                low, high = sorted((first[i], first[j]))
                first = [low if f == high else f for f in first]
    return first


some_texts = st.lists(st.lists(st.sampled_from("aAbcdefg.?"), max_size=7).map(" ".join), max_size=12)


@settings(max_examples=100, deadline=None)
@given(some_texts, st.sampled_from([0.3, 0.5, 2 / 3, 0.8, 1.0]))
def test_near_clusters_equal_the_double_loop(texts, threshold):
    assert near_duplicate_clusters(texts, threshold).tolist() == connected_by_double_loop(texts, threshold)


@settings(max_examples=100, deadline=None)
@given(some_texts)
def test_exact_duplicates_are_the_normalised_equal_ones(texts):
    keys = [normalised(text) for text in texts]
    assert exact_duplicates(texts).tolist() == [keys.index(key) for key in keys]


def noisy_copies(seed: int) -> list[str]:
    """300 texts of 40 words, each with up to 3 copies that differ in 0 to 12 words, in a mixed order."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(300):
        words = random.integers(0, 3000, 40)
        for _ in range(random.integers(1, 5)):
            copy = words.copy()
            changed = random.choice(40, random.integers(0, 13), replace=False)
            copy[changed] = random.integers(3000, 9000, len(changed))
            texts.append(" ".join(f"w{word}" for word in copy))
    return [texts[i] for i in random.permutation(len(texts))]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_lsh_finds_the_clusters_of_the_exact_search(monkeypatch, threshold):
    texts = noisy_copies(0)
    exact = near_duplicate_clusters(texts, threshold)
    monkeypatch.setattr(duplicates, "EXACT_UP_TO", 0)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 50)
    monkeypatch.setattr(duplicates, "_TEXTS_AT_ONCE", 100)
    found = near_duplicate_clusters(texts, threshold)
    assert (found == exact).mean() > 0.999
    assert len(set(exact.tolist())) < len(texts)
    # nothing is joined that is not near: each cluster found is inside an exact one
    assert all(len(set(exact[found == first].tolist())) == 1 for first in set(found.tolist()))


def test_lsh_takes_many_copies_of_a_template_with_few_checks(monkeypatch):
    texts = [f"{' '.join(f'w{k}' for k in range(40))} unique{i}" for i in range(3000)]
    monkeypatch.setattr(duplicates, "EXACT_UP_TO", 0)
    checks = []
    near_test = duplicates._near_test

    def counting(*arguments):
        is_near = near_test(*arguments)
        return lambda i, j: checks.append((i, j)) or is_near(i, j)

    monkeypatch.setattr(duplicates, "_near_test", counting)
    assert set(near_duplicate_clusters(texts, 0.8).tolist()) == {0}
    assert len(checks) < 10 * len(texts)


def test_clusters_do_not_depend_on_the_hash_seed_or_the_threads():
    program = (
        "from tests.test_clean import noisy_copies; from data_prep.clean import duplicates as d; import hashlib\n"
        "for d.EXACT_UP_TO in (0, 20_000):\n"
        "    print(hashlib.sha256(d.near_duplicate_clusters(noisy_copies(1), 0.8).tobytes()).hexdigest())"
    )
    root = Path(__file__).parent.parent
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != ""


PASSAGES = {"a": "one two three four five", "b": "x", "c": "One two  three four five", "d": "one two three four"}
QRELS = {"train": {"q1": {"c": 2, "b": 0}, "q2": {"d": 1, "a": 0}, "q3": {"b": 1}}, "test": {"q4": {"a": 1, "c": 3}}}


def test_by_default_only_documents_lose_duplicates():
    data = a_set(PASSAGES, QRELS)
    for kind in ("beir", "flagembedding", "dataset", "harvest"):
        assert clean(data, CleanConfig(), kind, OPTION) == (data, {})
    assert clean(data, CleanConfig(), "documents", OPTION)[1] == {"duplicate passages merged": 2}


def test_exact_duplicates_become_the_first_and_their_judgements_move():
    cleaned, counts = clean(a_set(PASSAGES, QRELS), CleanConfig(duplicates="exact"), "beir", OPTION)
    assert cleaned.corpus.ids == ["a", "b", "d"]
    assert cleaned.qrels == {
        "train": {"q1": {"a": 2, "b": 0}, "q2": {"d": 1, "a": 0}, "q3": {"b": 1}},
        "test": {"q4": {"a": 3}},
    }
    assert counts == {"duplicate passages merged": 1}


def test_near_duplicates_keep_the_highest_relevance():
    cleaned, counts = clean(a_set(PASSAGES, QRELS), CleanConfig(duplicates="near"), "beir", OPTION)
    assert cleaned.corpus.ids == ["a", "b"]
    assert cleaned.qrels["train"]["q2"] == {"a": 1}
    assert counts == {"duplicate passages merged": 2}
    strict, _ = clean(a_set(PASSAGES, QRELS), CleanConfig(duplicates="near", near_threshold=0.9), "beir", OPTION)
    assert strict.corpus.ids == ["a", "b", "d"]


def test_length_takes_passages_out_and_queries_that_lose_their_answer():
    data = a_set({**PASSAGES, "e": "six seven eight nine ten eleven"}, {**QRELS, "dev": {"q5": {"e": 1, "a": 1}}})
    cleaned, counts = clean(data, CleanConfig(min_words=2, max_words=5), "beir", OPTION)
    assert cleaned.corpus.ids == ["a", "c", "d"]
    assert cleaned.queries.ids == ["q1", "q2", "q4", "q5"]
    assert cleaned.qrels["dev"] == {"q5": {"a": 1}}
    assert counts == {
        "passages too short": 1,
        "passages too long": 1,
        "queries left without a relevant passage": 1,
    }


def test_a_title_counts_and_a_corpus_without_queries_stays_one():
    corpus = Texts(["a", "b"], ["text", "text"], ["", "A longer title"], metadata=[{"document": "x"}, {}])
    data = RetrievalSet(corpus, Texts([], []), {"train": {}})
    cleaned, _ = clean(data, CleanConfig(min_words=3), "documents", OPTION)
    assert cleaned.corpus == Texts(["b"], ["text"], ["A longer title"], metadata=[{}])
    assert cleaned.qrels == {"train": {}}


def test_words_of_languages_without_spaces_are_characters():
    assert [word_count(text) for text in ("", "  ", "it's 5", "これは本です。", "deutsch 你好")] == [0, 0, 3, 6, 3]


def test_nothing_left_is_the_users_mistake():
    with pytest.raises(UserError, match=r"data\.domain\.clean: leaves none of 4 passages \(4 passages too short\)"):
        clean(a_set(PASSAGES, QRELS), CleanConfig(min_words=9), "beir", OPTION)
    with pytest.raises(UserError, match="leaves no query of the test split a relevant passage"):
        clean(a_set({"a": "a b c", "b": "x"}, {"test": {"q": {"b": 1}}}), CleanConfig(min_words=2), "beir", OPTION)


TEXTS = {
    "en": "The weather will stay dry until the end of the week.",
    "de": "Das Wetter bleibt bis zum Ende der Woche trocken.",
    "fr": "Le temps restera sec jusqu'à la fin de la semaine.",
    "zh": "天气将保持干燥直到本周末。",
    "numbers": "| 12 | 34.5 % | 2019 |",
    "short": "UK SIP",
}


@pytest.mark.parametrize(
    ("languages", "left"),
    [
        (("en",), ["en", "numbers", "short"]),
        (("de", "zh"), ["de", "zh", "numbers", "short"]),
        ((), list(TEXTS)),
    ],
)
def test_languages_that_are_not_named_go_and_what_cannot_be_told_stays(languages, left):
    data = a_set(TEXTS, {"train": {"q": dict.fromkeys(TEXTS, 1)}})
    cleaned, counts = clean(data, CleanConfig(languages=languages), "beir", OPTION)
    assert cleaned.corpus.ids == left
    gone = len(TEXTS) - len(left)
    assert counts == ({"passages in another language": gone} if gone else {})


@pytest.mark.parametrize(
    ("code", "hint"), [("EN", 'did you mean "en"'), ("deu", 'did you mean "de"'), ("xx", "known: ")]
)
def test_an_unknown_language_is_named_with_the_nearest(code, hint):
    with pytest.raises(UserError, match=rf"data\.domain\.clean\.languages: no language '{code}'.*{hint}"):
        foreign(["text"], ["en", code], "data.domain.clean.languages")


SHARES = [("test", 0.3), ("dev", 0.2)]


def split_of(qrels: dict[str, dict[str, dict[str, int]]]) -> dict[str, str]:
    return {query_id: split for split, judged in qrels.items() for query_id in judged}


def distinct_set(count: int, metadata, query_metadata=()) -> RetrievalSet:
    ids = [f"{i:02d}" for i in range(count)]
    corpus = Texts([f"p{i}" for i in ids], [f"passage{i}" for i in ids], metadata=list(metadata))
    queries = Texts([f"q{i}" for i in ids], [f"query{i}" for i in ids], metadata=list(query_metadata))
    return RetrievalSet(corpus, queries, {"train": {f"q{i}": {f"p{i}": 1} for i in ids}})


@pytest.mark.parametrize("seed", range(5))
def test_a_document_is_never_torn_apart(seed):
    data = distinct_set(30, [{"document": f"doc{i // 3}"} if i < 24 else {} for i in range(30)])
    home = split_of(cut(data, SHARES, seed, "document"))
    assert all(len({home[f"q{i:02d}"] for i in range(first, first + 3)}) == 1 for first in range(0, 24, 3))
    assert set(home.values()) == {"train", "dev", "test"}
    assert len(home) == 30


@pytest.mark.parametrize("seed", range(5))
def test_a_group_of_passages_or_queries_is_never_torn_apart(seed):
    of_passages = [{"group": 7} if i < 5 else {} for i in range(30)]
    of_queries = [{"group": "7"} if i in (28, 29) else {"group": "b"} if 20 <= i < 25 else {} for i in range(30)]
    home = split_of(cut(distinct_set(30, of_passages, of_queries), SHARES, seed, "group"))
    assert len({home[f"q{i:02d}"] for i in (0, 1, 2, 3, 4, 28, 29)}) == 1
    assert len({home[f"q{i:02d}"] for i in range(20, 25)}) == 1


def test_without_documents_each_passage_is_one_and_metadata_changes_nothing_by_query():
    plain, told = distinct_set(30, []), distinct_set(30, [{"document": "same", "group": "same"}] * 30)
    assert cut(plain, SHARES, 3) == cut(plain, SHARES, 3, "document") == cut(told, SHARES, 3)


def test_a_split_by_group_needs_one():
    data = distinct_set(5, [{"document": "a"}] * 5, [{"group": None}] * 5)
    with pytest.raises(UserError, match=r'data\.domain\.split_by: group, but no train query .* has "group"'):
        cut(data, SHARES, 0, "group", "data.domain.split_by")
