"""The models under test. The first is the reference: every other one is compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bgetune.config import JobConfig
from bgetune.encoder import Encoder
from bgetune.run import BASE, MERGED, TUNED, Run


@dataclass(frozen=True)
class System:
    """One model under test; `load` is called when its turn comes, so that one is in memory at a time."""

    name: str
    model: str
    """Folder or Hub id, as it was given."""
    config: JobConfig
    """How it reads texts and weighs its heads; what is measured is the same for all."""
    cache: Path
    """Where its encoded texts are kept."""
    load: Callable[[], Encoder]


def systems_of(config: JobConfig, run: Run) -> list[System]:
    """A job's: base, with the heads that training started from where it has none of its own; tuned; and their merge."""
    name = config.model.name_or_path
    found = [
        System(BASE, name, config, run.vectors, lambda: Encoder.load(config.model, heads_from=run.base_heads)),
        System(TUNED, name, config, run.best_vectors, lambda: Encoder.load_folder(run.best, config.model)),
    ]
    if config.merge.shares:
        found.append(
            System(MERGED, name, config, run.merged_vectors, lambda: Encoder.load_folder(run.merged, config.model))
        )
    return found
