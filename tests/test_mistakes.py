"""Every mistake of a user's: one clear line that names the option or file:line, exit code 2, nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import jobs
from tests.jobs import Job, fails


def change(job: Job, **sections: Any) -> None:
    """Change keys in the YAML file; `model={"x": 1}` is merged into the section."""
    settings = yaml.safe_load(job.file.read_text())
    for key, value in sections.items():
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    job.file.write_text(yaml.safe_dump(settings))


def change_line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


def edit_corpus(line: int, text: str) -> Callable[[Job, Path], None]:
    return lambda _job, tmp_path: change_line(tmp_path / "domain" / "corpus.jsonl", line, text)


def edit_qrels(split: str, line: int, text: str) -> Callable[[Job, Path], None]:
    return lambda _job, tmp_path: change_line(tmp_path / "domain" / "qrels" / f"{split}.tsv", line, text)


def with_changes(**sections: Any) -> Callable[[Job, Path], None]:
    return lambda job, _tmp_path: change(job, **sections)


def no_file(job: Job, _tmp_path: Path) -> None:
    job.file.unlink()


def other_domain(job: Job, _tmp_path: Path) -> None:
    change(job, data={"domain": {"kind": "beir", "path": "no/such/folder"}})


IN_PREPARE: dict[str, tuple[Callable[[Job, Path], None], str]] = {
    "misspelt key": (
        with_changes(train={"learning_rat": 1}),
        r'job\.yaml:\d+: unknown key "train\.learning_rat"; did you mean "train\.learning_rate"\?',
    ),
    "unknown key": (with_changes(zzz=1), r'job\.yaml:\d+: unknown key "zzz"'),
    "wrong type": (with_changes(train={"batch_size": "many"}), r"train\.batch_size: .*int.*'?many"),
    "wrong choice": (with_changes(model={"pooling": "sum"}), r"model\.pooling: .*'cls', 'mean', 'max'.*'sum'"),
    "no such file": (no_file, r"--config: .*job\.yaml does not exist"),
    "no such folder": (other_domain, r"data\.domain\.path: no/such/folder does not exist; kind beir needs"),
    "broken json": (edit_corpus(3, '{"_id": "d2", "text": '), r"domain/corpus\.jsonl:3: not valid JSON \("),
    "no object": (edit_corpus(3, "[1]"), r"domain/corpus\.jsonl:3: expected a JSON object, got list"),
    "empty text": (
        edit_corpus(5, json.dumps({"_id": "d4", "title": " ", "text": "\t"})),
        r'domain/corpus\.jsonl:5: the text of "d4" is empty; remove',
    ),
    "text missing": (edit_corpus(5, json.dumps({"_id": "d4"})), r'domain/corpus\.jsonl:5: the key "text" is missing'),
    "id twice": (
        edit_corpus(5, json.dumps({"_id": "d1", "text": "x"})),
        r'corpus\.jsonl:5: the id "d1" was used before, at .*corpus\.jsonl:2',
    ),
    "unknown passage": (
        edit_qrels("dev", 4, "q42\td999\t1"),
        r'qrels/dev\.tsv:4: the passage "d999" is not in corpus\.jsonl',
    ),
    "unknown query": (
        edit_qrels("test", 2, "q999\td50\t1"),
        r'qrels/test\.tsv:2: the query "q999" is not in queries\.jsonl',
    ),
    "no tabs": (edit_qrels("train", 9, "q7 d7 1"), r"qrels/train\.tsv:9: expected query-id, corpus-id and score"),
    "batch of one, no hard negatives": (
        with_changes(train={"batch_size": 1, "negatives_per_query": 0}),
        r"train\.batch_size: 1 will not do; no negatives are possible",
    ),
    "batch of one, none mined": (
        with_changes(train={"batch_size": 1}, mine={"method": "none"}),
        r"train\.batch_size: 1 will not do; no negatives are possible",
    ),
    "output is a file": (lambda job, _: change(job, output=str(job.file)), r"output: .*job\.yaml is a file; name a"),
    "output below a file": (
        lambda job, _: change(job, output=str(job.file / "run")),
        r"error: .*job\.yaml.*: Not a directory; move it away or choose another path",
    ),
    "output is nothing": (with_changes(output=" "), r"output: ' ' will not do; name the job's folder"),
}


@pytest.mark.parametrize("name", IN_PREPARE)
def test_in_configuration_and_data(tmp_path, capsys, name):
    make, pattern = IN_PREPARE[name]
    job = jobs.write(tmp_path)
    make(job, tmp_path)
    capsys.readouterr()
    fails(capsys, ["data-prep", "prepare", *job.words], pattern, tmp_path)


IN_MINE: dict[str, tuple[dict[str, Any], str]] = {
    "corpus smaller than the window": (
        {"mine": {"rank_last": 61}},
        r"mine\.rank_last: 61 is more than the 60 passages",
    ),
    "no negative possible": ({"mine": {"max_score": -5.0}}, r"mine: no query got a negative; widen mine\.rank_last"),
    "nothing given": ({"mine": {"method": "given"}}, r"mine\.method: the data holds no negatives to be `given`"),
    "passage too long": (
        {"model": {"overlong": "error", "passage_max_length": 12}},
        r"run/data/clinic/corpus\.jsonl:\d+: the text is longer than model\.passage_max_length \(12 tokens\)",
    ),
    "query too long": (
        {"model": {"overlong": "error", "query_max_length": 4}},
        r"run/data/clinic/queries\.jsonl:1: the text is longer than model\.query_max_length \(4 tokens\)",
    ),
    "maximum beyond the model": (
        {"model": {"passage_max_length": 65}},
        r"model\.passage_max_length: 65 is more than the 64 tokens the model takes",
    ),
    "no such model": ({"model": {"name_or_path": "./nowhere"}}, r"model\.name_or_path: '\./nowhere' is no folder"),
    "no such index": ({"mine": {"index": "Flatt"}}, r"index: FAISS cannot build 'Flatt' over 60 vectors"),
}


@pytest.mark.parametrize("name", IN_MINE)
def test_in_mining(tmp_path, capsys, name):
    sections, pattern = IN_MINE[name]
    job = jobs.prepared(tmp_path, **sections)
    capsys.readouterr()
    fails(capsys, ["data-prep", "mine", *job.words], pattern, tmp_path)


IN_TRAIN: dict[str, tuple[dict[str, Any], Callable[[Job], None], str]] = {
    "batch of one without a negative": (
        {"train": {"batch_size": 1}},
        lambda job: change_line(job.run.examples, 7, json.dumps({"query": "q", "pos": ["p"], "neg": []})),
        r"mined/train\.jsonl:7: no negative, and train\.batch_size 1 has no in-batch ones; use at least 2",
    ),
    "batch larger than the data": (
        {"train": {"batch_size": 41}},
        lambda _: None,
        r"train\.batch_size: 41 is more than the 40 examples of .*mined/train\.jsonl",
    ),
    "broken example": (
        {},
        lambda job: change_line(job.run.examples, 2, '{"query": "q"'),
        r"mined/train\.jsonl:2: not valid JSON",
    ),
    "no positive": (
        {},
        lambda job: change_line(job.run.examples, 3, '{"query": "q", "pos": [], "neg": ["n"]}'),
        r'mined/train\.jsonl:3: "pos" is missing or empty',
    ),
    "empty negative": (
        {},
        lambda job: change_line(job.run.examples, 3, '{"query": "q", "pos": ["p"], "neg": [" "]}'),
        r'mined/train\.jsonl:3: "neg" holds an empty text',
    ),
    "nothing mined": ({}, lambda job: job.run.examples.unlink(), r"mined/train\.jsonl: missing; run the stage `mine`"),
}


@pytest.mark.parametrize("name", IN_TRAIN)
def test_in_training(tmp_path, capsys, name):
    jobs.fresh_accelerator()
    sections, make, pattern = IN_TRAIN[name]
    job = jobs.trainable(tmp_path, **sections)
    make(job)
    capsys.readouterr()
    fails(capsys, ["train", *job.words], pattern, tmp_path)


# -- the command itself


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["adpt"], r"unknown command 'adpt'; did you mean \"adapt\"\?; known: adapt, data-prep, train, eval, merge"),
        (["data-prep", "mien"], r"unknown command 'mien'; did you mean \"mine\"\?"),
        (["train", "--config", "nowhere.yaml"], r"--config: nowhere\.yaml does not exist"),
        (["export", "--dry_run"], r"unknown option --dry_run; did you mean \"--dry-run\"\?"),
        (["train", "-force"], r"unknown option -force; did you mean \"--force\"\?"),
        (["export", "--updat"], r"unknown option --updat; did you mean \"--update\"\?"),
        (["export", "--model.revison", "v1"], r"unknown option --model.revison; did you mean \"--model\.revision\"\?"),
        (["train", "--trane.epochs", "2"], r"unknown option --trane\.epochs; did you mean \"--train\.epochs\"\?"),
        (["eval"], r"data\.domain\.path: '' will not do; name the file or folder"),
    ],
)
def test_in_the_command_line(tmp_path, monkeypatch, capsys, words, pattern):
    monkeypatch.chdir(tmp_path)
    fails(capsys, words, pattern, tmp_path)
    assert list(tmp_path.iterdir()) == []
