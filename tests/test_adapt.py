"""The whole job, once, through the command: what it leaves, what a second run does, what is done again and why."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bgetune.cli import main
from bgetune.config import JobConfig
from bgetune.files import read_json
from bgetune.stage_program import PARENT_PIPE
from bgetune.stages import STAGES
from data_prep.__main__ import main as data_prep
from tests import jobs, tiny, wheel
from tests.jobs import Job, hashes

NAMES = [stage.name for stage in STAGES if stage.wanted(JobConfig())]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> tuple[Job, list[str]]:
    """A finished job with a guard, and what its command printed: that of the wheel, where there is no clone."""
    top = tmp_path_factory.mktemp("adapt")
    guards = {"general": {"kind": "beir", "path": str(tiny.domain(top / "guard", seed=9))}}
    job = jobs.write(top, data={**tiny.config(top)["data"], "guards": guards})
    programs = wheel.environment(wheel.build(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("outside"))
    done = wheel.run(programs / "bgetune", "adapt", *job.words, cwd=top, timeout=300)
    assert "Traceback" not in done.stderr
    return job, done.stdout.splitlines()


@pytest.fixture
def copy(adapted, tmp_path) -> Job:
    """The finished job again, for a test to spoil: the same paths inside, the folder put back afterwards."""
    job, _ = adapted
    kept = tmp_path / "kept"
    shutil.copytree(job.run.root, kept)
    yield job
    shutil.rmtree(job.run.root)
    shutil.copytree(kept, job.run.root)


def again(job: Job, caplog: pytest.LogCaptureFixture, *options: str) -> list[str]:
    """Run it again; the stages that were not skipped."""
    caplog.clear()
    with pytest.MonkeyPatch.context() as patched, caplog.at_level(logging.INFO, logger="bgetune"):
        patched.setattr("bgetune.adapt._start", jobs.started_here)
        assert main(["adapt", *job.words, *options]) == 0
    skipped = [line.split("] ")[1].split(":")[0] for line in caplog.messages if "still holds, skipped" in line]
    return [name for name in NAMES if name not in skipped]


def test_it_leaves_everything_and_names_model_and_report(adapted):
    job, said = adapted
    run = job.run
    assert said[-2:] == [f"model:  {run.export}", f"report: {run.report / 'report.html'}"]
    made = {path.name for path in run.root.iterdir()}
    assert made == {
        ".lock", "config.yaml", "data", "mined", "checkpoints", "logs", "report", "export", "vectors", "manifests"
    }  # fmt: skip
    assert jobs.half_done(run.root) == []
    assert {path.name for path in (run.root / "manifests").glob("*.json")} == {f"{name}.json" for name in NAMES}
    for name in ("report.json", "report.md", "report.html", "per_query.parquet"):
        assert (run.report / name).is_file()
    for name in ("README.md", "config.json", "modules.json", "model.safetensors", "tokenizer.json"):
        assert (run.export / name).is_file()


def check_scores(scores: dict[str, Any], measured: list[str]) -> None:
    for version in measured:
        for metric in ("ndcg@10", "mrr@10", "recall@10", "recall@100"):
            assert 0 <= scores[version][metric] <= 1


def test_the_report_fits_its_contract(adapted):
    job, _ = adapted
    report = read_json(job.run.report / "report.json")
    assert {name: found["role"] for name, found in report["sets"].items()} == {"clinic": "domain", "general": "guard"}
    for found in report["sets"].values():
        assert (found["n_queries"], found["n_docs"]) == (10, 60)
        assert set(found["retrievers"]) == {"bm25", "dense"}
        check_scores(found["retrievers"]["bm25"], ["any"])
        assert set(found["retrievers"]["bm25"]) == {"any"}
        dense = found["retrievers"]["dense"]
        check_scores(dense, ["base", "tuned"])
        gain = found["gains"]["dense"]["tuned"]["ndcg@10"]
        assert gain["abs"] == pytest.approx(dense["tuned"]["ndcg@10"] - dense["base"]["ndcg@10"], abs=1e-9)
        assert gain["rel"] is None or math.isfinite(gain["rel"])
        assert gain["ci95"][0] <= gain["abs"] <= gain["ci95"][1]
        assert 0 < gain["p"] <= 1


def test_the_export_is_the_best_checkpoint_and_its_card_has_the_figures(adapted):
    job, _ = adapted
    assert (job.run.export / "model.safetensors").read_bytes() == (job.run.best / "model.safetensors").read_bytes()
    dense = read_json(job.run.report / "report.json")["sets"]["general"]["retrievers"]["dense"]
    card = (job.run.export / "README.md").read_text()
    assert "**general** (guard): 10 queries" in card
    of_guard = card.partition("**general** (guard)")[2]
    line = next(line for line in of_guard.splitlines() if "dense" in line)
    assert f"| {dense['base']['ndcg@10']:.4f} | {dense['tuned']['ndcg@10']:.4f} |" in line


def test_a_second_run_skips_everything_and_changes_no_byte(adapted, caplog):
    job, _ = adapted
    before = hashes(job.run.root)
    assert again(job, caplog) == []
    assert hashes(job.run.root) == before


def test_a_changed_option_redoes_only_what_depends_on_it(copy, caplog):
    before = hashes(copy.run.root)
    assert main(["adapt", *copy.words, "--eval.seed", "5"]) == 2  # not without --update
    assert hashes(copy.run.root) == before
    assert again(copy, caplog, "--eval.seed", "5", "--update") == ["eval", "export"]
    after = hashes(copy.run.root)
    changed = {name.split("/")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"config.yaml", "manifests", "report", "export"}
    assert read_json(copy.run.manifest("eval"))["made_from"]["config"]["eval.seed"] == 5


def test_what_is_removed_is_made_again_as_it_was(copy, caplog):
    before = hashes(copy.run.root)
    shutil.rmtree(copy.run.best)
    (copy.run.export / "README.md").unlink()
    # the weights come out as they were, so the report on them still holds
    assert again(copy, caplog) == ["train", "export"]
    assert not_kept(hashes(copy.run.root)) == not_kept(before)


def not_kept(files: dict[str, str]) -> dict[str, str]:
    """Without encoded texts, which come back when they are needed."""
    return {name: digest for name, digest in files.items() if not name.startswith("vectors/")}


@pytest.mark.parametrize("code", [2, 1, 137])
def test_a_stage_that_fails_ends_the_job_with_its_code(copy, monkeypatch, code):
    shutil.rmtree(copy.run.root / "mined")
    started: list[list[str]] = []

    class Child:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command)

        def wait(self) -> int:
            return code

    monkeypatch.setattr("bgetune.adapt.subprocess.Popen", Child)
    assert main(["adapt", *copy.words]) == code
    assert [command[1:4] for command in started] == [["-m", "bgetune.data_prep", "mine"]]


def test_manifests_hold_hashes_and_versions_only(adapted):
    """No times, no process ids, no paths of this machine: a copied run folder still holds."""
    job, _ = adapted
    for name in NAMES:
        manifest = read_json(job.run.manifest(name))
        assert set(manifest) == {"made_from", "outputs", "packages"}
        assert not any(Path(path).is_absolute() for path in manifest["outputs"])


def test_killed_it_takes_its_stage_along(tmp_path):
    """Else the stage would go on writing, and the same command would be refused until it had ended."""
    job = jobs.write(tmp_path)
    with subprocess.Popen([sys.executable, "-m", "bgetune.cli", "adapt", *job.words], stderr=subprocess.PIPE) as adapt:
        assert adapt.stderr is not None
        while b"[2/5] mine" not in adapt.stderr.readline():
            pass
        time.sleep(0.5)  # its stage is being started
        adapt.kill()
        adapt.stderr.read()  # ends when the stage, which has the same stream, has ended
    assert data_prep(["prepare", *job.words]) == 0  # the folder is free


def test_export_ends_with_the_adapt_that_started_it(copy):
    """It reads its words by itself, not by the main program of the other stages."""
    ours, theirs = os.pipe()
    os.close(theirs)  # as when `adapt` is killed
    command = [sys.executable, "-m", "bgetune.cli", "export", *copy.words, "--force"]
    ended = subprocess.run(command, env={**os.environ, PARENT_PIPE: str(ours)}, pass_fds=(ours,), check=False)
    os.close(ours)
    assert ended.returncode == -signal.SIGKILL


def test_a_stage_ended_by_a_signal_is_said(copy, monkeypatch, capsys):
    shutil.rmtree(copy.run.root / "mined")
    monkeypatch.setattr("bgetune.adapt.subprocess.Popen", lambda command, **_: SimpleNamespace(wait=lambda: -9))
    assert main(["adapt", *copy.words]) == 2
    assert "mine: ended by signal 9; if that was for want of memory" in capsys.readouterr().err


def test_a_push_is_asked_for_again_and_its_token_before_anything_else(copy, monkeypatch, capsys):
    pushed: list[list[str]] = []

    class Child:
        def __init__(self, command: list[str], **_: Any) -> None:
            pushed.append(command)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("bgetune.adapt.subprocess.Popen", Child)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    shutil.rmtree(copy.run.root / "mined")
    assert main(["adapt", *copy.words, "--hub.repo", "org/clinic"]) == 2
    assert "hub.repo: there is no token" in capsys.readouterr().err
    assert pushed == []
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a-token")
    assert main(["adapt", *copy.words, "--hub.repo", "org/clinic"]) == 0
    assert [command[1:4] for command in pushed][-1] == ["-m", "bgetune.cli", "export"]
