"""What a model card is made from, gathered from a job's folder: report, counts, hashes, licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bgetune.config import Head, JobConfig
from bgetune.config_export import Form
from bgetune.data import SPLITS, judgement_lines
from bgetune.encoder import Encoder
from bgetune.export.card_licence import base_licence, licence_files
from bgetune.files import read_json
from bgetune.head_files import read_heads
from bgetune.manifest import weights_files_hash
from bgetune.models import model_folder
from bgetune.run import Run


@dataclass(frozen=True)
class Measured:
    """What the stages before have found."""

    report: dict[str, Any]
    """report.json of the eval stage."""
    stats: dict[str, Any]
    """stats.json of the mine stage."""
    weights_hash: str
    """SHA-256 of the weights that the report measured."""
    started: tuple[Head, ...] = ()
    """Heads that the base model lacks, which were started in closed form from the corpus."""
    splits: Mapping[str, int] = field(default_factory=dict)
    """Split of the domain -> how many queries have judgements in it."""
    licence: Mapping[str, Any] = field(default_factory=lambda: {"license": "unknown"})
    """The Hub's `license`, and `license_name` and `license_link` where they are needed."""
    licence_files: tuple[Path, ...] = ()
    """The base model's, which go into the export."""
    forms: tuple[Form, ...] = ()
    """Folders beside the export."""


def measured_in(run: Run, config: JobConfig, encoder: Encoder, forms: tuple[Form, ...] = ()) -> Measured:
    """Everything that the card of a job says.

    Args:
        run: the job's last round, with its report.
        encoder: the model that the job ends with.
        forms: folders that are written beside the export.

    Raises:
        UserError: the base model is gone, whose licence and heads are asked for.
    """
    base = model_folder(config.model)
    own = config.export.license
    return Measured(
        report=read_json(run.report / "report.json"),
        stats=read_json(run.examples.parent / "stats.json"),
        weights_hash=weights_files_hash(run.final(config)),
        started=_started_heads(run, base, encoder),
        splits=_splits(run.data(config.data.name) / "qrels"),
        licence=base_licence(base, config.model) if own == "auto" else {"license": own},
        licence_files=tuple(licence_files(base)),
        forms=forms,
    )


def _started_heads(run: Run, base: Path, encoder: Encoder) -> tuple[Head, ...]:
    """Heads that the base model lacks: base was measured with their first weights."""
    if run.base_heads is None:
        return ()
    held = read_heads(base, encoder.width)
    return tuple(head for head in encoder.heads if not held.has(head))


def _splits(folder: Path) -> dict[str, int]:
    files = {split: folder / f"{split}.tsv" for split in SPLITS}
    return {
        split: len({cells[0] for _, cells in judgement_lines(path)}) for split, path in files.items() if path.is_file()
    }
