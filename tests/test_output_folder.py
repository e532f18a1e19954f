"""The output folder: not writable, another job's, in use, on a full disk. One line each, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

import bgetune.files
import bgetune.run
import train.checkpoint
from bgetune.cli import main
from tests import jobs
from tests.jobs import fails, only_error
from train.__main__ import main as train_main


def test_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    """Run as root, permission bits bind nobody; so the system's answer is given in its place."""
    job = jobs.write(tmp_path)
    monkeypatch.setattr(bgetune.run.os, "access", lambda _path, mode: mode != os.W_OK)
    fails(capsys, ["data-prep", "prepare", *job.words], r"output: .*run cannot be written to; choose another", tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path, capsys, monkeypatch):
    job = jobs.write(tmp_path)
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "run"))
    monkeypatch.setattr(Path, "mkdir", lambda *args, **kwargs: (_ for _ in ()).throw(denied))
    fails(capsys, ["data-prep", "prepare", *job.words], r"run: no permission; choose an `output` folder", tmp_path)


def test_foreign_files_are_left_alone(tmp_path, capsys):
    job = jobs.write(tmp_path)
    job.run.root.mkdir()
    (job.run.root / "thesis.tex").write_text("precious")
    fails(capsys, ["data-prep", "prepare", *job.words], r"output: .*run holds files that are not a job's", tmp_path)


def test_another_configuration_needs_update(tmp_path, capsys, caplog):
    job = jobs.write(tmp_path)
    assert main(["data-prep", "prepare", *job.words]) == 0
    words = ["data-prep", "prepare", *job.words, "--train.learning_rate", "0.5", "--mine.seed", "3"]
    capsys.readouterr()
    error = fails(capsys, words, r"output: .*run belongs to another configuration: ", tmp_path)
    assert "mine.seed (0 there, 3 now)" in error
    assert "train.learning_rate (0.001 there, 0.5 now)" in error
    assert "--update" in error
    with caplog.at_level(logging.INFO, logger="bgetune"):
        assert main([*words, "--update"]) == 0
    assert "learning_rate: 0.5" in job.run.config_file.read_text()
    assert "prepare: still holds, skipped" in caplog.text  # it depends on neither key


def test_a_configuration_that_is_no_text(tmp_path, capsys):
    job = jobs.write(tmp_path)
    assert main(["data-prep", "prepare", *job.words]) == 0
    job.run.config_file.write_bytes(b"output: \xff\n")
    fails(capsys, ["data-prep", "prepare", *job.words], r"config\.yaml: not UTF-8 text", tmp_path / "domain")
    assert main(["data-prep", "prepare", *job.words, "--update"]) == 0


@pytest.mark.parametrize("words", [["data-prep", "prepare"], ["adapt"], ["adapt", "--update", "--eval.seed", "5"]])
def test_two_at_once(tmp_path, capsys, words):
    job = jobs.write(tmp_path)
    lock = job.run.root / ".lock"
    assert main(["data-prep", "prepare", *job.words]) == 0
    capsys.readouterr()
    with open(lock, "w") as held:
        held.write("4711")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        pattern = r"output: a job is running in .*run already \(process 4711\)"
        fails(capsys, [*words, *job.words], pattern, tmp_path)


# -- the disk is full: three ways in which it is said, recorded from a file system of 200 kB

FULL = {
    "python": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "numpy": OSError("1000000 requested and 25584 written"),
}


def raising(error: Exception) -> Callable[..., Any]:
    def full(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return full


def test_disk_full_while_preparing(tmp_path, capsys, monkeypatch):
    job = jobs.write(tmp_path)
    assert main(["data-prep", "prepare", *job.words]) == 0
    job.run.manifest("prepare").unlink()
    (job.run.data("clinic") / "corpus.jsonl").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(bgetune.files.os, "fsync", raising(FULL["python"]))
        assert main(["data-prep", "prepare", *job.words]) == 2
    assert "the disk is full; free some room and run the same command again" in only_error(capsys)
    assert not [path for path in job.run.root.rglob("*") if ".partial" in path.name]
    assert main(["data-prep", "prepare", *job.words]) == 0


def test_disk_full_while_mining(tmp_path, capsys, monkeypatch):
    job = jobs.prepared(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("bgetune.encoded.np.save", raising(FULL["numpy"]))
        fails(capsys, ["data-prep", "mine", *job.words], "the disk is full; free some room", tmp_path)
    assert main(["data-prep", "mine", *job.words]) == 0


def test_disk_full_while_training(tmp_path, capsys, caplog, monkeypatch):
    """The checkpoint of step 4 does not fit: best and step 2 are whole, and it goes on from there."""
    jobs.fresh_accelerator()
    job = jobs.trainable(tmp_path)
    original, calls = train.checkpoint.save_file, []

    def save_file(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 4:  # two files a checkpoint
            path.write_bytes(b"half")
            raise FULL["safetensors"]
        original(tensors, path)

    monkeypatch.setattr(train.checkpoint, "save_file", save_file)
    assert train_main(job.words) == 2
    assert "the disk is full; free some room" in only_error(capsys)
    assert {path.name for path in job.run.checkpoints.iterdir()} == {"best", "step-2", "made_from.json"}
    jobs.fresh_accelerator()
    with caplog.at_level(logging.INFO, logger="bgetune"):
        assert train_main(job.words) == 0
    assert "train: goes on after step 2 of 6" in caplog.text


# -- what was made stays until something better takes its place


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (train_main, ["--train.batch_size", "999"]),
        (lambda words: main(["data-prep", "prepare", *words]), ["--data.domain.path", "nowhere"]),
        (lambda words: main(["data-prep", "mine", *words]), ["--mine.rank_last", "9999"]),
    ],
)
def test_a_mistake_in_a_changed_job_loses_nothing(tmp_path, capsys, stage, words):
    job = jobs.mined(tmp_path, train={"max_steps": 2})
    assert main(["data-prep", "prepare", *job.words]) == 0
    assert train_main(job.words) == 0
    before = {
        path: path.read_bytes() for path in job.run.root.rglob("*") if path.is_file() and "manifests" not in str(path)
    }
    assert stage([*job.words, *words, "--update"]) == 2
    capsys.readouterr()
    kept = {path for path in before if path.name not in ("config.yaml", "made_from.json", ".lock")}
    assert all(path.exists() and path.read_bytes() == before[path] for path in kept)


def test_a_first_slip_binds_nobody(tmp_path, capsys):
    job = jobs.write(tmp_path)
    assert main(["data-prep", "prepare", *job.words, "--data.domain.path", str(tmp_path / "domian")]) == 2
    capsys.readouterr()
    assert main(["data-prep", "prepare", *job.words]) == 0


def test_the_spelling_of_the_folder_is_no_change(tmp_path):
    job = jobs.write(tmp_path)
    assert main(["data-prep", "prepare", *job.words]) == 0
    again = str(job.run.root.parent / "x" / ".." / job.run.root.name)
    (job.run.root.parent / "x").mkdir()
    assert main(["data-prep", "prepare", *job.words, "--output", again]) == 0
