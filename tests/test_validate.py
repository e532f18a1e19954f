"""`data_prep validate` names every bad line, and never calls good what the readers refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgetune.config_data import SourceConfig
from bgetune.data import read_retrieval_set
from bgetune.errors import UserError
from bgetune.examples import read_examples
from data_prep.__main__ import main
from data_prep.documents.read import File, read_parts
from data_prep.validate import validate
from data_prep.validate_documents import bad_files

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


def test_help_and_errors_name_the_command_as_it_was_called(monkeypatch, capsys):
    for argv, called in ((None, "python -m data_prep"), (["validate"], "bgetune data-prep")):
        monkeypatch.setattr("sys.argv", ["data_prep", "validate"])
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith(f"error: {called} validate: the following arguments are required")
        monkeypatch.setattr("sys.argv", ["data_prep", "--help"])
        assert main(argv and ["--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: {called} COMMAND ...\n")
        assert f"`{called} COMMAND --help` shows" in out
        assert "-m data_prep mine: several processes" in out


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


def problems_of(path: Path, capsys, kind: str | None = None) -> list[str]:
    """The lines of what is wrong; none: it is good."""
    code = validate(path, kind)
    lines = capsys.readouterr().err.splitlines()
    assert code == (2 if lines else 0)
    return lines


def test_every_line_with_bad_metadata_is_named(tmp_path, capsys):
    bad = ['{"_id": "p3", "text": "x", "metadata": [1]}', '{"_id": "p4", "text": "x", "metadata": "a"}']
    lines = problems_of(write_folder(tmp_path, corpus=[*CORPUS, *bad]), capsys)
    assert [f'corpus.jsonl:{i}: "metadata" must be an object' in line for i, line in enumerate(lines, start=3)] == [
        True
    ] * 2


GOOD_EXAMPLE = '{"query": "q", "pos": ["a"], "neg": ["b"], "neg_scores": [1]}\n'


def test_every_file_of_a_folder_of_examples_is_checked(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(GOOD_EXAMPLE)
    (tmp_path / "b.jsonl").write_text(GOOD_EXAMPLE + '{"query": "q", "pos": ["a"], "neg": ["b"], "neg_scores": []}\n')
    (line,) = problems_of(tmp_path, capsys)
    assert f'{tmp_path / "b.jsonl"}:2: "neg_scores" must have one entry a text' in line
    (tmp_path / "b.jsonl").write_text(GOOD_EXAMPLE)
    assert validate(tmp_path) == 0
    assert capsys.readouterr().out.count("1 examples with 1 positives and 1 negatives") == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"question": "How?", "answer": "So."}', "1 documents"),
        ('{"id": "1", "text": "A passage."}', "1 documents"),
        ('{"query": "How?", "positive": "So."}', "1 documents"),
        ('{"_id": "1", "text": "A passage.", "title": "T"}', "1 texts"),
        ('{"query": "q", "pos": ["a"], "other": 1}', "1 examples"),
        ('{"query": "q", "answer": "a", "pos": ["a"]}', "1 examples"),
    ],
)
def test_the_first_object_tells_what_a_jsonl_is(row, said, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(row + "\n")
    assert validate(path) == 0
    assert said in capsys.readouterr().out


def test_the_kind_can_be_named(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "How?", "answer": "So."}\n' * 2)
    assert len(problems_of(path, capsys, "examples")) == 2
    for kind, files in (("examples", "jsonl"), ("qrels", "tsv")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=rf"empty: no \*\.{files} file in this folder"):
            validate(tmp_path / "empty", kind)
    with pytest.raises(UserError, match="--kind: 'beir' is none of set, texts, examples, qrels, documents, job"):
        validate(path, "beir")


def test_qrels_alone_are_checked_for_their_form(tmp_path, capsys):
    folder = write_folder(tmp_path, test=[*TEST, "q9\tp9\t1"])
    for path in (folder / "qrels", folder / "qrels" / "test.tsv"):
        assert validate(path) == 0
        assert "3 judgements of 3 queries" in capsys.readouterr().out
    write_folder(tmp_path, test=[*TEST, "q1\tp1", "q1\tp2\tx"])
    for path in (folder / "qrels", folder / "qrels" / "test.tsv"):
        assert ["test.tsv:4" in line for line in problems_of(path, capsys)] == [True, False]


def test_a_job_is_checked_as_a_configuration(tmp_path, capsys):
    assert validate(Path(__file__).parent.parent / "configs" / "quickstart.yaml") == 0
    assert "a good configuration of a job" in capsys.readouterr().out
    path = tmp_path / "job.yaml"
    path.write_text("output: runs/x\ntrian: {}\n")
    (line,) = problems_of(path, capsys)
    assert f'{path}:2: unknown key "trian"' in line


def test_every_path_of_a_job_that_is_not_there_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("text\na\n")
    job = {
        "output": "run",
        "model": {"name_or_path": "./model"},
        "data": {
            "domain": {"kind": "documents", "path": "~/no_such_folder_of_documents"},
            "guards": {
                "a": {"path": "there.csv"},
                "b": {"kind": "flagembedding", "path": "pairs.jsonl"},
                "c": {"kind": "dataset", "path": "org/set", "columns": {"query": "q", "positive": "p"}},
                "d": {"kind": "dataset", "path": "rows.csv", "columns": {"query": "q", "positive": "p"}},
                "e": {"kind": "harvest"},
                "f": {"kind": "documents", "path": "there.csv"},
            },
            "public": {"x": "/no/such/set", "y": "there.csv"},
        },
        "mine": {"teacher": {"kind": "cross_encoder", "name_or_path": "../no_judge"}},
        "merge": {"shares": [0.5], "models": ["runs/other"]},
        "eval": {"probes": {"sts": "sts.csv", "rows": "there.csv"}},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    expected = [
        "data.domain.path: ~/no_such_folder_of_documents does not exist; name a file or a folder",
        "data.guards.a.path: there.csv is a file; name a folder in BEIR layout",
        f"data.guards.b.path: pairs.jsonl does not exist in {tmp_path}; name a JSONL file",
        "data.guards.d.path: rows.csv does not exist in",
        "data.public.x: /no/such/set does not exist; name a folder",
        "data.public.y: there.csv is a file",
        "model.name_or_path: './model' is no folder here",
        "mine.teacher.name_or_path: '../no_judge' is no folder here",
        "merge.models: runs/other does not exist in",
        "eval.probes.sts: sts.csv does not exist in",
    ]
    for line, part in zip(problems_of(path, capsys), expected, strict=True):
        assert line.startswith(f"error: {path}: {part}")
    job["data"]["domain"]["clean"] = {"near_threshold": 2}
    path.write_text(yaml.safe_dump(job))
    assert "data.domain.clean.near_threshold: 2.0 will not do" in problems_of(path, capsys)[-1]


def test_advice_about_a_table_names_an_option_that_exists(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("alpha,beta\n1,2\n")
    (line,) = problems_of(path, capsys)
    assert "name them in data.domain.columns" in line


BAD_CSV = b"""question,answer
How high?,"Ten,
or so."
How low?,
one,two,three
"How deep?"x,y
"never closed,z
How wide?,f\xfcnf
Why?,""
How far?,"A mile
away."
And so on?,1,2
How \x00?,Nul.
"""


def test_every_bad_row_of_a_csv_is_named(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_bytes(BAD_CSV)
    expected = [
        (4, '"answer" is missing or empty'), (5, "3 cells where the header has 2"), (6, "not valid csv"),
        (7, "not valid csv"), (8, "not UTF-8 text"), (9, '"answer" is missing or empty'),
        (12, "3 cells where the header has 2"), (13, "a NUL character"),
    ]  # fmt: skip
    for line, (number, part) in zip(problems_of(path, capsys), expected, strict=True):
        assert line.startswith(f"error: {path}:{number}: ")
        assert part in line


def test_every_bad_row_of_a_parquet_and_of_a_jsonl_of_documents_is_named(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "", "c", None, "  "]}), tmp_path / "t.parquet")
    lines = problems_of(tmp_path / "t.parquet", capsys)
    assert [f"t.parquet:{row}: " in line for row, line in zip((2, 4, 5), lines, strict=True)] == [True] * 3
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text": "a"}\n{oops\n\n{"text": true}\n{"text": "\xff"}\n3\n{"text": "b"}\n')
    assert [line.split(":")[2] for line in problems_of(path, capsys)] == ["2", "4", "5", "6"]


def test_many_bad_rows_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_prep.documents.tables._ROWS_AT_ONCE", 7)
    path = tmp_path / "t.csv"
    path.write_text("question,answer\n" + "How?,\n" * 33)
    lines = problems_of(path, capsys)
    assert len(lines) == 21
    assert [f"t.csv:{number}: " in line for number, line in enumerate(lines[:20], start=2)] == [True] * 20
    assert lines[-1] == "error: and 13 more bad lines"


@pytest.mark.parametrize(
    ("name", "content", "lacking"),
    [
        ("t.csv", "", "rows"),
        ("t.csv", "question,answer\n", "rows"),
        ("t.tsv", "text\n\n", "rows"),
        ("t.md", "#\n", "text"),
    ],
)
def test_what_holds_nothing_is_not_good(tmp_path, capsys, name, content, lacking):
    path = tmp_path / name
    path.write_text(content)
    (line,) = problems_of(path, capsys)
    assert line.startswith(f"error: {path}: it holds no {lacking}")
    (tmp_path / "more.md").write_text("# Pumps\n\nA pump moves water.\n")
    assert validate(tmp_path) == 0
    assert f"2 files with 1 documents of 1 sections; without text or rows: {name}" in capsys.readouterr().out


cells = st.text(st.sampled_from('ab,"\n'), max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(cells, min_size=1, max_size=3), max_size=6), broken=st.text('a,"\n', max_size=6))
def test_validate_agrees_with_the_reader_of_tables(tmp_path, rows, broken):
    """Also: no line is named twice, and none that is not there."""
    path = tmp_path / "t.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["text", "title"], *rows])
        file.write(broken)
    source = SourceConfig(kind="documents", path=str(path))

    def read(_: Path) -> None:
        for _part in read_parts(File(path, "t.csv"), source, "data.domain"):
            pass

    problems = [line for line in bad_files(path) if "it holds no rows" not in line]
    assert bool(problems) == read_fails(read, path)
    numbers = [int(line.removeprefix(f"{path}:").split(":")[0]) for line in problems]
    assert sorted(set(numbers)) == numbers
    assert all(2 <= number <= len(path.read_text().split("\n")) for number in numbers)


def test_a_large_file_has_a_bar_and_the_same_answer(tmp_path, capsys, monkeypatch):
    path = tmp_path / "t.jsonl"
    path.write_text(GOOD_EXAMPLE * 3)
    monkeypatch.setattr("data_prep.validate._BAR_FROM", 0)
    assert validate(path) == 0
    found = capsys.readouterr()
    assert "3 examples" in found.out
    assert "t.jsonl" in found.err
