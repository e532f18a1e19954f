"""A model as a user names it: a job's folder, a model's folder, a Hub id, or a PyPI package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.config_io import load_job
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.models import model_folder
from bgetune.run import Run


@dataclass(frozen=True)
class NamedModel:
    """Where its weights are, and how it reads a text."""

    name: str
    folder: Path
    config: JobConfig
    """The job's own, or the one given with `model.name_or_path` put in."""
    run: Run | None = None
    """Where it is a job's final model."""

    def load(self) -> Encoder:
        return Encoder.load_folder(self.folder, self.config.model)


def named_model(word: str, config: JobConfig, option: str) -> NamedModel:
    """Find it.

    Args:
        config: everything besides the weights, for what is not a job's folder.
        option: what named it, for messages.

    Raises:
        UserError: the job is not trained yet, or nothing is there by that name.
    """
    root = Path(word).expanduser()
    if (root / "config.yaml").is_file() and not (root / "config.json").is_file():
        job = load_job(root / "config.yaml")
        run = Run(root, job.adapt.rounds)
        final = run.final(job)
        if not final.is_dir():
            raise UserError(
                f"{option}: the job in {root} has no checkpoint {final.name} yet; run `bgetune adapt` on it, to go "
                f"on from where it is, or name a folder in {final.parent}"
            )
        return NamedModel(word, final, job, run)
    named = replace(config, model=replace(config.model, name_or_path=word))
    return NamedModel(word, model_folder(named.model, option), named)


def short_names(words: Sequence[str]) -> list[str]:
    """The last part of each path, or all of it where two would be the same.

    >>> short_names(["runs/a", "BAAI/bge-m3"]), short_names(["x/a", "y/a"])
    (['a', 'bge-m3'], ['x/a', 'y/a'])
    """
    last = [word.rstrip("/").rpartition("/")[2] for word in words]
    return [short if last.count(short) == 1 else word for short, word in zip(last, words, strict=True)]
