"""The audit of mined negatives: its figures, its page under hostile texts, its summary in a log file."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

from bgetune.html.markup import clip, passage, safe, within
from bgetune.html.ticks import nice_step
from bgetune.html.words import percent
from data_prep.audit.draw import histogram_svg, make_bins
from data_prep.audit.facts import (
    AuditExample,
    AuditInput,
    AuditPassage,
    FalseNegatives,
    IndexFacts,
    Missed,
    TeacherScores,
    TooFew,
    choose_examples,
    missed_queries,
    suspects,
    wilson,
)
from data_prep.audit.page import page, write_page
from data_prep.audit.terminal import print_summary
from data_prep.audit.words import remarks, verdict
from tests.html_check import Checker

NASTY = [
    "<script>alert(1)</script><b onmouseover='x()'>&amp;</b>",
    "\u202eשלום עולם، مرحبا بالعالم",
    "👩‍👩‍👧‍👦 emoji 🎉 " * 30,
    "word " * 2000,
    "𝕏" * 10_000,
    '"><img src=x onerror=alert(1)> \x00\x1b\ud800 line\r\nbreak',
    "",
    "   ",
]


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def an_input(**changes: object) -> AuditInput:
    """Four queries, two signals and random, seven negatives, one query missed by both signals."""
    teacher = TeacherScores("org/judge", [f32(2, 4), f32(1)], [f32(1, 3, 5), f32(0.5, 1)])
    facts = AuditInput(
        name="demo",
        settings={"rank_last": 200, "margin": None, "sources": {"dense": 0.5, "bm25": 0.5}},
        corpus_size=1234,
        n_queries=4,
        negatives_wanted=2,
        searched_depth=200,
        positive_scores={"dense": f32(0.9, 0.8, 0.85, 0.7), "bm25": f32(12, 9, 3, 8)},
        negative_scores={"dense": f32(0.5, 0.6, 0.8), "bm25": f32(4, float("nan"), 2), "random": f32(float("nan"))},
        negative_ranks={"dense": i64(3, 9, 20), "bm25": i64(2, 4, 8), "random": i64(0)},
        best_positive_rank={"dense": i64(1, 0, 150, 7), "bm25": i64(0, 4, 101, 2)},
        dropped={
            "dense": {"known positive": 5, "score above the limit of mine.margin (0.1)": 30},
            "bm25": {"known positive": 15},
        },
        teacher=teacher,
        false_negatives=suspects(teacher),
        examples=[
            AuditExample(
                "q1",
                "how does it work?",
                [AuditPassage("d1", "It works so.", 0.9, teacher=2.0)],
                [
                    AuditPassage("d2", "A near thing.", 0.8, "dense", 3, 2.5),
                    AuditPassage("d3", "A far thing.", None, "random"),
                ],
            )
        ],
        too_few=[TooFew("q4", "rare words", 1)],
        missed=[Missed("q3", "unknown words", "d9", "What they mean.")],
        index=IndexFacts("IVF64,Flat", "nprobe 8", 0.987, 0.5),
        round_number=2,
        queries_changed=1,
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


def an_empty_input() -> AuditInput:
    return AuditInput("none", {}, 0, 0, 7, 100, {}, {}, {}, {})


def summary_of(facts: AuditInput) -> str:
    out = io.StringIO()
    print_summary(facts, Console(file=out, width=110, highlight=False))
    return out.getvalue()


# --- figures ---


def test_suspects_are_measured_against_the_best_positive_of_their_own_query():
    found = suspects(TeacherScores("t", [f32(2, 4), f32(1), f32()], [f32(3, 4, 5), f32(0.5), f32(9)]))
    assert found == FalseNegatives("t", suspected=2, judged=4)  # a query without a scored positive judges nothing


def test_suspects_leave_out_what_has_no_score():
    nan = float("nan")
    assert suspects(TeacherScores("t", [f32(nan, 1)], [f32(nan, 1, 0)])) == FalseNegatives("t", 1, 2)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_a_share(hits_of):
    low, high = wilson(*hits_of)
    assert 0 <= low <= hits_of[0] / hits_of[1] <= high <= 1
    assert low < high


def test_wilson_known_values():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


@given(st.integers(0, 300), st.integers(0, 40), st.integers(0, 5))
def test_chosen_examples_are_sorted_distinct_and_as_many_as_there_are(n, wanted, seed):
    chosen = choose_examples(n, wanted, seed)
    assert chosen == sorted(set(chosen)) == choose_examples(n, wanted, seed)
    assert len(chosen) == min(n, wanted)
    assert all(0 <= row < n for row in chosen)


def test_another_seed_chooses_other_examples():
    assert choose_examples(1000, 20, 0) != choose_examples(1000, 20, 1)


def test_a_query_is_missed_when_no_signal_finds_it_in_the_top_100():
    ranks = {"dense": i64(1, 0, 150, 100), "bm25": i64(0, 0, 101, 0)}
    assert missed_queries(ranks, 200).tolist() == [1, 2]
    assert missed_queries(ranks, 50).tolist() == [1, 2, 3]  # only the 50 that were searched count
    assert missed_queries({}, 50).tolist() == []


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_percent_says_none_and_all_only_when_it_is_so(part, whole):
    shown = percent(min(part, whole), whole)
    assert (shown == "0 %") == (part == 0)
    assert (shown == "100 %") == (part >= whole)
    assert shown not in ("0.0 %", "100.0 %")


def test_input_of_unequal_lengths_is_our_own_mistake():
    with pytest.raises(AssertionError):
        an_input(negative_ranks={"dense": i64(1)})
    with pytest.raises(AssertionError):
        an_input(best_positive_rank={"dense": i64(1)})


# --- histograms ---

scores = hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32))


@settings(max_examples=200, deadline=None)
@given(scores, scores)
def test_every_number_is_in_one_bin_and_nothing_else_is(positives, negatives):
    bins = make_bins(positives, negatives)
    numbers = [int(np.isfinite(side).sum()) for side in (positives, negatives)]
    if bins is None:
        assert numbers == [0, 0]
        return
    assert [bins.positives.sum(), bins.negatives.sum()] == numbers
    assert (np.diff(bins.edges) > 0).all()
    assert len(bins.edges) <= 40
    drawn = histogram_svg(bins, positives, negatives)
    assert not re.search(r"\b(nan|inf)\b", drawn.lower())
    Checker(drawn)


@given(st.floats(1e-30, 1e30), st.integers(1, 50))
def test_nice_step_covers_the_span(span, pieces):
    assert nice_step(span, pieces) * pieces >= span * (1 - 1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-20, 7e7])
def test_equal_scores_fill_one_bin(value):
    bins = make_bins(f32(*[value] * 5), f32(*[value] * 3))
    assert bins is not None
    assert bins.positives.max() == 5
    assert bins.negatives.max() == 3


# --- page ---


def test_the_page_says_what_the_facts_say():
    seen = Checker(page(an_input()))
    text = re.sub(r"\s+", " ", seen.text)
    for words in (
        "Mined negatives: demo",
        "4 queries, 1,234 passages, round 2",
        "7 negatives for 4 queries, 1.8 a query.",
        "1 query has fewer than 2 negatives (25.0 %)",
        "1 query has no positive in the top 100 (25.0 %)",
        "40.0 % of the negatives that org/judge judged look like positives: 2 of 5",
        "Round 2: 1 query (25.0 %) has other negatives than in round 1.",
        "50 candidates that were not taken",
        "Index IVF64,Flat with nprobe 8: on a held sample of queries it finds 98.7 %",
        "Negatives without a score: 1.",
        "mine.sources.dense",
        "as good as the positive",
        "rare words",
        "unknown words",
    ):
        assert words in text, words


def test_the_page_needs_nothing_but_itself():
    html = page(an_input())
    seen = Checker(html)
    assert not seen.named("script")
    assert not seen.named("link")
    assert not seen.named("img")
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html
    assert all((attrs["href"] or "").startswith("#") for attrs in seen.named("a"))


def test_tables_and_pictures_are_named():
    seen = Checker(page(an_input()))
    assert len(seen.named("caption")) == len(seen.named("table")) > 5
    assert all(attrs.get("scope") in ("row", "col") for attrs in seen.named("th"))
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in seen.named("svg"))
    assert len(seen.named("figcaption")) == len(seen.named("figure")) == 3  # dense, bm25, teacher; random has no score
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {(attrs["href"] or "")[1:] for attrs in seen.named("a")}
    assert targets | {attrs["aria-labelledby"] for _, attrs in seen.tags if "aria-labelledby" in attrs} <= set(ids)


@pytest.mark.parametrize("text", NASTY)
def test_hostile_texts_stay_texts(text, tmp_path):
    one = AuditPassage(text, text, 0.5, "dense", 1, 0.1)
    facts = an_input(
        name=text,
        settings={"key " + text: text},
        dropped={text: {text: 3}, "b": {text: 1}},
        teacher=TeacherScores(text, [f32(1)], [f32(2)]),
        false_negatives=FalseNegatives(text, 1, 2),
        examples=[AuditExample(text, text, [one], [one])],
        too_few=[TooFew(text, text, 0)],
        missed=[Missed(text, text, text, text)],
        negative_scores={text: f32(1, 2)},
        negative_ranks={},
        positive_scores={text: f32(1)},
    )
    write_page(tmp_path / "audit.html", facts)
    html = (tmp_path / "audit.html").read_text(encoding="utf-8")
    seen = Checker(html)
    assert not seen.named("script")
    assert not seen.named("img")
    assert not [attrs for _, attrs in seen.tags if any(name.startswith("on") for name in attrs)]
    assert not re.search(r"[\x00\x1b]", html)
    assert verdict(facts) in summary_of(facts).replace("\n", " ")


def test_long_texts_open_and_say_where_they_are_cut():
    text = "word " * 2000
    html = passage(text, 2000, 10**6)
    seen = Checker(html)
    assert seen.named("details")
    assert "Cut at 1,999 of 10,000 characters." in seen.text
    assert "<details>" not in passage("short", 2000, 10**6)
    whole = passage("word " * 100, 2000, 10**6)
    assert "Cut at" not in whole
    assert "<details>" in whole


def test_twenty_long_examples_stay_below_a_megabyte(tmp_path):
    one = AuditPassage("d" * 500, "<&𝕏" * 3000, 0.5, "dense", 1, 0.1)
    example = AuditExample("q" * 500, "<&𝕏" * 3000, [one] * 40, [one] * 100)
    few = [TooFew("q" * 500, "<&𝕏" * 3000, 0)] * 2000
    missed = [Missed("q" * 500, "<&𝕏" * 3000, "d", "<&𝕏" * 3000)] * 2000
    facts = an_input(
        n_queries=2000,
        best_positive_rank={"dense": np.zeros(2000, dtype=np.int64)},
        examples=[example] * 20,
        too_few=few,
        missed=missed,
    )
    write_page(tmp_path / "audit.html", facts)
    assert (tmp_path / "audit.html").stat().st_size < 1_000_000
    text = Checker((tmp_path / "audit.html").read_text(encoding="utf-8")).text
    assert text.count("The first 50 of 2,000 queries") == 2
    assert "And 80 more." in text
    assert "And 35 more." in text


def test_nothing_at_all_is_a_page_too(tmp_path):
    facts = an_empty_input()
    write_page(tmp_path / "audit.html", facts)
    text = Checker((tmp_path / "audit.html").read_text(encoding="utf-8")).text
    assert "No negatives for 0 queries" in text
    assert "There are no scores." in text
    assert "Nothing was dropped." in text
    assert "Nothing was searched." in text
    assert "Every query" not in text
    assert "No negatives for 0 queries" in summary_of(facts)


def test_exact_search_is_said():
    assert "Search was exact." in page(an_input(index=None))


def test_no_score_at_all_never_shows_nan():
    nan = float("nan")
    facts = an_input(
        positive_scores={"dense": f32(nan, float("inf"))},
        negative_scores={"dense": f32(nan, nan)},
        negative_ranks={"dense": i64(0, 0)},
        teacher=TeacherScores("t", [f32(nan)], [f32(nan)]),
        false_negatives=FalseNegatives("t", 0, 0),
        examples=[AuditExample("q", "q", [AuditPassage("d", "t", nan, teacher=nan)], [])],
    )
    for shown in (Checker(page(facts)).text, summary_of(facts)):
        assert not re.search(r"\b(nan|inf)\b", shown.lower())


def test_the_same_facts_give_the_same_bytes(tmp_path: Path):
    write_page(tmp_path / "a.html", an_input())
    write_page(tmp_path / "b.html", an_input())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


# --- what needs attention ---


def kinds(facts: AuditInput) -> list[str]:
    return [remark.kind for remark in remarks(facts)]


def test_remarks_look_where_there_is_something_to_see():
    assert kinds(an_input()) == ["look", "look", "look", "fine"]


def test_remarks_are_fine_where_all_is_well():
    facts = an_input(
        too_few=[],
        missed=[],
        best_positive_rank={"dense": i64(1, 2, 3, 100)},
        false_negatives=FalseNegatives("t", 0, 5000),
        queries_changed=None,
    )
    assert kinds(facts) == ["fine", "fine", "fine"]
    assert "0 % of the negatives (95 % interval 0.000 to 0.077 %)" in remarks(facts)[1].text


def test_a_teacher_that_filtered_is_no_independent_judge():
    teacher = TeacherScores("t", [f32(1)], [f32(0)], filtered=True)
    facts = an_input(teacher=teacher, false_negatives=suspects(teacher))
    assert kinds(facts)[1] == "unknown"
    assert "no independent judgement" in page(facts)


def test_without_a_judge_false_negatives_are_not_known():
    facts = an_input(teacher=None, false_negatives=None)
    assert kinds(facts)[1] == "unknown"
    assert "No estimate" in page(facts)


# --- small pieces ---


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60), st.integers(0, 80))
def test_within_keeps_the_longest_start_that_fits(text, most):
    kept = within(text, most)
    assert text.startswith(kept)
    assert len(safe(kept).encode()) <= most
    if len(kept) < len(text):
        assert sum(len(safe(c).encode()) for c in text[: len(kept) + 1]) > most


@given(st.text(max_size=60), st.integers(1, 80))
def test_clip_is_a_start_of_the_text(text, most):
    assert text.startswith(clip(text, most))
    assert len(clip(text, most)) <= most


# --- terminal ---


def test_summary_is_plain_in_a_log_file():
    out = summary_of(an_input())
    assert "\x1b" not in out
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "demo: 7 negatives for 4 queries, 1.8 a query."
    assert any(re.fullmatch(r"\s+dense\s+3\s+42\.9 %\s+0\.600\s+9", line) for line in lines)
    assert any(re.fullmatch(r"\s+random\s+1\s+14\.3 %\s+-\s+-", line) for line in lines)
    assert "dropped: 30 score above the limit of mine.margin (0.1), 20 known positive" in lines
    assert sum(line.startswith("look: ") for line in lines) == 3


def test_summary_goes_to_stdout(capsys):
    print_summary(an_input())
    assert "7 negatives for 4 queries" in capsys.readouterr().out


def test_queries_without_negatives_are_counted_and_the_filter_that_dropped_most_is_named():
    few = [TooFew("q1", "one", 0), TooFew("q2", "two", 0), TooFew("q3", "three", 1)]
    limit = "score above the limit of mine.max_share_of_positive (0.95)"
    facts = replace(an_input(), too_few=few, dropped={"dense": {"known positive": 90, limit: 50, "same text": 2}})
    (said,) = [remark.text for remark in remarks(facts) if "fewer than" in remark.text]
    assert said == (
        "3 queries have fewer than 2 negatives (75.0 %), 2 of them none; they train with what they have. "
        f"What dropped most: {limit}. A larger mine.rank_last or a looser filter gives more."
    )
