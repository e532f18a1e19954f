"""Cleaning: what is merged or left out, what becomes of the judgements; the cut by document and group."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgetune.config_data import CleanConfig
from bgetune.data import RetrievalSet, Texts, normalised
from bgetune.errors import UserError
from data_prep.clean import duplicates
from data_prep.clean.duplicates import exact_duplicates, near_duplicate_leaders
from data_prep.clean.filters import Cleaned, clean, word_count
from data_prep.clean.language import foreign
from data_prep.clean.near import connected
from data_prep.neardup import words_of
from data_prep.split import cut

OPTION = "data.domain.clean"


def a_set(passages: dict[str, str], qrels: dict[str, dict[str, dict[str, int]]], metadata=()) -> RetrievalSet:
    ids = sorted({query_id for judged in qrels.values() for query_id in judged})
    corpus = Texts(list(passages), list(passages.values()), metadata=list(metadata))
    return RetrievalSet(corpus, Texts(ids, [f"question about {i}{i}{i}" for i in ids]), qrels)


def near_by_hand(a: str, b: str, threshold: float) -> bool:
    one, other = words_of(a), words_of(b)
    numbers = [{word for word in words if any(c in "0123456789" for c in word)} for words in (one, other)]
    return len(one & other) / len(one | other) >= threshold and numbers[0] == numbers[1]


def leaders_by_double_loop(texts: list[str], threshold: float) -> list[int]:
    first: list[int] = []
    for i, text in enumerate(texts):
        first.append(next((j for j in range(i) if first[j] == j and near_by_hand(text, texts[j], threshold)), i))
    return first


def connected_by_double_loop(texts: list[str], threshold: float) -> list[int]:
    first = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if near_by_hand(texts[i], texts[j], threshold):
                low, high = sorted((first[i], first[j]))
                first = [low if f == high else f for f in first]
    return first


some_texts = st.lists(st.lists(st.sampled_from("aAbcdefg.?12"), max_size=9).map(" ".join), max_size=15)
thresholds = st.sampled_from([0.3, 0.5, 2 / 3, 0.8, 1.0])


@settings(max_examples=200, deadline=None)
@given(some_texts, thresholds)
def test_leaders_equal_the_double_loop(texts, threshold):
    assert near_duplicate_leaders(texts, threshold).tolist() == leaders_by_double_loop(texts, threshold)


@settings(max_examples=200, deadline=None)
@given(some_texts, thresholds)
def test_connected_equal_the_double_loop(texts, threshold):
    assert connected(texts, threshold).tolist() == connected_by_double_loop(texts, threshold)


@settings(max_examples=100, deadline=None)
@given(some_texts)
def test_exact_duplicates_are_the_normalised_equal_ones(texts):
    keys = [normalised(text) for text in texts]
    assert exact_duplicates(texts).tolist() == [keys.index(key) for key in keys]


LETTERS = str.maketrans("0123456789", "abcdefghij")


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
            texts.append(" ".join(f"w{word}".translate(LETTERS) for word in copy))
    return [texts[i] for i in random.permutation(len(texts))]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
def test_lsh_finds_the_leaders_of_the_exact_search(monkeypatch, threshold):
    texts = noisy_copies(0)
    exact = near_duplicate_leaders(texts, threshold)
    monkeypatch.setattr(duplicates, "EXACT_UP_TO", 0)
    monkeypatch.setattr(duplicates, "_TEXTS_AT_ONCE", 100)
    found = near_duplicate_leaders(texts, threshold)
    assert (found == exact).mean() > 0.999
    assert len(set(exact.tolist())) < len(texts)
    # nothing goes that is not near to the one that stays for it
    assert all(near_by_hand(texts[i], texts[j], threshold) for i, j in enumerate(found.tolist()) if i != j)


PUMPS = [
    f"The operating pressure of pump model {i} is {3 * i} bar at the outlet, and the operator checks it every morning."
    for i in range(1, 31)
]
CHAIN = [" ".join(f"w{chr(97 + k)}" for k in range(start, start + 12)) for start in range(12)]


@pytest.mark.parametrize("exact_up_to", [20_000, 0])
def test_texts_with_other_numbers_and_the_far_ends_of_a_chain_all_stay(monkeypatch, exact_up_to):
    monkeypatch.setattr(duplicates, "EXACT_UP_TO", exact_up_to)
    assert near_duplicate_leaders(PUMPS, 0.5).tolist() == list(range(30))
    # each is 11/13 alike its neighbour; of those near the first one only the next goes, and so on
    assert near_duplicate_leaders(CHAIN, 0.8).tolist() == [i - i % 2 for i in range(12)]


@pytest.mark.parametrize("exact_up_to", [20_000, 0])
def test_many_copies_of_a_template_take_seconds(monkeypatch, exact_up_to):
    texts = [f"{' '.join(f'w{k}' for k in range(40))} unique{chr(97 + i % 26)}{'x' * (i // 26)}" for i in range(5000)]
    monkeypatch.setattr(duplicates, "EXACT_UP_TO", exact_up_to)
    start = time.monotonic()
    assert set(near_duplicate_leaders(texts, 0.8).tolist()) == {0}
    assert set(connected(texts, 0.8).tolist()) == {0}
    assert time.monotonic() - start < 10  # a second; every pair would be minutes


def test_queries_of_one_template_that_are_not_near_take_seconds():
    """Word sets that share 6 of 8: the words in common come too late in them to be looked at."""
    texts = [f"What are the treatments for disease {chr(97 + i % 26)}{'x' * (i // 26)} ?" for i in range(8000)]
    start = time.monotonic()
    assert connected(texts, 0.8).tolist() == list(range(8000))
    assert time.monotonic() - start < 8  # half a second; it was 27


def test_clusters_do_not_depend_on_the_hash_seed_or_the_threads():
    program = (
        "from tests.test_clean import noisy_copies; from data_prep.clean import duplicates as d; import hashlib\n"
        "for d.EXACT_UP_TO in (0, 20_000):\n"
        "    print(hashlib.sha256(d.near_duplicate_leaders(noisy_copies(1), 0.8).tobytes()).hexdigest())"
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
        assert clean(data, CleanConfig(), kind, OPTION) == Cleaned(data, {}, {})
    assert clean(data, CleanConfig(), "documents", OPTION).counts == {"duplicate passages merged": 2}


def test_exact_duplicates_become_the_first_and_their_judgements_move():
    found = clean(a_set(PASSAGES, QRELS), CleanConfig(duplicates="exact"), "beir", OPTION)
    cleaned, counts = found.data, found.counts
    assert cleaned.corpus.ids == ["a", "b", "d"]
    assert cleaned.qrels == {
        "train": {"q1": {"a": 2, "b": 0}, "q2": {"d": 1, "a": 0}, "q3": {"b": 1}},
        "test": {"q4": {"a": 3}},
    }
    assert counts == {"duplicate passages merged": 1}


def test_near_duplicates_keep_the_highest_relevance():
    found = clean(a_set(PASSAGES, QRELS), CleanConfig(duplicates="near"), "beir", OPTION)
    cleaned, counts = found.data, found.counts
    assert cleaned.corpus.ids == ["a", "b"]
    assert cleaned.qrels["train"]["q2"] == {"a": 1}
    assert counts == {"duplicate passages merged": 2}
    assert found.home == {"c": "a", "d": "a"}
    strict = clean(a_set(PASSAGES, QRELS), CleanConfig(duplicates="near", near_threshold=0.9), "beir", OPTION).data
    assert strict.corpus.ids == ["a", "b", "d"]


def test_length_takes_passages_out_and_queries_that_lose_their_answer():
    data = a_set({**PASSAGES, "e": "six seven eight nine ten eleven"}, {**QRELS, "dev": {"q5": {"e": 1, "a": 1}}})
    found = clean(data, CleanConfig(min_words=2, max_words=5), "beir", OPTION)
    cleaned, counts = found.data, found.counts
    assert cleaned.corpus.ids == ["a", "c", "d"]
    assert found.home == {}
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
    cleaned = clean(data, CleanConfig(min_words=3), "documents", OPTION).data
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
    found = clean(data, CleanConfig(languages=languages), "beir", OPTION)
    assert found.data.corpus.ids == left
    gone = len(TEXTS) - len(left)
    assert found.counts == ({"passages in another language": gone} if gone else {})


@pytest.mark.parametrize(
    ("code", "hint"), [("EN", 'did you mean "en"'), ("deu", 'did you mean "de"'), ("xx", "known: ")]
)
def test_an_unknown_language_is_named_with_the_nearest(code, hint):
    with pytest.raises(UserError, match=rf"data\.domain\.clean\.languages: no language '{code}'.*{hint}"):
        foreign(["text"], ["en", code], "data.domain.clean.languages")


def test_thirty_facts_of_one_form_stay_thirty_by_default():
    asked = Texts([f"q{i}" for i in range(30)], [f"What is the operating pressure of pump {i + 1}?" for i in range(30)])
    corpus = Texts([f"p{i}" for i in range(30)], PUMPS)
    data = RetrievalSet(corpus, asked, {"train": {f"q{i}": {f"p{i}": 1} for i in range(30)}})
    assert clean(data, CleanConfig(), "documents", OPTION) == Cleaned(data, {}, {})
    sizes = {split: len(judged) for split, judged in cut(data, SHARES, 0).items()}
    assert sizes == {"train": 15, "dev": 6, "test": 9}


@pytest.mark.parametrize("key", ["document", "group"])
def test_a_merged_passage_keeps_what_all_of_them_came_from_together(key):
    """Document 1's only passage says the same as document 0's: their queries may not stand on two sides."""
    data = distinct_set(12, [{key: f"d{i // 2}"} for i in range(12)])
    data.corpus.texts[5] = data.corpus.texts[0].upper()
    cleaned = clean(data, CleanConfig(duplicates="near"), "documents", OPTION)
    assert cleaned.home == {"p05": "p00"}
    assert cleaned.data.corpus.metadata[0] == {key: "d0", f"{key}s": ["d0", "d2"]}
    assert cleaned.data.corpus.metadata[1:] == [{key: f"d{i // 2}"} for i in range(1, 12) if i != 5]
    homes = [split_of(cut(cleaned.data, SHARES, seed, key)) for seed in range(10)]
    assert all(len({home[f"q{i:02d}"] for i in (0, 1, 4, 5)}) == 1 for home in homes)
    assert any(home["q00"] != home["q02"] for home in homes)


def test_a_querys_own_document_holds_it_together_with_the_others_of_it():
    data = distinct_set(20, [{}] * 20, [{"document": "same"} if i in (3, 11) else {} for i in range(20)])
    homes = [split_of(cut(data, SHARES, seed, "document")) for seed in range(20)]
    assert all(home["q03"] == home["q11"] for home in homes)


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
