"""The whole job: each stage that does not hold, one after the other, each in a process of its own."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Sequence

from bgetune.config import JobConfig
from bgetune.config_io import parse_job
from bgetune.errors import UserError
from bgetune.run import Run, only_one, open_run
from bgetune.stages import STAGES, Stage, add_run_options, holds

log = logging.getLogger("bgetune")

_DESCRIPTION = """Adapt a model to a domain: prepare the data, mine hard negatives, train, evaluate, export.
Run it again to go on after an interruption; stages whose inputs and configuration are unchanged are skipped."""


def adapt(argv: Sequence[str]) -> int:
    """`bgetune adapt --config C`. Returns the exit code of the first stage that failed, else 0."""
    config, own = parse_job(argv, "bgetune adapt", _DESCRIPTION, add_run_options)
    run = open_run(config, own["update"])
    with only_one(run, "adapt"):
        redo = own["force"]
        for number, stage in enumerate(STAGES, start=1):
            heading = f"[{number}/{len(STAGES)}] {stage.name}"
            if not redo and holds(stage, config, run):
                log.info("%s: still holds, skipped", heading)
                continue
            log.info("%s: %s", heading, stage.what)
            began = time.perf_counter()
            code = _start(stage, run, redo)
            if code:
                return code
            log.info("%s: done in %.0f s", heading, time.perf_counter() - began)
    _say_result(config, run)
    return 0


def _start(stage: Stage, run: Run, redo: bool) -> int:
    command = [sys.executable, "-m", *stage.command, "--config", str(run.config_file)]
    return subprocess.run(command + ["--force"] * redo, check=False).returncode


def _say_result(config: JobConfig, run: Run) -> None:
    if not (run.report / "report.md").is_file():
        raise UserError(f"{run.report}: no report; run again with --force")
    print(f"model:  {run.export}")
    print(f"report: {run.report / 'report.md'}")
