"""Every shipped YAML is a job, says what each knob does, survives a round trip; every mistake is one line."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bgetune.config import JobConfig
from bgetune.config_io import dotted_keys, flatten, load_job, parse_job, to_dict, to_yaml
from bgetune.errors import UserError
from bgetune.stage_program import add_round_options, add_run_options, run_stage

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GOOD = "output: out\ndata:\n  domain:\n    path: somewhere\n"


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_three_promised_configs_are_there() -> None:
    assert {"quickstart", "bge_large_en_v1.5", "bge_m3"} <= {path.stem for path in CONFIGS}


def test_config_is_a_job_in_a_folder_of_its_own(config: Path) -> None:
    assert load_job(config).output == f"runs/{config.stem}"


def test_every_knob_has_a_comment(config: Path) -> None:
    bare = [
        f"{config.name}:{number}: {line.strip()}"
        for number, line in enumerate(config.read_text(encoding="utf-8").splitlines(), start=1)
        if re.match(r"\s*(- )?[\w.]+:\s+[^\s#]|\s*- ", line) and not re.search(r"\s#\s\S", line)
    ]
    assert not bare, "\n".join(bare)


def test_round_trip_is_identical(config: Path, tmp_path: Path) -> None:
    job = load_job(config)
    written = tmp_path / "again.yaml"
    written.write_text(to_yaml(job), encoding="utf-8")
    assert load_job(written) == job
    assert to_yaml(load_job(written)) == to_yaml(job)


def test_effective_config_holds_every_key(config: Path) -> None:
    written = flatten(yaml.safe_load(to_yaml(load_job(config))))
    absent = [key for key in dotted_keys() if not any(k == key or k.startswith(key + ".") for k in written)]
    assert not absent


@pytest.mark.parametrize("add_own", [None, add_run_options, add_round_options])
def test_print_config_is_the_job(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], add_own: Callable[..., None] | None
) -> None:
    """A job's file, without the program's own options, which no file may hold."""
    with pytest.raises(SystemExit) as stop:
        parse_job(["--config", str(config), "--train.max_steps", "7", "--print_config"], "bgetune", "", add_own)
    assert stop.value.code in (0, None)
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out, encoding="utf-8")
    job = load_job(config)
    assert load_job(printed) == dataclasses.replace(job, train=dataclasses.replace(job.train, max_steps=7))


def test_flags_win_over_the_file_and_reach_into_a_guard() -> None:
    path = str(ROOT / "configs" / "quickstart.yaml")
    flags = ["--train.max_steps", "3", "--data.guards.third_party.max_pairs", "50", "--model.query_instruction", "q: "]
    job, own = parse_job(["--config", path, *flags], "bgetune", "")
    assert (job.train.max_steps, job.model.query_instruction, own) == (3, "q: ", {})
    guard = job.data.guards["third_party"]
    assert (guard.kind, guard.max_pairs) == ("harvest", 50)


def test_every_key_can_be_set_by_a_flag_and_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_job(["--help"], "bgetune", "")
    shown = capsys.readouterr().out
    assert not [key for key in dotted_keys() if f"--{key} " not in shown]
    helped = re.split(r"\n  --(?=\w)", shown)[1:]
    silent = [
        text.split()[0]
        for text in helped
        if text.split()[0] in set(dotted_keys()) and not re.search(r"[a-z]\w* [a-z]\w+", text)
    ]
    assert not silent


def test_nothing_stays_from_one_parse_to_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs that parse more than once, tests and notebooks among them, make the parser once."""
    file = tmp_path / "job.yaml"
    file.write_text("output: runs/a\ndata: {domain: {path: a}, guards: {b: {path: b}}}\ntrain: {epochs: 3}\n")
    first, _ = parse_job(["--config", str(file), "--eval.seed", "4"], "p", "", add_run_options)
    with pytest.raises(UserError):
        parse_job(["--print_config", "--train.epocs", "2"], "p", "", add_run_options)
    capsys.readouterr()
    second, own = parse_job(["--data.domain.path", "c"], "q", "", add_run_options)
    assert capsys.readouterr().out == ""
    assert second == dataclasses.replace(JobConfig(), data=second.data)
    assert (second.data.domain.path, second.data.guards) == ("c", {})
    assert own == {"update": False, "force": False}
    assert parse_job(["--config", str(file), "--eval.seed", "4"], "p", "", add_run_options)[0] == first


def test_default_job_survives_to_dict() -> None:
    assert to_dict(JobConfig())["train"]["report_to"] == []


# name -> (content of job.yaml, or None for no file; flags; what the line must hold)
MISTAKES: dict[str, tuple[str | None, list[str], str]] = {
    "unknown key": (
        GOOD + "train:\n  learning_rat: 1.0e-5\n",
        [],
        'job.yaml:6: unknown key "train.learning_rat"; did you mean "train.learning_rate"?',
    ),
    "unknown section": (GOOD + "trian:\n  seed: 1\n", [], 'job.yaml:5: unknown key "trian"; did you mean "train"?'),
    "key in the wrong section": (
        GOOD + "model:\n  temperature: 0.1\n",
        [],
        'job.yaml:6: unknown key "model.temperature"; did you mean "synthesize.temperature" or "train.temperature"?',
    ),
    "unknown key of a guard": (
        GOOD + "  guards:\n    g:\n      pth: x\n",
        [],
        'job.yaml:7: unknown key "data.guards.g.pth"; did you mean "data.guards.g.path"?',
    ),
    "duplicate key": (GOOD + "train:\n  seed: 1\n  seed: 2\n", [], 'job.yaml:7: the key "train.seed" is there twice'),
    "wrong type in the file": (
        GOOD + "train:\n  batch_size: many\n",
        [],
        "train.batch_size: expected an int, got 'many'",
    ),
    "wrong type of a flag": (
        GOOD,
        ["--train.learning_rate", "fast"],
        "train.learning_rate: expected a float, got 'fast'",
    ),
    "fraction for a whole number": (GOOD, ["--train.batch_size", "2.5"], "train.batch_size: "),
    "not one of the choices": (
        GOOD,
        ["--mine.method", "denss"],
        "mine.method: expected one of 'search', 'given', 'none'",
    ),
    "a value for a section": (GOOD + "train: 5\n", [], "job.yaml:5: train must be a mapping of keys to values"),
    "a list for a mapping": (GOOD + "  guards: [a]\n", [], "job.yaml:5: data.guards must be a mapping"),
    "broken YAML": ("output: [out\ntrain: 1\n", [], "job.yaml:2: not valid YAML"),
    "a tab in YAML": ("output: out\ndata:\n\tname: x\n", [], "job.yaml:3: not valid YAML"),
    "not a mapping": ("- output\n", [], "job.yaml:1: the file must be a mapping"),
    "missing file": (None, [], "job.yaml does not exist"),
    "empty file": ("", [], "the file is empty"),
    "file of comments": ("# nothing yet\n", [], "the file is empty"),
    "unknown option": (GOOD, ["--train.lerning_rate", "1"], 'did you mean "--train.learning_rate"?'),
    "abbreviated option": (GOOD, ["--train.learning_rat", "1"], "--train.learning_rat"),
    "option without a value": (GOOD, ["--train.max_steps"], "--train.max_steps"),
    "value out of range": (
        GOOD,
        ["--train.learning_rate", "0"],
        "train.learning_rate: 0.0 will not do; use more than 0",
    ),
    "batch of one": (GOOD, ["--train.batch_size", "1", "--mine.method", "none"], "train.batch_size: 1 will not do"),
    "no path": ("output: out\n", [], "data.domain.path: '' will not do"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, flags, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("job.yaml").write_text(content, encoding="utf-8")

    def never(*_: object) -> None:
        raise AssertionError("the stage ran")

    assert run_stage("prepare", never, ["--config", "job.yaml", *flags]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1, f"not one line:\n{line}"
    assert expected in line
    assert not Path("out").exists(), "something was written"


def test_a_program_says_it_too(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD + "train:\n  learning_rat: 1\n", encoding="utf-8")
    command = [sys.executable, "-m", "bgetune.data_prep", "prepare", "--config", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == 'error: job.yaml:6: unknown key "train.learning_rat"; did you mean "train.learning_rate"?\n'
