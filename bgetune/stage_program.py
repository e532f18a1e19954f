"""The main program of a stage, and of its processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonargparse

from bgetune.config import JobConfig
from bgetune.config_io import parse_job
from bgetune.errors import UserError, exit_code
from bgetune.manifest import begin, fingerprint, finished, holds, seal
from bgetune.processes import rank
from bgetune.run import LOCK_HELD, Run, open_run
from bgetune.stages import Stage, plan, stage_named

log = logging.getLogger("bgetune")


def add_run_options(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="Accept a changed configuration for an existing output.")
    parser.add_argument("--force", action="store_true", help="Do the work again even if what is there still holds.")


def run_stage(
    name: str, body: Callable[[JobConfig, Run], None], argv: Sequence[str] | None = None, prog: str | None = None
) -> int:
    """The main program of a stage: read the words and do it."""
    stage = stage_named(name)

    def program() -> int | None:
        words = list(sys.argv[1:] if argv is None else argv)
        description = f"{stage.name}: {stage.what}."
        options = add_round_options if stage.in_rounds else add_run_options
        config, own = parse_job(words, prog or f"python -m {' '.join(stage.command)}", description, options)
        return do_stage(stage, body, config, own)

    return exit_code(program)


def do_stage(
    stage: Stage, body: Callable[[JobConfig, Run], None], config: JobConfig, own: dict[str, Any]
) -> int | None:
    """Lock, skip if the work holds, do it, write the manifest.

    Args:
        own: what `add_run_options` adds to the job's options, and `add_round_options` where the stage is in rounds.

    Returns:
        The exit code, 1 where a limit of the job is broken; None on the other ranks.

    Raises:
        UserError: another process works there, an input is missing, the configuration changed, or the stage's own.
    """
    _end_with_parent()
    number = _round(own.get("round"), stage, config)
    if rank() != 0:
        # decides as rank 0 does: a manifest that holds stays as it is; and leaves the telling to it
        log.setLevel(logging.ERROR)
        run = Run(Path(config.output), number)
        if stage.on_every_rank and (own["force"] or not holds(stage, config, run)):
            body(config, run)
        return None
    with open_run(config, own["update"]) as opened:
        run = replace(opened, round=number)
        _refuse_missing_inputs(stage, config, run)
        _warn_of_changes_before(stage, config, run)
        made_from = fingerprint(stage, config, run)
        if not own["force"] and holds(stage, config, run, made_from):
            log.info("%s: still holds, skipped (--force does it again)", stage.name)
        else:
            begin(stage, run, made_from, own["force"])
            body(config, run)
            seal(stage, config, run, made_from)
        return keeps_limits(stage, config, run)


def keeps_limits(stage: Stage, config: JobConfig, run: Run) -> int:
    """Say which of the job's own limits are broken; the exit code, 1 where one is."""
    broken = stage.broken(config, run)
    for sentence in broken:
        log.error("failed: %s", sentence)
    return 1 if broken else 0


def add_round_options(parser: jsonargparse.ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument("--round", type=int, help="Which of `adapt.rounds`; when absent the first that is not done.")


def _round(asked: int | None, stage: Stage, config: JobConfig) -> int:
    last = config.adapt.rounds
    if asked is not None and not 1 <= asked <= last:
        raise UserError(f"--round: {asked} will not do; rounds count from 1, and adapt.rounds is {last}")
    if asked is not None or not stage.in_rounds:
        return asked or last
    done = (finished(stage, Run(Path(config.output), number)) for number in range(1, last + 1))
    return next((number for number, is_done in enumerate(done, start=1) if not is_done), last)


def _refuse_missing_inputs(stage: Stage, config: JobConfig, run: Run) -> None:
    for path in stage.inputs(config, run):
        if path.is_relative_to(run.root) and not path.exists():
            maker = _maker_of(path, config, run)
            raise UserError(f"{path}: missing; run the stage `{maker}` first, or `bgetune adapt` for all of them")


def _warn_of_changes_before(stage: Stage, config: JobConfig, run: Run) -> None:
    """Say which earlier stage's work no longer holds, where `adapt` does not see to that: this one builds on it."""
    steps = plan(config)
    if os.environ.get(LOCK_HELD) == str(run.root.resolve()) or (stage, run.round) not in steps:
        return
    changed = []
    for earlier, number in steps[: steps.index((stage, run.round))]:
        at = replace(run, round=number)
        try:
            if finished(earlier, at) and not holds(earlier, config, at):
                changed.append(f"`{_named(earlier, number, config)}`")
        except UserError:  # a model that is not here any more: what was made of it may well hold
            continue
    if changed:
        log.warning(
            "%s: the configuration, the inputs or the output of %s changed after it was done, and this stage builds on "
            "what is there; run it again first, or `bgetune adapt` for all",
            stage.name,
            " and ".join(changed),
        )


PARENT_PIPE = "BGETUNE_PARENT_PIPE"
"""Environment: number of a pipe that closes when the process that started this one ends."""


def _end_with_parent() -> None:
    """A stage that outlives a killed `adapt` would go on writing into a folder that nobody holds any more."""
    pipe = os.environ.pop(PARENT_PIPE, None)
    if pipe is None:
        return

    def wait_for_the_end() -> None:
        os.read(int(pipe), 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def _maker_of(path: Path, config: JobConfig, run: Run) -> str:
    for stage, number in plan(config):
        outputs = stage.outputs(config, replace(run, round=number))
        if any(path == out or out in path.parents for out in outputs):
            return _named(stage, number, config)
    raise AssertionError(f"no stage makes {path}")


def _named(stage: Stage, number: int, config: JobConfig) -> str:
    """As one starts it: `mine --round 2`, `prepare`."""
    return f"{stage.name} --round {number}" if stage.in_rounds and config.adapt.rounds > 1 else stage.name
