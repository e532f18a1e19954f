"""A job's folder: where everything is, opening it safely, one process at a time.

Layout of `runs/<name>/`, in the order in which it comes to be:

    config.yaml                  the effective configuration
    data/<set>/                  BEIR layout: the domain and each guard
    mined/train.jsonl            training examples
    checkpoints/step-N/, best/   to resume from; the best model on dev
    logs/train.jsonl             one line a step
    report/                      report.json, report.md, TREC run files
    export/                      the folder other tools read
    vectors/                     encoded texts, named by the hash of weights, texts and settings
    manifests/<stage>.json       what a finished stage was made from, and hashes of what it made
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_io import flatten, load_job, to_dict, to_yaml
from bgetune.errors import UserError
from bgetune.files import write_text


@dataclass(frozen=True)
class Run:
    """Where everything of a job is."""

    root: Path

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    def data(self, name: str) -> Path:
        return self.root / "data" / name

    @property
    def examples(self) -> Path:
        return self.root / "mined" / "train.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best"

    @property
    def train_log(self) -> Path:
        return self.root / "logs" / "train.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def vectors(self) -> Path:
        return self.root / "vectors"

    def manifest(self, stage: str) -> Path:
        return self.root / "manifests" / f"{stage}.json"


def open_run(config: JobConfig, update: bool) -> Run:
    """Make or open the job's folder.

    Raises:
        UserError: the folder belongs to another configuration and `update` is off, or cannot be written.
    """
    run = Run(Path(config.output))
    if run.root.exists() and not run.root.is_dir():
        raise UserError(f"output: {run.root} is a file; name a folder")
    if run.config_file.exists():
        before, now = flatten(to_dict(load_job(run.config_file))), flatten(to_dict(config))
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed and not update:
            shown = ", ".join(f"{k} ({before.get(k)!r} there, {now.get(k)!r} now)" for k in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"output: {run.root} belongs to another configuration: {shown}{more}; "
                "choose another `output`, or pass --update to redo the stages this changes"
            )
    elif run.root.exists() and any(not p.name.startswith(".") for p in run.root.iterdir()):
        raise UserError(f"output: {run.root} holds files that are not a job's; choose a new or empty folder")
    run.root.mkdir(parents=True, exist_ok=True)
    if not os.access(run.root, os.W_OK):
        raise UserError(f"output: {run.root} cannot be written to; choose another folder")
    text = to_yaml(config)
    if not run.config_file.exists() or run.config_file.read_text(encoding="utf-8") != text:
        write_text(run.config_file, text)
    return run


@contextmanager
def only_one(run: Run, what: str) -> Iterator[None]:
    """Hold the job's lock for `what`; a second process gets one clear line instead of a broken folder."""
    path = run.root / "manifests" / f".{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"output: {what} is running in {run.root} already (process {file.read().strip()})"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_main_process() -> bool:
    """Whether this is rank 0 of its launch, as torchrun and accelerate say in the environment."""
    return int(os.environ.get("RANK", "0")) == 0
