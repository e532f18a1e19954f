"""A job's folder: where everything is, opening it safely, one process at a time.

Layout of `runs/<name>/`, in the order in which it comes to be:

    config.yaml                  the effective configuration
    data/<set>/                  BEIR layout: the domain and each guard
    mined/                       train.jsonl, the training examples; audit.html; stats.json; ranks.npz
    checkpoints/step-N/, best/   to resume from; the best model on dev; merged/, where merging is asked for
    logs/train.jsonl             one line a step
    report/                      report.html, report.md, report.json, per_query.parquet, TREC run files
    export/, export-<form>/      the folder other tools read, and its forms beside it
    vectors/                     encoded texts, named by the hash of weights, texts and settings
    rounds/<n>/                  mined, checkpoints and logs of round n, from the second on
    manifests/<stage>.json       what a finished stage was made from, and hashes of what it made
    manifests/push.json          which commits on the Hub were fetched again and compared
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_io import flatten, load_job, to_dict, to_yaml
from bgetune.errors import UserError
from bgetune.files import write_text
from bgetune.locks import held

BASE, TUNED, MERGED = "base", "tuned", "merged"
"""The systems of a job's evaluation: the model it began with, what was trained, and what `merge` made of both."""
NOTHING_MADE = ("output", "eval.max_guard_loss", "hub.")
"""Options that change nothing of what is made: where it is, whether it will do, where it goes."""
STARTED_HEADS = "started_heads"
"""In `checkpoints/` and `best/`: heads that the base model lacks, as they were before training."""


@dataclass(frozen=True)
class Run:
    """Where everything of a job is, as one of its rounds of mining and training sees it."""

    root: Path
    round: int = 1

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    def data(self, name: str) -> Path:
        return self.root / "data" / name

    @property
    def round_folder(self) -> Path:
        """The first round's work is in the job's folder itself."""
        return self.root if self.round == 1 else self.root / "rounds" / str(self.round)

    @property
    def round_before(self) -> Run | None:
        return None if self.round == 1 else Run(self.root, self.round - 1)

    @property
    def examples(self) -> Path:
        return self.round_folder / "mined" / "train.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.round_folder / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best"

    @property
    def merged(self) -> Path:
        """The weights between base and best that `merge` chose."""
        return self.checkpoints / "merged"

    def final(self, config: JobConfig) -> Path:
        """The model that the job ends with."""
        return self.merged if config.merge.shares else self.best

    @property
    def merge_note(self) -> Path:
        """How the merge was chosen, and which queries of guards decided it."""
        return self.merged / "merge.json"

    @property
    def base_heads(self) -> Path | None:
        """Heads that base is measured with, where it has none of its own."""
        folder = self.best / STARTED_HEADS
        return folder if folder.is_dir() else None

    @property
    def train_log(self) -> Path:
        return self.round_folder / "logs" / "train.jsonl"

    @property
    def wandb_id(self) -> Path:
        """The W&B run of the job, which training began and the evaluation adds to."""
        return self.checkpoints / "wandb_id.txt"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def vectors(self) -> Path:
        return self.root / "vectors"

    @property
    def best_vectors(self) -> Path:
        """Texts encoded by the best checkpoint: dev's, then those of the next round and of the evaluation."""
        return self.vectors / ("best" if self.round == 1 else f"best-{self.round}")

    @property
    def merged_vectors(self) -> Path:
        """Texts encoded by what `merge` chose."""
        return self.vectors / "merged"

    def manifest(self, stage: str) -> Path:
        """What a finished stage was made from, and hashes of what it made."""
        return self._manifests / f"{stage}.json"

    def started(self, stage: str) -> Path:
        """What a stage that has begun and not ended is made from."""
        return self._manifests / f"{stage}.started.json"

    @property
    def _manifests(self) -> Path:
        # stages that are not part of a round have one manifest, whatever the last round is
        return self.root / "manifests"

    @property
    def resumable(self) -> Path:
        """What the training whose checkpoints these are is made from; without it they are not gone on from."""
        return self.checkpoints / "made_from.json"


def final_system(config: JobConfig) -> str:
    """The system that the job ends with."""
    return MERGED if config.merge.shares else TUNED


@contextmanager
def open_run(config: JobConfig, update: bool) -> Iterator[Run]:
    """Make or open the job's folder and hold it: one process at a time, of this configuration.

    Raises:
        UserError: the folder is in use, holds something else, cannot be written, or belongs to another
            configuration and `update` is off.
    """
    run = Run(Path(config.output))
    if run.root.exists() and not run.root.is_dir():
        raise UserError(f"output: {run.root} is a file; name a folder")
    if run.root.exists() and not run.config_file.exists() and any(p.name not in _OURS for p in run.root.iterdir()):
        raise UserError(f"output: {run.root} holds files that are not a job's; choose a new or empty folder")
    run.root.mkdir(parents=True, exist_ok=True)
    if not os.access(run.root, os.W_OK):
        raise UserError(f"output: {run.root} cannot be written to; choose another folder")
    with locked(run):
        _refuse_other_configuration(config, run, update)
        if not _is_of(config, run):
            write_text(run.config_file, to_yaml(config))
        yield run


_OURS = {".lock", ".config.yaml.partial", ".DS_Store"}
"""What a job that was killed before it wrote its configuration may have left."""


def _is_of(config: JobConfig, run: Run) -> bool:
    return run.config_file.exists() and run.config_file.read_bytes() == to_yaml(config).encode()


def _refuse_other_configuration(config: JobConfig, run: Run, update: bool) -> None:
    """Unless nothing has been finished with it yet: a first try with a slip in it binds nobody."""
    finished = [p for p in (run.root / "manifests").glob("*.json") if not p.name.endswith(".started.json")]
    if update or not finished or not run.config_file.exists() or _is_of(config, run):
        return
    before, now = flatten(to_dict(load_job(run.config_file))), flatten(to_dict(config))
    options = [option for option in before.keys() | now.keys() if not option.startswith(NOTHING_MADE)]
    changed = sorted(option for option in options if before.get(option) != now.get(option))
    if changed:
        shown = ", ".join(f"{k} ({before.get(k)!r} there, {now.get(k)!r} now)" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"output: {run.root} belongs to another configuration: {shown}{more}; "
            "choose another `output`, or pass --update to redo the stages this changes"
        )


LOCK_HELD = "BGETUNE_LOCK_HELD"
"""Environment: the folder whose lock the parent process (`adapt`) holds for this one."""


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold the folder's lock; a second process gets one clear line instead of a broken folder."""
    if os.environ.get(LOCK_HELD) == str(run.root.resolve()):
        yield
        return
    # the stages of a job that was killed end within moments of it
    with held(run.root / ".lock", patience=3) as owner:
        if owner is not None:
            raise UserError(f"output: a job is running in {run.root} already (process {owner})")
        yield
