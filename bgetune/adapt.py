"""The whole job: each stage that does not hold, one after the other, each in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_io import parse_job
from bgetune.errors import UserError
from bgetune.export.push_secret import hub_token
from bgetune.manifest import holds
from bgetune.run import LOCK_HELD, Run, open_run
from bgetune.stage_program import PARENT_PIPE, add_run_options, keeps_limits
from bgetune.stages import Stage, plan

log = logging.getLogger("bgetune")

_DESCRIPTION = """Adapt a model to a domain: prepare the data, mine hard negatives, train, evaluate, export.
Run it again to go on after an interruption; stages whose inputs and configuration are unchanged are skipped."""


def adapt(argv: Sequence[str]) -> int:
    """`bgetune adapt --config C`. Returns the exit code of the first stage that failed, else 0."""
    config, own = parse_job(argv, "bgetune adapt", _DESCRIPTION, add_run_options)
    _refuse_missing_probes(config)
    if config.hub.repo:
        hub_token("hub.repo")  # it is asked for last, hours from now
    with open_run(config, own["update"]) as opened:
        redo, steps = own["force"], plan(config)
        for number, (stage, round_) in enumerate(steps, start=1):
            run = replace(opened, round=round_)
            in_round = (
                f", round {round_} of {config.adapt.rounds}" if stage.in_rounds and config.adapt.rounds > 1 else ""
            )
            heading = f"[{number}/{len(steps)}] {stage.name}{in_round}"
            if not redo and not stage.looks_again(config) and holds(stage, config, run):
                log.info("%s: still holds, skipped", heading)
                if code := keeps_limits(stage, config, run):
                    return code
                continue
            log.info("%s: %s", heading, stage.what)
            began = time.perf_counter()
            code = _start(stage, run, redo)
            if code:
                return code
            log.info("%s: done in %.0f s", heading, time.perf_counter() - began)
    _say_result(config, opened)
    return 0


def _refuse_missing_probes(config: JobConfig) -> None:
    """They are read last, hours from now."""
    for name, path in config.eval.probes.items():
        if not Path(path).expanduser().exists():
            raise UserError(f"eval.probes.{name}: {path!r}: no such file or folder; name one, or leave the probe out")


def _start(stage: Stage, run: Run, redo: bool) -> int:
    """Run a stage to its end. It holds our lock with us, and ends when we end."""
    command = [sys.executable, "-m", *stage.command, "--config", str(run.config_file)]
    command += ["--round", str(run.round)] if stage.in_rounds else []
    ours, theirs = os.pipe()
    held = {LOCK_HELD: str(run.root.resolve()), PARENT_PIPE: str(ours)}
    try:
        child = subprocess.Popen(command + ["--force"] * redo, env={**os.environ, **held}, pass_fds=(ours,))
        os.close(ours)
        code = _wait(child)
    finally:
        os.close(theirs)
    if code < 0:
        raise UserError(
            f"{stage.name}: ended by signal {-code}; if that was for want of memory, lower train.micro_batch_tokens or "
            "encode_batch_tokens, then run the same command again"
        )
    return code


def _wait(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait()
    except KeyboardInterrupt:
        # the terminal has sent the stage the same signal; let it say its line
        child.wait()
        raise


def _say_result(config: JobConfig, run: Run) -> None:
    if not (run.report / "report.html").is_file():
        raise UserError(f"{run.report}: no report; run again with --force")
    print(f"model:  {run.export}")
    print(f"report: {run.report / 'report.html'}")
