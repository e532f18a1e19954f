"""Checkpoints on the Hub while training makes them: which, in which order, and that training does not notice."""

from __future__ import annotations

import doctest
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bgetune.config import HubConfig
from bgetune.export import push_hub
from bgetune.files import read_json, write_json
from tests import jobs
from tests.hub_server import FakeHub, Fault, nothing_tells_the_token, served
from tests.jobs import Job, only_error
from train import push
from train.__main__ import main as train
from train.push import CheckpointPusher
from train.trainer import Trainer

REPO = "org/clinic"
BEST = ["--hub.repo", REPO, "--hub.checkpoints", "best"]
EVERY = ["--hub.repo", REPO, "--hub.checkpoints", "every"]
NOT_PUSHED = {"optimizer.safetensors", "training.safetensors", "progress.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[FakeHub]:
    caplog.set_level(logging.INFO, "bgetune")
    with served(monkeypatch) as server:
        yield server


def test_doctests():
    result = doctest.testmod(push)
    assert result.attempted > 0
    assert result.failed == 0


def trained(job: Job, *words: str) -> int:
    jobs.fresh_accelerator()
    return train([*job.words, *words])


def files(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name not in NOT_PUSHED}


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """Dev after 0, 3 and 6 steps, checkpoints after 2, 4 and 6."""
    return jobs.trainable(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def plain(job) -> dict[str, str]:
    """Every file of the same job that pushes nothing."""
    assert trained(job) == 0
    made = jobs.hashes(job.run.root)
    del made["config.yaml"]  # it holds the options of `hub`
    return made


@pytest.fixture
def untrained(job) -> Job:
    for path in (job.run.checkpoints, job.run.train_log.parent, job.run.root / "manifests", job.run.vectors):
        shutil.rmtree(path, ignore_errors=True)
    return job


@pytest.mark.parametrize("options", [BEST, EVERY], ids=["best", "every"])
def test_checkpoints_go_to_their_branch_and_training_does_not_notice(
    plain, untrained, hub, monkeypatch, caplog, options
):
    for name in ("best", "saved"):  # wait after each, so that none is passed over for a newer one
        honest = getattr(CheckpointPusher, name)
        monkeypatch.setattr(
            CheckpointPusher, name, lambda self, *rest, honest=honest: (honest(self, *rest), self.wait())
        )
    job = untrained
    assert trained(job, *options) == 0
    repo = hub.repos[REPO]
    assert set(repo.files("main")) == {".gitattributes"}
    there = repo.files("checkpoints")
    titles = repo.titles("checkpoints")
    if options is EVERY:
        dev = {line["step"]: line["dev/ndcg@10"] for line in jobs.jsonl(job.run.train_log) if "dev/ndcg@10" in line}
        assert titles == [f"step 6, dev nDCG@10 {dev[6]:.4f}", "step 4", "step 2", "initial commit"]
        assert files(job.run.checkpoints / "step-6").items() <= there.items()
    else:
        told = read_json(job.run.best / "best.json")
        assert titles[0] == f"step {told['step']}, dev nDCG@10 {told['dev_ndcg@10']:.4f}"
        assert files(job.run.best).items() <= there.items()
    assert not NOT_PUSHED.intersection(there)
    made = jobs.hashes(job.run.root)
    assert {name: made.get(name) for name in plain} == plain
    assert set(made) - set(plain) == {"config.yaml"}
    nothing_tells_the_token(job.run.root, caplog.text)


def test_a_broken_hub_stops_nothing_and_a_run_that_goes_on_sends_what_is_missing(untrained, hub, monkeypatch, caplog):
    job, honest = untrained, Trainer._step

    def interrupted(self):
        if self._progress.step == 5:
            raise KeyboardInterrupt
        return honest(self)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    hub.faults = [Fault("create", 503)]
    assert trained(job, *BEST) == 130
    assert not hub.repos
    monkeypatch.setattr(Trainer, "_step", honest)
    assert trained(job, *BEST) == 0
    assert "is not on the Hub: push to org/clinic, repository: the Hub answers 503" in caplog.text
    assert "training goes on" in caplog.text
    assert not hub.repos
    # once more, as if it had been killed before its end
    hub.faults = []
    shutil.move(job.run.manifest("train"), job.run.root / "kept.json")
    write_json(job.run.started("train"), read_json(job.run.root / "kept.json")["made_from"])
    caplog.clear()
    assert trained(job, *BEST) == 0
    assert "train: goes on after step 6 of 6" in caplog.text
    assert files(job.run.best).items() <= hub.repos[REPO].files("checkpoints").items()


def test_the_newest_of_those_that_wait_goes_as_it_was_when_it_was_made(job, hub, monkeypatch, tmp_path):
    run = replace(job.run, root=tmp_path)
    config = replace(job.config, hub=HubConfig(REPO, checkpoints="every"))
    pusher, go, honest = CheckpointPusher(config, run), threading.Event(), push_hub.Hub.commit

    def slow(self, *rest):
        go.wait(10)
        return honest(self, *rest)

    monkeypatch.setattr(push_hub.Hub, "commit", slow)
    for step in (2, 4, 6):
        folder = run.checkpoints / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights %d" % step)
        (folder / "optimizer.safetensors").write_bytes(b"state")
        write_json(folder / "adapter" / "adapter_config.json", {"base_model_name_or_path": "/home/me/base"})
        pusher.measured(step, step / 10)
        pusher.saved(step)
        while step == 2 and pusher._next is not None:
            threading.Event().wait(0.01)  # it is taken
        shutil.rmtree(folder)  # an old checkpoint goes while it is sent
    go.set()
    pusher.wait()
    repo = hub.repos[REPO]
    assert repo.titles("checkpoints")[:-1] == ["step 6, dev nDCG@10 0.6000", "step 2, dev nDCG@10 0.2000"]
    assert repo.files("checkpoints")["model.safetensors"] == b"weights 6"
    assert set(repo.files("checkpoints")) == {".gitattributes", "model.safetensors"}
    assert not list(run.checkpoints.iterdir())


def test_no_token_is_told_before_the_first_step(untrained, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert trained(untrained, *BEST) == 2
    assert "hub.checkpoints: there is no token of the Hugging Face Hub; set HF_TOKEN" in only_error(capsys)
    assert not untrained.run.best.exists()


def test_other_ranks_push_nothing(job, hub, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    pusher = CheckpointPusher(replace(job.config, hub=HubConfig(REPO, checkpoints="every")), job.run)
    pusher.saved(2)
    pusher.best()
    pusher.wait()
    assert not hub.addresses
