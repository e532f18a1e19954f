"""The loop on a tiny job: what it logs, keeps, stops at, and tells to trackers."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bgetune.files import read_json
from tests import jobs
from tests.jobs import Job, jsonl, only_error
from train.__main__ import main
from train.schedule import learning_rate


def trained(tmp_path: Path, model: dict[str, Any] | None = None, **train: Any) -> Job:
    jobs.fresh_accelerator()
    tmp_path.mkdir(exist_ok=True)
    job = jobs.trainable(tmp_path, train=train, model=model or {})
    assert main(job.words) == 0
    return job


def steps(job: Job) -> list[dict[str, Any]]:
    return [line for line in jsonl(job.run.train_log) if "loss" in line]


def dev(job: Job) -> dict[int, float]:
    return {line["step"]: line["dev/ndcg@10"] for line in jsonl(job.run.train_log) if "dev/ndcg@10" in line}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_log_has_a_line_a_step_with_every_value(tmp_path, schedule):
    job = trained(tmp_path, schedule=schedule)
    lines = steps(job)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    fields = {"step", "loss", "loss/dense", "grad_norm", "grad_norm/dense", "score/dense/positive",
              "score/dense/negative", "learning_rate", "tokens", "padding_share", "cached"}  # fmt: skip
    assert all(set(line) == fields for line in lines)
    assert all(0 <= line["padding_share"] < 0.10 and line["tokens"] > 32 and line["loss"] > 0 for line in lines)
    rates = [learning_rate(step, 6, job.config.train) for step in range(6)]
    assert [line["learning_rate"] for line in lines] == rates
    assert len(set(rates)) > 3
    measured = [line for line in jsonl(job.run.train_log) if "loss" not in line]
    assert [line["step"] for line in measured] == [0, 3, 6]  # before the first, every third, after the last
    names = ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map@100")
    assert all(set(line) == {"step", *(f"dev/{name}" for name in names)} for line in measured)


def test_training_learns_and_best_is_the_best_on_dev(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="bgetune"):
        job = trained(tmp_path, max_steps=30, epochs=6, learning_rate=1e-2, eval_every=5, save_every=10, dropout=0.0)
    lines, scores = steps(job), dev(job)
    assert sum(line["loss"] for line in lines[-5:]) < 0.7 * sum(line["loss"] for line in lines[:5])
    best = read_json(job.run.best / "best.json")
    assert best["dev_ndcg@10"] == max(scores.values()) == scores[best["step"]]
    assert best["step"] == min(step for step, score in scores.items() if score == max(scores.values())) > 0
    assert not same(weights(job.run.best), weights(tmp_path / "model"))
    assert "no checkpoint beat the base model" not in caplog.text
    assert {path.name for path in job.run.checkpoints.iterdir()} == {"best", "step-20", "step-30", "made_from.json"}


def test_when_training_hurts_the_base_is_kept_and_it_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="bgetune"):
        job = trained(tmp_path, learning_rate=3.0, warmup_share=0.0, eval_every=1)
    scores = dev(job)
    assert max(scores, key=lambda step: scores[step]) == 0
    assert read_json(job.run.best / "best.json")["step"] == 0
    assert same(weights(job.run.best), weights(tmp_path / "model"))
    assert "no checkpoint beat the base model on dev; `best` is the base model itself" in caplog.text


def test_early_stopping_counts_retrievals_without_a_better_one(tmp_path, caplog):
    options = {"learning_rate": 3.0, "warmup_share": 0.0, "eval_every": 1, "early_stopping_patience": 2}
    with caplog.at_level(logging.INFO, logger="bgetune"):
        job = trained(tmp_path, **options)
    scores = dev(job)
    last = max(scores)
    best = max(scores, key=lambda step: scores[step])
    assert last == best + 2 < 6
    assert [line["step"] for line in steps(job)] == list(range(1, last + 1))
    assert f"stopped early at step {last}: dev has not improved since step {best}" in caplog.text


def test_a_run_that_blows_up_stops_and_keeps_what_was_good(tmp_path, capsys):
    jobs.fresh_accelerator()
    job = jobs.trainable(tmp_path, train={"learning_rate": 1e30, "warmup_share": 0.0})
    assert main(job.words) == 2
    assert re.match(r"error: train: the (loss|gradient) is (nan|-?inf), and the weights were left", only_error(capsys))
    assert all(abs(line["loss"]) < 1e6 for line in steps(job))
    assert same(weights(job.run.best), weights(tmp_path / "model"))
    assert not job.run.manifest("train").exists()


def test_gradient_checkpointing_changes_no_loss(tmp_path):
    """With dropout: the masks of the second forward pass must be those of the first."""
    plain = trained(tmp_path / "a")
    saving = trained(tmp_path / "b", gradient_checkpointing=True)
    for name in ("loss", "grad_norm"):
        expected = [line[name] for line in steps(plain)]
        assert [line[name] for line in steps(saving)] == pytest.approx(expected, rel=1e-5)
    assert dev(saving) == dev(plain)


def test_dropout_is_on_in_training_unless_overridden(tmp_path):
    losses = {}
    for rate in (None, 0.0, 0.4):
        losses[rate] = [line["loss"] for line in steps(trained(tmp_path / str(rate), max_steps=2, dropout=rate))]
    assert len({tuple(values) for values in losses.values()}) == 3


def test_micro_batches_change_memory_and_not_the_result(tmp_path):
    found = []
    for tokens in (64, 8192):
        job = trained(tmp_path / str(tokens), micro_batch_tokens=tokens, dropout=0.0)
        found.append([line["loss"] for line in steps(job)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_other_similarities_train(tmp_path, similarity):
    model = {"similarity": similarity, "normalize": False, "pooling": "mean"}
    lines = steps(trained(tmp_path, model, temperature=1.0, max_steps=20, epochs=4, learning_rate=1e-2))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_dev_may_be_the_first_queries_by_hash(tmp_path):
    whole = trained(tmp_path / "a", max_steps=1)
    part = trained(tmp_path / "b", max_steps=1, eval_max_queries=3)
    recalls = [line["dev/recall@10"] for line in jsonl(part.run.train_log) if "dev/recall@10" in line]
    assert all(round(value * 3, 6) in (0, 1, 2, 3) for value in recalls)
    assert dev(part) != dev(whole)


def test_bf16_trains_with_weights_in_fp32(tmp_path):
    job = trained(tmp_path, precision="bf16")
    assert {tensor.dtype for tensor in weights(job.run.best).values()} == {torch.float32}
    exact = steps(trained(tmp_path / "fp32"))
    for line, other in zip(steps(job), exact, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=0.1)
        assert line["loss"] != other["loss"]


# -- trackers


def test_tensorboard_gets_the_same_values(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = trained(tmp_path, report_to=["tensorboard"])
    files = list(job.run.train_log.parent.rglob("events.out.tfevents.*"))
    assert files
    found: dict[tuple[str, int], float] = {}
    for folder in {file.parent for file in files}:
        events = EventAccumulator(str(folder)).Reload()
        found.update(
            {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
        )
    for line in jsonl(job.run.train_log):
        for name in line.keys() - {"step"}:
            assert found[name, line["step"]] == pytest.approx(line[name], rel=1e-6)
    assert found["tokens_per_second", 6] > 0


def test_wandb_works_offline(tmp_path, monkeypatch):
    """No network, no login: the files lie below the run folder, ready for `wandb sync`."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    job = trained(tmp_path, report_to=["wandb"])
    runs = list((job.run.train_log.parent / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    recorded = next(runs[0].glob("run-*.wandb")).read_bytes()
    assert all(name in recorded for name in (b"grad_norm", b"dev/ndcg@10", b"padding_share"))
    assert not (tmp_path / "wandb").exists()


def test_trackers_change_nothing_in_the_job(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    logs = []
    for folder, trackers in zip(folders, ([], ["tensorboard"]), strict=True):
        job = trained(folder, report_to=trackers)
        logs.append((job.run.train_log.read_bytes(), weights(job.run.best)))
    assert logs[0][0] == logs[1][0]
    assert same(logs[0][1], logs[1][1])
    assert json.loads(logs[0][0].splitlines()[0])["step"] == 0
