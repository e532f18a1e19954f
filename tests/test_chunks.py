"""Sentences and passages: nothing is lost, limits hold, borders are where they should be."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bgetune.config_data import DocumentsConfig
from data_prep.documents.chunk import Chunk, chunk, pack
from data_prep.documents.parts import Block, Section, sections_of
from data_prep.documents.sentences import sentence_spans
from data_prep.documents.text import text_lines


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def crooked(texts: Sequence[str]) -> list[int]:
    """Like byte-level BPE at its worst: two more for every text, and white space between words counts too."""
    return [2 + len(re.findall(r"\w{1,3}|\s|[^\w\s]", text)) for text in texts]


def section(text: str, *path: str) -> Section:
    return sections_of(path, text_lines(text), faq=False)[0]


def cut(text: str, limit: int, overlap: int = 0, least: int = 0, count=words) -> list[Chunk]:
    config = DocumentsConfig(chunk_tokens=limit, chunk_overlap_tokens=overlap)
    return chunk([section(text)], config, least, count)


def bare_text(text: str) -> str:
    return "".join(text.split())


sentences = st.lists(
    st.lists(
        st.sampled_from(["a", "bb", "Word", "e.g.", "今日は。", "🙂", "x" * 40, "3.5", "Ä!", "?"]),
        min_size=1,
        max_size=9,
    )
    .map(" ".join)
    .map(lambda text: text + ". "),
    min_size=1,
    max_size=12,
)
texts = st.tuples(sentences, st.sampled_from(["", "\n", "\n\n", "\n- "])).map(
    lambda pair: ("A" + pair[1]).join(pair[0])
)


@settings(max_examples=150, deadline=None)
@given(texts, st.integers(3, 40), st.integers(0, 12), st.integers(0, 8), st.sampled_from([words, crooked]))
def test_nothing_is_lost_and_the_limit_holds(text, limit, overlap, least, count):
    chunks = cut(text, limit, overlap, least, count)
    own = "".join(bare_text(Chunk(0, piece.units[piece.repeated :]).text) for piece in chunks)
    assert own == bare_text(text) or (not chunks and count([text.strip()])[0] < least)
    for piece in chunks:
        assert count([piece.text])[0] <= limit or len(bare_text(piece.text)) == 1
        assert sum(words([unit.text for unit in piece.units[: piece.repeated]])) <= overlap or count is crooked
        assert piece.repeated < len(piece.units)
    assert [piece.text for piece in chunks] == [piece.text for piece in cut(text, limit, overlap, least, count)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 20), st.integers(0, 9), st.integers(0, 6))
@example([7, 1, 3, 7, 1, 4], 10, 1, 5)
def test_packing(sizes, room, overlap, least):
    chunks = pack(sizes, room, overlap, least)
    assert [i for _, start, end in chunks for i in range(start, end)] == list(range(len(sizes)))
    for first, start, end in chunks:
        assert sum(sizes[first:end]) <= room or end - first == 1
        assert sum(sizes[first:start]) <= overlap
    for (_, a, b), (_, c, d) in pairwise(chunks):
        small = min(sum(sizes[a:b]), sum(sizes[c:d])) < least
        assert not small or sum(sizes[a:d]) > room  # else they would have been joined


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab A.!?。\n-1\"'…) "), max_size=60))
def test_sentences_hold_all_of_the_text_in_order(text):
    spans = sentence_spans(text)
    assert bare_text("".join(text[a:b] for a, b in spans)) == bare_text(text)
    assert all(a < b and text[a:b] == text[a:b].strip() for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. J. Smith et al. wrote it. Then left.", ["Mr. J. Smith et al. wrote it.", "Then left."]),
        ("See e.g. Fig. 3 and No. 5. Next one.", ["See e.g. Fig. 3 and No. 5.", "Next one."]),
        ('He said "Go." Then he went… away. 2 left.', ['He said "Go."', "Then he went… away.", "2 left."]),
        ("「行こう。」彼は言った。それから？", ["「行こう。」", "彼は言った。", "それから？"]),
        ("यह है। वह भी।", ["यह है।", "वह भी।"]),
        ("one:\n- first\n- second", ["one:", "- first", "- second"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_where_sentences_end(text, expected):
    assert [text[a:b] for a, b in sentence_spans(text)] == expected


def test_passages_end_with_sentences_and_only_long_ones_are_cut_at_words():
    text = "One two three. Four five. Six seven eight nine ten eleven twelve. End it."
    assert [c.text for c in cut(text, 5)] == [
        "One two three. Four five.",
        "Six seven eight nine ten",
        "eleven twelve. End it.",
    ]


def test_overlap_repeats_whole_sentences():
    chunks = cut("A b c. D e. F g h. I j. K l.", 5, overlap=2)
    assert [c.text for c in chunks] == ["A b c. D e.", "D e. F g h.", "I j. K l."]
    assert [c.repeated for c in chunks] == [0, 1, 0]


def test_small_passages_join_take_or_go():
    assert [c.text for c in cut("A b c d. E f g h. I.", 8, least=3)] == ["A b c d.", "E f g h. I."]
    assert [c.text for c in cut("A b c d e f g h. I.", 8, least=3)] == ["A b c d e f g h.", "I."]  # no room beside it
    assert cut("Too short.", 8, least=3) == []


def test_a_passage_never_holds_two_sections():
    config = DocumentsConfig(chunk_tokens=50)
    chunks = chunk([section("One two. Three.", "A"), section("Four five.", "B")], config, 0, words)
    assert [(c.section, c.text) for c in chunks] == [(0, "One two. Three."), (1, "Four five.")]


def test_code_stays_whole_where_it_fits_and_is_cut_at_lines_where_not():
    code = Block("if a. B:\n    c = 1\n\nd = 2", (3, 4, 5, 6), code=True)
    parts = Section((), (Block("Some text here. More of it.", (1,)), code))
    whole = chunk([parts], DocumentsConfig(chunk_tokens=9), 0, words)
    assert [c.text for c in whole] == ["Some text here. More of it.", code.text]
    lines = chunk([parts], DocumentsConfig(chunk_tokens=7), 0, words)
    assert [c.text for c in lines] == ["Some text here. More of it.", "if a. B:\n    c = 1", "d = 2"]
    assert [c.start for c in lines] == [1, 3, 6]


def test_start_is_the_line_of_the_first_new_sentence():
    chunks = cut("One two\nthree. Four\nfive six.\n\nSeven eight nine.", 3)
    assert [(c.text, c.start) for c in chunks] == [
        ("One two\nthree.", 1),
        ("Four\nfive six.", 2),
        ("Seven eight nine.", 5),
    ]


def test_a_megabyte_takes_few_calls_and_seconds():
    calls = []

    def count(some: Sequence[str]) -> list[int]:
        calls.append(len(some))
        return words(some)

    text = "\n\n".join(f"Sentence {i} of many words goes on here. And one more {i}." for i in range(18_000))
    started = time.monotonic()
    chunks = cut(text, 200, count=count)
    assert len(text) > 1_000_000
    assert len(chunks) > 1000
    assert len(calls) <= 4
    assert time.monotonic() - started < 10


def test_one_line_without_any_space_is_cut_too():
    def characters(some: Sequence[str]) -> list[int]:
        return [len(text) for text in some]

    text = "x" * 100_000
    chunks = cut(text, 200, count=characters)
    assert "".join(c.text for c in chunks) == text
    assert all(len(c.text) <= 200 for c in chunks)
