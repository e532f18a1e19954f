"""Runs the train stage in children that are killed at named moments. Started once by test_resume.py, as a program.

Reads a JSON list of {name, argv, moments, last} and prints {name: exit statuses}: one start for each moment, at
which it dies, then one with `last` added to its words that may end. Children are forked from here, where torch is
imported, the parser of options made, and nothing was computed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers.models.bert.modeling_bert  # noqa: F401 - else each child spends its time on it

import bgetune.files
import bgetune.stage_program
import train.checkpoint
import train.log
import train.trainer
from bgetune.config_io import parse_job
from bgetune.encoder import Encoder
from bgetune.stage_program import add_round_options
from train.__main__ import main as train_main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: Any, name: str, number: int, change: Callable[[Callable[..., Any], tuple, dict], Any]) -> None:
    """Replace `owner.name`; its `number`th call goes to `change(original, args, kwargs)`."""
    original, calls = getattr(owner, name), [0]

    def replacement(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return change(original, args, kwargs) if calls[0] == number else original(*args, **kwargs)

    setattr(owner, name, replacement)


def before(_original: Callable[..., Any], _args: tuple, _kwargs: dict) -> None:
    die()


def after(original: Callable[..., Any], args: tuple, kwargs: dict) -> None:
    original(*args, **kwargs)
    die()


def torn_weights(original: Callable[..., Any], args: tuple, kwargs: dict) -> None:
    """As if the power went while the weights were written."""
    original(*args, **kwargs)
    weights = Path(args[1]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    die()


def torn_line(_original: Callable[..., Any], args: tuple, _kwargs: dict) -> None:
    log = args[0]
    log._file.write('{"step": 5, "los')
    log._file.flush()
    die()


def half_removed(_original: Callable[..., Any], args: tuple, _kwargs: dict) -> None:
    (Path(args[0]) / "model.safetensors").unlink()
    die()


def between_renames(name: str, number: int) -> None:
    """When `name` has been moved aside and the new one is not in its place yet."""
    original, seen = os.replace, [0]

    def replacement(source: Any, target: Any) -> None:
        if Path(target).name == name and Path(source).name == f".{name}.partial":
            seen[0] += 1
            if seen[0] == number:
                die()
        original(source, target)

    bgetune.files.os.replace = replacement  # type: ignore[assignment]


def in_removal(number: int) -> None:
    """When half of an old checkpoint is gone."""

    class Shutil:
        rmtree = staticmethod(shutil.rmtree)

    at_call(Shutil, "rmtree", number, half_removed)
    train.checkpoint.shutil = Shutil  # type: ignore[assignment]


MOMENTS: dict[str, Callable[[int], None]] = {
    "before step": lambda n: at_call(train.trainer, "training_step", n, before),
    "after step": lambda n: at_call(train.trainer, "training_step", n, after),
    "after log line": lambda n: at_call(train.log.TrainLog, "write", n, after),
    "in log line": lambda n: at_call(train.log.TrainLog, "write", n, torn_line),
    "in weights": lambda n: at_call(Encoder, "save", n, torn_weights),
    "after best": lambda n: at_call(train.checkpoint, "save_best", n, after),
    "in rename of best": lambda n: between_renames("best", n),
    "after checkpoint": lambda n: at_call(train.checkpoint, "save", n, after),
    "before optimizer state": lambda n: at_call(train.checkpoint, "save_file", n, before),
    "in removal of old checkpoint": in_removal,
    "before seal": lambda n: at_call(bgetune.stage_program, "seal", n, before),
}


def run(argv: list[str], moment: str | None) -> int:
    """One start in a child; the exit status, negative for a signal."""
    output = Path(argv[argv.index("--output") + 1])
    name, _, number = (moment or "").rpartition(" ")
    child = os.fork()
    if child == 0:
        said = os.open(output.with_suffix(".txt"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        if name in MOMENTS:
            MOMENTS[name](int(number))
        os._exit(train_main(argv))
    if name == "outside, at line":
        _kill_at_lines(child, output, int(number))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill_at_lines(child: int, output: Path, lines: int) -> None:
    """Kill from outside, without regard to what the child is at, once its log has so many lines."""
    log, deadline = output / "logs" / "train.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    jobs = json.load(sys.stdin)
    parse_job(jobs[0]["argv"], "", "", add_round_options)
    found = {
        job["name"]: [*(run(job["argv"], moment) for moment in job["moments"]), run(job["argv"] + job["last"], None)]
        for job in jobs
    }
    print(json.dumps(found))
