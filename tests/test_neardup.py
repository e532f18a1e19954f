"""Near-duplicate search: the fast join finds what the double loop finds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import neardup
from data_prep.neardup import near_duplicates, words_of


def naive(a: list[str], b: list[str], threshold: float) -> list[tuple[int, int]]:
    def jaccard(x: frozenset[str], y: frozenset[str]) -> float:
        return len(x & y) / len(x | y)

    return [
        (i, j) for i in range(len(a)) for j in range(len(b)) if jaccard(words_of(a[i]), words_of(b[j])) >= threshold
    ]


some_texts = st.lists(st.lists(st.sampled_from("aAbcdefg.?"), max_size=7).map(" ".join), max_size=12)


@settings(max_examples=150, deadline=None)
@given(some_texts, some_texts, st.sampled_from([0.3, 0.5, 2 / 3, 0.8, 1.0]))
def test_near_duplicates_equal_the_double_loop(a, b, threshold):
    assert near_duplicates(a, b, threshold) == naive(a, b, threshold)


def test_near_duplicates_in_blocks(monkeypatch):
    texts = [f"{i % 7} {i % 5} {i % 3} same words here" for i in range(60)]
    whole = near_duplicates(texts, texts)
    monkeypatch.setattr(neardup, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(neardup, "_PAIRS_AT_ONCE", 5)
    assert near_duplicates(texts, texts) == whole == naive(texts, texts, 0.8)
