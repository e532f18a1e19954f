"""The report in Weights & Biases: beside the training run, and never in the report's way."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bgetune.config import JobConfig, TrainConfig
from bgetune.run import Run
from eval.tracker import log_to_wandb

CONFIG = JobConfig(train=TrainConfig(report_to=("wandb",)))
REPORT: dict[str, Any] = {
    "sets": {
        "clinic": {
            "verdicts": {"tuned": "better"},
            "retrievers": {"dense": {"base": {"ndcg@10": 0.5}, "tuned": {"ndcg@10": 0.7}}},
        }
    }
}


class Board:
    """What the package would send."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values

    def init(self, **options: Any) -> Board:
        self.options = options
        return self


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "job")
    for folder in (run.report, run.checkpoints, run.train_log.parent):
        folder.mkdir(parents=True)
    (run.report / "report.html").write_text("<p>report</p>", encoding="utf-8")
    run.wandb_id.write_text("abc\n", encoding="utf-8")
    return run


def fake(monkeypatch: pytest.MonkeyPatch, board: Board, **others: Any) -> None:
    parts = {"init": board.init, "Html": lambda path, inject: Path(path).read_text(encoding="utf-8"), **others}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(**parts))


def test_figures_and_page_go_to_the_training_run(run: Run, monkeypatch: pytest.MonkeyPatch):
    board = Board()
    fake(monkeypatch, board)
    log_to_wandb(CONFIG, run, REPORT)
    assert board.options["id"] == "abc"
    assert board.options["dir"] == str(run.train_log.parent)
    assert board.summary == {
        "eval/clinic/verdict/tuned": "better",
        "eval/clinic/dense/base/ndcg@10": 0.5,
        "eval/clinic/dense/tuned/ndcg@10": 0.7,
    }
    assert board.logged == {"report": "<p>report</p>"}


def test_nothing_is_loaded_where_it_is_not_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    log_to_wandb(JobConfig(), run, REPORT)


def fail(error: Exception) -> Any:
    def raising(*_: Any, **__: Any) -> None:
        raise error

    return raising


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"init": fail(ConnectionError("no\nroute"))}, "wandb: no route; the report is in "),
        ({"init": fail(TimeoutError())}, "wandb: TimeoutError; the report is in "),
        ({"Html": fail(ValueError("too large"))}, "wandb: too large; the report is in "),
        (None, "wandb: import of wandb halted; "),
    ],
)
def test_whatever_goes_wrong_is_one_warning(
    run: Run,
    broken: dict[str, Any] | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    if broken is None:
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        fake(monkeypatch, Board(), **broken)
    with caplog.at_level(logging.WARNING, logger="bgetune"):
        log_to_wandb(CONFIG, run, REPORT)
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "\n" not in record.getMessage()
