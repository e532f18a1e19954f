"""`data_prep validate` names every bad line, and never calls good what the readers refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgetune.data import read_retrieval_set
from bgetune.errors import UserError
from bgetune.examples import read_examples
from data_prep.__main__ import main

CORPUS = ['{"_id": "p1", "title": "T", "text": "one"}', '{"_id": "p2", "text": "two"}']
QUERIES = ['{"_id": "q1", "text": "first?"}', '{"_id": "q2", "text": "second?"}']
SURROGATE = '{"_id": "\\ud800", "text": "x"}'
TEST = ["query-id\tcorpus-id\tscore", "q1\tp1\t1", "q2\tp2\t1"]


def write_folder(
    folder: Path, corpus: list[str] = CORPUS, queries: list[str] = QUERIES, test: list[str] = TEST
) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, lines in (("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels/test.tsv", test)):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def test_a_good_folder_is_counted(tmp_path, capsys):
    assert main(["validate", str(write_folder(tmp_path))]) == 0
    out = capsys.readouterr().out
    assert "2 passages, 2 queries" in out
    assert "test: 2 queries with 2 relevant passages" in out
    assert "train: absent" in out


def test_a_good_training_file_is_counted(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text('{"query": "q", "pos": ["a"], "neg": ["b", "c"]}\n\n{"query": "r", "pos": ["a"]}\n')
    assert main(["validate", str(path)]) == 0
    assert "2 examples with 2 positives and 2 negatives" in capsys.readouterr().out


def test_every_bad_line_of_a_folder_is_named(tmp_path, capsys):
    folder = write_folder(
        tmp_path,
        corpus=[*CORPUS, "{oops", CORPUS[0], '{"_id": "p4", "text": ""}', '{"_id": "a b", "text": ""}', "3", SURROGATE],
        queries=[*QUERIES, '{"_id": "q3", "title": "a title does not count", "text": ""}', '{"_id": "q4"}'],
        test=[*TEST, "q9\tp9\tbad", "only two\tcells", "q1\tp1\t0.5"],
    )  # fmt: skip
    assert main(["validate", str(folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = [
        "corpus.jsonl:3: not valid JSON", 'corpus.jsonl:4: the id "p1" was used before',
        'corpus.jsonl:5: the text of "p4"', "corpus.jsonl:6: the id 'a b'",
        "corpus.jsonl:7: expected a JSON object, got int", "corpus.jsonl:8: an escape",
        'queries.jsonl:3: the text of "q3"', 'queries.jsonl:4: "text" must be there',
        'test.tsv:4: the query "q9"', 'test.tsv:4: the passage "p9"', "test.tsv:4: the score 'bad'",
        "test.tsv:5: expected query-id, corpus-id and score", "test.tsv:6: the score 0.5 is not whole",
    ]  # fmt: skip
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith(f"error: {folder}/")
        assert part in line


@pytest.mark.parametrize("line", ["[" * 10**5, '{"query": ' + "9" * 5000 + "}", '{"query": NaN}'])
def test_json_that_python_chokes_on_is_a_bad_line(tmp_path, capsys, line):
    path = tmp_path / "t.jsonl"
    path.write_text(f"{line}\n{{}}\n")
    assert main(["validate", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [text.startswith(f"error: {path}:{i}: ") for i, text in enumerate(lines, start=1)] == [True, True]


def test_twenty_lines_then_a_count(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text('{"query": ""}\n' * 33)
    assert main(["validate", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "error: and 13 more bad lines"


@pytest.mark.parametrize(
    ("words", "message"), [(["nowhere"], "no such file or folder"), (["."], "corpus.jsonl: missing")]
)
def test_no_such_path(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["validate", *words]) == 2
    assert message in capsys.readouterr().err


values = st.one_of(
    st.none(),
    st.integers(0, 3),
    st.sampled_from(["", " ", "p1", "p2", "a b", "text"]),
    st.lists(st.sampled_from(["x", ""])),
)


def read_fails(read, path) -> bool:
    try:
        read(path)
    except UserError:
        return True
    return False


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(["_id", "title", "text"]), values), max_size=2))
def test_validate_agrees_with_the_reader_of_folders(tmp_path, rows):
    folder = write_folder(tmp_path / "set", corpus=[*CORPUS, *map(json.dumps, rows)])
    assert (main(["validate", str(folder)]) == 2) == read_fails(read_retrieval_set, folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(["query", "pos", "neg", "neg_ids"]), values), max_size=2))
def test_validate_agrees_with_the_reader_of_examples(tmp_path, rows):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (main(["validate", str(path)]) == 2) == read_fails(read_examples, path)


def test_one_file_of_a_set_is_checked_alone(tmp_path, capsys):
    folder = write_folder(tmp_path, queries=[*QUERIES, '{"_id": "q1", "text": "again"}'])
    assert main(["validate", str(folder / "corpus.jsonl")]) == 0
    assert "2 texts" in capsys.readouterr().out
    assert main(["validate", str(folder / "queries.jsonl")]) == 2
    assert 'queries.jsonl:3: the id "q1" was used before' in capsys.readouterr().err


def test_documents_are_counted_and_every_broken_one_is_named(tmp_path, capsys):
    (tmp_path / "a.md").write_text("# Pumps\n\nA pump moves water.\n\n## Valves\n\nA valve stops it.\n")
    assert main(["validate", str(tmp_path)]) == 0
    assert "1 files with 1 documents of 2 sections" in capsys.readouterr().out
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.pdf").write_bytes(b"no pdf")
    assert main(["validate", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "b.txt" in errors
    assert "c.pdf" in errors
