"""The builders: which queries a document gives, which passages answer them, and that a query is not in its answer."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from bgetune.data import RetrievalSet
from bgetune.errors import UserError

from .test_documents import pdf, read, write


def pairs(data: RetrievalSet) -> list[tuple[str, str, list[str]]]:
    """(builder, query, texts of its passages)."""
    text = dict(zip(data.corpus.ids, data.corpus.texts, strict=True))
    rows = zip(data.queries.ids, data.queries.texts, data.queries.metadata, strict=True)
    return [(known["builder"], query, [text[i] for i in data.qrels["train"][i]]) for i, query, known in rows]


GUIDE = """# The garden pump

It moves water.

## Introduction

Read this.

## 1. Cleaning the filter

Take it out.

### Which brush is best?

A soft one.
"""


def test_headings_and_titles(tmp_path):
    data = read(write(tmp_path / "a.md", GUIDE))
    assert pairs(data) == [
        ("title_body", "The garden pump", ["It moves water."]),
        ("heading_section", "Cleaning the filter", ["Take it out."]),
        ("faq", "Which brush is best?", ["A soft one."]),
    ]
    # what a query says is in no title; what none says stays as context
    assert data.corpus.titles == ["", "Introduction", "", ""]
    assert data.queries.metadata[1] == {"document": "a.md", "builder": "heading_section"}


def test_the_first_builder_that_finds_a_query_counts(tmp_path):
    path = write(tmp_path / "a.md", GUIDE)
    assert [b for b, _, _ in pairs(read(path, builders=("heading_section", "faq")))] == ["heading_section"] * 2
    assert pairs(read(path, builders=("title_body",)))[0][0] == "title_body"
    assert read(path, builders=("title_body",)).corpus.titles[2:] == [
        "1. Cleaning the filter",
        "1. Cleaning the filter > Which brush is best?",
    ]


def test_an_ambiguous_heading_takes_the_ones_above_it(tmp_path):
    for name in ("One", "Two"):
        write(
            tmp_path / f"{name}.md", f"# {name} pump\n\n## Care\n\n### Cleaning\n\n{name}.\n\n## Own {name}\n\nText.\n"
        )
    write(tmp_path / "three.md", "# Three\n\n## A\n\n### Oil\n\nX.\n\n## B\n\n### Oil\n\nY.\n")
    queries = [query for _, query, _ in pairs(read(tmp_path, builders=("heading_section",)))]
    assert queries == [
        "One pump: Care: Cleaning",
        "Own One",
        "Two pump: Care: Cleaning",
        "Own Two",
        "Three: A: Oil",
        "Three: B: Oil",
    ]


def test_numbers_and_single_words_are_no_queries(tmp_path, caplog):
    text = "# The plans\n\nAll of them.\n\n## Tier 3\n\nIt has more.\n\n## Part II\n\nIt goes on.\n\n"
    write(tmp_path / "a.md", text + "## Valves\n\nThey close.\n\n## 2. Small tanks\n\nFull.\n")
    write(tmp_path / "b.md", "# Overheads\n\nWhat they are.\n\n## 泵的清洁\n\n打开阀门。\n")
    write(tmp_path / "c.txt", "Version 2\n\nWhat is new in it.\n")
    write(tmp_path / "d.md", "## Seals\n\nThey leak.\n")
    with caplog.at_level(logging.INFO):
        data = read(tmp_path)
    assert [(builder, query) for builder, query, _ in pairs(data)] == [
        ("title_body", "The plans"),
        ("heading_section", "The plans: Valves"),
        ("heading_section", "Small tanks"),
        ("heading_section", "泵的清洁"),
    ]
    assert len(data.corpus) == 9
    (said,) = [record.message for record in caplog.records if "make no query" in record.message]
    assert said.startswith(f"{tmp_path}: 5 titles and headings make no query, being numbers or a single word: ")
    assert all(repr(name) in said for name in ("Tier 3", "Part II", "Overheads", "Version 2", "Seals"))
    # one that is no query stays as context
    assert data.corpus.titles[1] == "Tier 3"


def test_no_title_holds_a_query_of_its_document(tmp_path):
    page = "<head><title>The Slice Type - The Book</title></head>"
    page += "<h1>The Book</h1><h1>The Slice Type</h1><p>It refers to a row.</p><h2>Go</h2><p>On with it.</p>"
    write(tmp_path / "a.html", page + "<h2>Ongoing care</h2><p>It lasts.</p>")
    data = read(tmp_path)
    assert [query for _, query, _ in pairs(data)] == ["The Slice Type", "The Slice Type: Go", "Ongoing care"]
    assert data.corpus.titles == ["", "", ""]
    write(tmp_path / "a.html", page + "<h2>Ongoing care</h2><p>It lasts.</p>")
    write(tmp_path / "b.md", "# Go\n\n## Examples\n\nText.\n\n## Ongoing care of it\n\nMore.\n")
    titles = read(tmp_path, builders=("heading_section",), include=("b.md",)).corpus.titles
    assert titles == ["Go > Examples", "Go"]  # "Go" is only letters of "ongoing"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pdf", pdf(["Of small pumps\nThey move water."], "Of small pumps")),
        ("a.pdf", pdf(["Of small\npumps\nThey move water."], "Of small pumps")),
        ("a.html", "<title>Of small pumps</title><p>Of small pumps</p><p>They move water.</p>"),
        ("a.csv", 'title,text\nOf small pumps,"Of small pumps. They move water."\n'),
        ("a.csv", 'title,text\nOf small pumps,"""Of Small Pumps!"" They move water."\n'),
        ("a.md", "# Of small pumps\n\n**Of small pumps**\n\nOf small pumps:\nThey move water.\n"),
    ],
)
def test_an_answer_does_not_begin_with_its_query(tmp_path, name, content):
    data = read(write(tmp_path / name, content))
    assert pairs(data) == [("title_body", "Of small pumps", ["They move water."])]


def test_a_query_that_is_all_of_its_answer_is_none(tmp_path):
    data = read(write(tmp_path / "a.csv", "title,text\nOf pumps,Of pumps\nMost hearts,Most hearts beat fast.\n"))
    assert pairs(data) == [("title_body", "Most hearts", ["Most hearts beat fast."])]
    assert data.corpus.texts[0] == "Of pumps"
    data = read(write(tmp_path / "a.csv", "question,answer\nHow high?,✓\nHow low?,How low? Ten.\n"))
    assert pairs(data) == [("question_answer", "How high?", ["✓"]), ("question_answer", "How low?", ["Ten."])]
    data = read(write(tmp_path / "a.csv", "question,answer\n泵的清洁,泵的清洁。打开阀门。\n"))
    assert pairs(data) == [("question_answer", "泵的清洁", ["打开阀门。"])]


def test_short_answers_stay(tmp_path):
    path = write(tmp_path / "a.md", "## Is it free to use?\n\nYes, for up to five.\n\n## Other\n\nShort.\n")
    assert pairs(read(path, min_tokens=12)) == [("faq", "Is it free to use?", ["Yes, for up to five."])]
    with pytest.raises(UserError, match=r"documents\.min_tokens: no text of 12 tokens"):
        read(path, min_tokens=12, builders=("title_body",))


def test_the_same_title_twice_is_no_query(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.md", f"# The pump\n\nText of {name}.\n")
    data = read(tmp_path)
    assert len(data.queries) == 0
    assert data.corpus.titles == ["The pump", "The pump"]


def test_a_long_section_gives_several_positives(tmp_path):
    text = " ".join(f"Sentence number {i} is here." for i in range(12))
    data = read(write(tmp_path / "a.md", f"## Counting sentences\n\n{text}\n"), chunk_tokens=10)
    assert len(data.corpus) == 6
    [judged] = data.qrels["train"].values()
    assert list(judged) == [f"a.md#000{i}" for i in range(1, 5)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "**How do I start it?**\n\nPress it.\n\n**How do I stop it?**\nPull it.\n"),
        ("a.md", "1. **How do I start it?**\n   Press it.\n2. **How do I stop it?**\n   Pull it.\n"),
        ("a.md", "Q: How do I start it?\nA: Press it.\n\nQ: How do I stop it?\nA: Pull it.\n"),
        ("a.md", "**Q:** How do I start it?\n\n**A:** Press it.\n\n**Q:** How do I stop it?\n\n**A:** Pull it.\n"),
        ("a.txt", "Q1. How do I start it?\nPress it.\nQ2. How do I stop it?\nPull it.\n"),
        ("a.html", "<dl><dt>How do I start it?<dd>Press it.<dt>How do I stop it?<dd>Pull it.</dl>"),
        (
            "a.md",
            "<details><summary>How do I start it?</summary>\n\nPress it.\n\n</details>\n"
            "<details>\n<summary><b>How do I stop it?</b></summary>\nPull it.\n</details>\n\n",
        ),
        ("a.html", "<h3>How do I start it?</h3>Press it.<h3>How do I stop it?</h3><div>Pull it.</div>"),
    ],
)
def test_questions_and_answers(tmp_path, name, text):
    assert pairs(read(write(tmp_path / name, text))) == [
        ("faq", "How do I start it?", ["Press it."]),
        ("faq", "How do I stop it?", ["Pull it."]),
    ]


def test_what_is_no_question_stays_in_the_text(tmp_path):
    text = "**Note this**\n\nIs it so? Yes.\n\n<details><summary>More</summary>\n\nHidden.\n\n</details>\n\nAfter.\n"
    data = read(write(tmp_path / "a.md", text))
    assert data.corpus.texts == ["Note this\nIs it so? Yes.\nMore\nHidden.\nAfter."]
    asked = write(tmp_path / "b.md", "**How do I start it?**\n\nPress it.\n")
    assert read(asked, builders=("heading_section",)).corpus.texts == ["How do I start it?\nPress it."]


def test_a_closed_list_of_questions_ends_its_last_answer(tmp_path):
    text = "<details><summary>How do I stop it?</summary>Pull it.</details><p>Unrelated text.</p>"
    data = read(write(tmp_path / "a.html", text))
    assert pairs(data) == [("faq", "How do I stop it?", ["Pull it."])]
    assert data.corpus.texts == ["Pull it.", "Unrelated text."]


def test_equal_questions_are_one_with_all_their_answers(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.md", f"## How do I{' ' * (name == 'b')} start it?\n\nPress {name}.\n")
    assert pairs(read(tmp_path)) == [("faq", "How do I start it?", ["Press a.", "Press b."])]


def test_paraphrases(tmp_path):
    path = write(tmp_path / "a.csv", "sentence1,sentence2\nA man walks.,Someone is walking.\n")
    assert pairs(read(path, builders=("paraphrase",))) == [("paraphrase", "A man walks.", ["Someone is walking."])]
    assert pairs(read(path)) == []
    named = read(path, {"query": "sentence2", "positive": "sentence1"}, builders=("paraphrase", "question_answer"))
    assert pairs(named) == [("paraphrase", "Someone is walking.", ["A man walks."])]


def test_titles_of_a_table(tmp_path):
    data = read(write(tmp_path / "a.csv", "title,text\nThe heart,It beats.\nThe lung,It breathes.\n"))
    assert pairs(data) == [("title_body", "The heart", ["It beats."]), ("title_body", "The lung", ["It breathes."])]
    assert data.corpus.titles == ["", ""]
    assert [known["document"] for known in data.corpus.metadata] == ["a.csv:2", "a.csv:3"]


def test_columns_by_configuration(tmp_path):
    rows = [
        {"q": "How?", "a": ["Like this.", "Or like that."], "bad": ["Not so."], "no": 7},
        {"q": None, "a": "Alone.", "bad": None, "no": 8},
    ]
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    data = read(path, {"query": "q", "positive": "a", "negative": "bad", "group": "no"})
    assert data.corpus.texts == ["Like this.", "Or like that.", "Not so.", "Alone."]
    assert [sorted(judged) for judged in data.qrels["train"].values()] == [["t.jsonl#0001", "t.jsonl#0002"]]
    assert read(path, {"text": "a", "id": "no"}).corpus.ids == ["7", "8"]
    for columns, message in (
        ({"qery": "q"}, r"data\.domain\.columns: 'qery' is none of our names; did you mean \"query\"\?"),
        ({"query": "q"}, r"data\.domain\.columns: query is named and positive is not"),
        ({"text": "aa"}, r"data\.domain\.columns: .*t\.jsonl has no column 'aa'"),
    ):
        with pytest.raises(UserError, match=message):
            read(path, columns)


def test_ids_of_a_table_must_be_ids(tmp_path):
    path = write(tmp_path / "t.csv", "id,text\nx,One.\nx,Two.\n")
    with pytest.raises(UserError, match=r'the id "x" of t\.csv:3 is that of t\.csv:2 too'):
        read(path, {"id": "id", "text": "text"})
    path = write(tmp_path / "t.csv", "id,text\nx y,One.\n")
    with pytest.raises(UserError, match=r"t\.csv:2: the id 'x y' has white space"):
        read(path, {"id": "id", "text": "text"})


def test_excerpts_leave_their_passage(tmp_path):
    sentences = [f"This is sentence {i} of the whole text." for i in range(9)]
    path = write(tmp_path / "a.txt", " ".join(sentences))
    data = read(path, builders=("excerpts",), chunk_tokens=24)
    found = pairs(data)
    assert len(found) == len(data.corpus) == 3
    for _, query, texts in found:
        assert query in sentences
        assert all(query not in text for text in data.corpus.texts)
        assert len(texts) == 1
    again = read(path, builders=("excerpts",), chunk_tokens=24)
    assert again.queries == data.queries
    overlapping = read(path, builders=("excerpts",), chunk_tokens=32, chunk_overlap_tokens=8)
    assert all(query not in text for query in overlapping.queries.texts for text in overlapping.corpus.texts)


CODE = '''"""A module."""


class Pump:
    @property
    def rate(self) -> int:
        return self._rate

    @property
    def level(self) -> float:
        """Return the level of the water inside."""
        total = sum(self.parts)
        mean = total / len(self.parts)

        return mean


def broken(
'''


def test_functions_of_python_files(tmp_path: Path):
    good = CODE.removesuffix("def broken(\n")
    write(tmp_path / "pump.py", good)
    write(tmp_path / "broken.py", CODE)
    write(tmp_path / "__init__.py", "")
    data = read(tmp_path, builders=("heading_section", "docstring_code"))
    assert data.corpus.ids == ["pump.py#0001"]
    assert data.corpus.metadata == [{"document": "pump.py", "section": "Pump.level", "start": 9}]
    [(builder, query, [code])] = pairs(data)
    assert (builder, query) == ("docstring_code", "Return the level of the water inside.")
    assert code.startswith("@property\ndef level")
    assert "Return the level" not in code
    assert pairs(read(tmp_path)) == []
