"""The two file formats: what is written is read again; the first mistake is named with file:line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from bgetune.data import RetrievalSet, Texts, read_retrieval_set, write_retrieval_set
from bgetune.errors import UserError, explain_os_error
from bgetune.examples import Example, parse_example, read_examples, write_examples
from bgetune.files import write_json, write_jsonl

CORPUS = [
    '{"_id": "p1", "title": "T", "text": "one"}',
    '{"_id": "p2", "text": "two"}',
    '{"_id": "p3", "text": "three"}',
]
QUERIES = ['{"_id": "q1", "text": "first?"}', '{"_id": "q2", "text": "second?"}']
TRAIN = ["query-id\tcorpus-id\tscore", "q1\tp1\t1"]
TEST = ["query-id\tcorpus-id\tscore", "q2\tp2\t2", "q2\tp3\t1"]


def write_folder(folder: Path, **files: list[str]) -> Path:
    """A small good retrieval set, with some of its files replaced."""
    lines = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels/train.tsv": TRAIN, "qrels/test.tsv": TEST}
    lines |= {name.replace("__", "/").replace("_dot_", "."): content for name, content in files.items()}
    for name, content in lines.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in content), encoding="utf-8")
    return folder


def test_a_good_folder_is_read(tmp_path):
    data = read_retrieval_set(write_folder(tmp_path))
    assert data.corpus.ids == ["p1", "p2", "p3"]
    assert data.corpus.full_texts() == ["T one", "two", "three"]
    assert data.qrels == {"train": {"q1": {"p1": 1}}, "test": {"q2": {"p2": 2, "p3": 1}}}
    assert data.queries_of("test").ids == ["q2"]
    assert data.queries_of("test").texts == ["second?"]
    assert data.queries.where(1) == f"{tmp_path}/queries.jsonl:2"


def test_what_is_written_is_read_again(tmp_path):
    corpus = Texts(["p1", "p2"], ["süß 🎉\nline", "two"], ["A title", ""])
    queries = Texts(["q1", "q2"], ["x y", "z\u2028"])
    data = RetrievalSet(corpus, queries, {"train": {"q1": {"p1": 1}}, "dev": {"q2": {"p2": 3, "p1": 1}}})
    write_retrieval_set(tmp_path / "set", data)
    again = read_retrieval_set(tmp_path / "set")
    assert (again.corpus.ids, again.corpus.texts, again.corpus.titles) == (corpus.ids, corpus.texts, corpus.titles)
    assert (again.queries.ids, again.queries.texts, again.qrels) == (queries.ids, queries.texts, data.qrels)


def test_blank_lines_header_and_irrelevant_judgements_are_passed_over(tmp_path):
    folder = write_folder(
        tmp_path, queries_dot_jsonl=[*QUERIES, "", "  "], qrels__test_dot_tsv=["q2\tp2\t1.0", "", "q1\tp1\t0"]
    )
    assert read_retrieval_set(folder).qrels["test"] == {"q2": {"p2": 1}}


LONG_ID = '{"_id": "p1", "text": "again"}'


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("corpus_dot_jsonl", [*CORPUS, "{broken"], "corpus.jsonl:4: not valid JSON (Expecting property name"),
        ("corpus_dot_jsonl", ["[" * 10**5], "corpus.jsonl:1: nested too deeply to be read"),
        ("corpus_dot_jsonl", ['{"a": ' * 10**5], "corpus.jsonl:1: nested too deeply to be read"),
        ("corpus_dot_jsonl", ['{"a": ' + "9" * 5000 + "}"], "corpus.jsonl:1: not valid JSON (Exceeds the limit"),
        ("corpus_dot_jsonl", ['{"a": NaN}'], "corpus.jsonl:1: not valid JSON (NaN is no finite number)"),
        ("corpus_dot_jsonl", ['{"a": [-Infinity]}'], "corpus.jsonl:1: not valid JSON (-Infinity is no finite number)"),
        ("corpus_dot_jsonl", ['{"a": 1e999}'], "corpus.jsonl:1: not valid JSON (1e999 is no finite number)"),
        ("corpus_dot_jsonl", ["[1]"], "corpus.jsonl:1: expected a JSON object, got list"),
        ("corpus_dot_jsonl", ['{"text": "x"}'], 'corpus.jsonl:1: the key "_id" is missing; the line has text'),
        ("corpus_dot_jsonl", ["{}"], 'corpus.jsonl:1: the key "_id" is missing; the line has no keys'),
        ("corpus_dot_jsonl", ['{"_id": 7, "text": "x"}'], 'corpus.jsonl:1: "_id" must be a string, got 7'),
        ("corpus_dot_jsonl", ['{"_id": "a", "title": 1, "text": "x"}'], '"title" must be a string, got 1'),
        ("corpus_dot_jsonl", [*CORPUS, '{"_id": "e", "text": " "}'], 'corpus.jsonl:4: the text of "e" is empty'),
        (
            "corpus_dot_jsonl",
            ['{"_id": "a b", "text": "x"}'],
            "corpus.jsonl:1: the id 'a b' is empty or has white space",
        ),
        ("corpus_dot_jsonl", [*CORPUS, LONG_ID], 'corpus.jsonl:4: the id "p1" was used before, at'),
        ("corpus_dot_jsonl", [""], "corpus.jsonl: no line in it"),
        ("queries_dot_jsonl", ['{"_id": "q1", "text": ""}'], 'queries.jsonl:1: the text of "q1" is empty'),
        ("qrels__test_dot_tsv", ["q2 p2 1"], "test.tsv:1: expected query-id, corpus-id and score with tabs"),
        ("qrels__test_dot_tsv", ["q9\tp2\t1"], 'test.tsv:1: the query "q9" is not in queries.jsonl'),
        ("qrels__test_dot_tsv", ["q2\tp9\t1"], 'test.tsv:1: the passage "p9" is not in corpus.jsonl'),
        ("qrels__test_dot_tsv", ["q2\tp2\tgood"], "test.tsv:1: the score 'good' is not a number"),
        ("qrels__test_dot_tsv", ["q2\tp2\tinf"], "test.tsv:1: the score 'inf' is not a number"),
        ("qrels__test_dot_tsv", ["q2\tp2\t0"], "test.tsv: no relevant passage for any query in it"),
    ],
)
def test_mistakes_in_a_folder_name_file_and_line(tmp_path, name, lines, message):
    with pytest.raises(UserError) as caught:
        read_retrieval_set(write_folder(tmp_path, **{name: lines}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(CORPUS[0].encode() + b"\n\xff\n")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_retrieval_set(tmp_path)


def test_missing_parts_of_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder; a retrieval set is a folder in BEIR layout"):
        read_retrieval_set(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "set")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"queries.jsonl: missing; BEIR layout is"):
        read_retrieval_set(folder)
    write_folder(tmp_path / "set")
    for file in (folder / "qrels").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"none of train.tsv, dev.tsv, test.tsv is there"):
        read_retrieval_set(folder)


# -- training examples


def test_examples_are_written_and_read_again(tmp_path):
    examples = [
        Example(
            "q",
            ["a"],
            ["b", "c"],
            "q1",
            ["p1"],
            ["p2", "p3"],
            [1.0],
            [0.5, 0.25],
            [3, 9],
            prompt="Search: ",
            source="toy",
            neg_sources=["dense", "bm25"],
        ),
        Example("no negatives", ["a"], []),
    ]
    assert write_examples(tmp_path / "t.jsonl", examples) == 2
    assert read_examples(tmp_path / "t.jsonl") == examples


def test_flagembedding_lines_are_read_as_they_are():
    row = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1], "neg_scores": [0.5], "prompt": "P", "type": "x"}
    example = parse_example(row, "f:1")
    assert (example.pos_scores, example.neg_scores, example.prompt) == ([1], [0.5], "P")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pos": ["a"]}, 'the key "query" is missing; the line has pos'),
        ({"query": " ", "pos": ["a"]}, '"query" is empty'),
        ({"query": "\ud83d", "pos": ["a"]}, "an escape \\uD800 to \\uDFFF without its other half"),
        ({"query": 1, "pos": ["a"]}, '"query" must be a string, got 1'),
        ({"query": "q"}, '"pos" is missing or empty; every example needs a positive'),
        ({"query": "q", "pos": "a"}, '"pos" must be a list of strings, got "a"'),
        ({"query": "q", "pos": ["a"], "neg": [" "]}, '"neg" holds an empty text'),
        (
            {"query": "q", "pos": ["a"], "pos_ids": ["1", "2"]},
            '"pos_ids" must have one entry a text of "pos", got 2 for 1',
        ),
        ({"query": "q", "pos": ["a"], "neg": ["b"], "neg_scores": [True]}, '"neg_scores" must be a list of numbers'),
        ({"query": "q", "pos": ["a"], "prompt": 3}, '"prompt" must be a string, got 3'),
    ],
)
def test_mistakes_in_examples_name_file_and_line(tmp_path, row, message):
    path = tmp_path / "t.jsonl"
    path.write_text('{"query": "q", "pos": ["a"]}\n' + json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        read_examples(path)
    assert f"{path}:2: {message}" in str(caught.value)


def test_no_file_and_no_line_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_examples(tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="a folder where a JSONL file is needed"):
        read_examples(tmp_path)
    (tmp_path / "t.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no line in it"):
        read_examples(tmp_path / "t.jsonl")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_not_written(tmp_path, number):
    for write in (write_json, lambda path, row: write_jsonl(path, [row])):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(tmp_path / "file", {"a": number})
    assert list(tmp_path.iterdir()) == []


# -- files that the system refuses


def test_a_file_that_may_not_be_read_is_no_matter_of_the_output(tmp_path, monkeypatch):
    path = tmp_path / "corpus.jsonl"
    path.touch()
    denied = PermissionError(errno.EACCES, "Permission denied", str(path))
    assert explain_os_error(denied) == f"{path}: cannot be read or written; check its permissions"
    path.unlink()
    assert str(explain_os_error(denied)).endswith("choose an `output` folder that you may write to")
    monkeypatch.setattr(os, "access", lambda *_: False)  # an input in a folder that is closed to us
    assert explain_os_error(denied) == f"{path}: cannot be read or written; check its permissions"
