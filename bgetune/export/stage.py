"""Export: one folder that sentence-transformers, FlagEmbedding and transformers all read, with a model card."""

from __future__ import annotations

import logging

import torch

from bgetune.config import Head, JobConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.export.card import Measured, model_card
from bgetune.export.readers import compare_readers, difference_table
from bgetune.files import atomic_folder, read_json, write_json, write_text
from bgetune.head_files import read_heads
from bgetune.manifest import weights_files_hash
from bgetune.models import model_folder
from bgetune.run import Run

log = logging.getLogger("bgetune")

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# half precision weights are read back in half precision by some readers, so that their sums differ
_TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}


def export(config: JobConfig, run: Run) -> None:
    """Write `export/` from the best checkpoint and compare what every reader gives, head by head, with ours.

    Raises:
        UserError: a reader gives something else than we do; nothing is left behind then.
    """
    encoder = Encoder.load_folder(run.final(config), config.model)
    report = read_json(run.report / "report.json")
    stats = read_json(run.examples.parent / "stats.json")
    with atomic_folder(run.export) as folder:
        encoder.save(folder, _DTYPES[config.export.dtype])
        measured = Measured(report, stats, weights_files_hash(run.final(config)), _started_heads(config, run, encoder))
        write_text(folder / "README.md", model_card(config, encoder, measured))
        written = Encoder.load_folder(folder, config.model)
        differences = compare_readers(folder, written)
        limit = _TOLERANCE[config.export.dtype]
        log.info("export: largest difference from what we give\n%s", difference_table(differences))
        for reader, difference in differences.items():
            if not difference <= limit:  # a NaN is no match either
                raise UserError(
                    f"export: what {reader} gives differs from ours by {difference:.2e}, over {limit:.0e}; "
                    "another version of it may read the folder right"
                )
        write_json(
            folder / "bgetune.json", {"largest_difference": {k: float(f"{v:.1e}") for k, v in differences.items()}}
        )
    log.info("export: %s", run.export)


def _started_heads(config: JobConfig, run: Run, encoder: Encoder) -> tuple[Head, ...]:
    """Heads that the base model lacks: base was measured with their first weights."""
    if run.base_heads is None:
        return ()
    base = read_heads(model_folder(config.model), encoder.width)
    return tuple(head for head in encoder.heads if not base.has(head))
