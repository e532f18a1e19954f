"""The report beside the training run in Weights & Biases, where the job reports there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from bgetune.config import JobConfig
from bgetune.run import Run

log = logging.getLogger("bgetune")


def log_to_wandb(config: JobConfig, run: Run, report: Mapping[str, Any]) -> None:
    """Add the figures to the summary of the job's W&B run, and the page to its media.

    Whatever goes wrong with W&B costs a warning and not the report, which is on disk.
    """
    if "wandb" not in config.train.report_to:
        return
    try:
        import wandb

        known = run.wandb_id.read_text(encoding="utf-8").strip() if run.wandb_id.is_file() else None
        with wandb.init(
            project="bgetune", name=run.root.name, id=known, resume="allow", dir=str(run.train_log.parent)
        ) as board:
            board.summary.update(dict(_figures(report)))
            board.log({"report": wandb.Html(str(run.report / "report.html"), inject=False)})
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        log.warning("train.report_to: wandb: %s; the report is in %s", reason, run.report)


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, float | str]]:
    for name, found in report["sets"].items():
        for system, said in found["verdicts"].items():
            yield f"eval/{name}/verdict/{system}", said
        for retriever, by_system in found["retrievers"].items():
            for system, metrics in by_system.items():
                for metric, value in metrics.items():
                    yield f"eval/{name}/{retriever}/{system}/{metric}", value
