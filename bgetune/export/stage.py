"""Export: one folder that every reader takes, forms of it beside it, a model card; checked in each reader."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from bgetune.config import JobConfig
from bgetune.config_export import FORM_FOLDERS
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.export.card import write_card
from bgetune.export.card_measured import measured_in
from bgetune.export.forms import forms_of, write_form
from bgetune.export.reading import Reader, our_read
from bgetune.export.texts import own_texts, texts_to_verify
from bgetune.export.verified import LIMITS, READERS, RECORD, Verified, recorded, told, verify
from bgetune.export.verify import table_text
from bgetune.files import atomic_folder, scratch_folder, write_json
from bgetune.run import Run

log = logging.getLogger("bgetune")

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def export(config: JobConfig, run: Run) -> None:
    """Write `export/` and its forms from the best checkpoint, and compare what every reader gives with what we give.

    Raises:
        UserError: a reader gives something else than we do; what was there before is left as it was.
    """
    model = run.final(config)
    encoder = Encoder.load_folder(model, config.model)
    forms = forms_of(config.export, encoder, model)
    texts = texts_to_verify(config.export.verify_texts, own_texts(run.data(config.data.name), config.export))
    with scratch_folder(_restored(run.root / f".{run.export.name}.partial", run)) as staging:
        main = staging / run.export.name
        with atomic_folder(main) as folder:
            encoder.save(folder, _DTYPES[config.export.dtype])
            write_card(folder, config, encoder, measured_in(run, config, encoder, forms))
        written = Encoder.load_folder(main, config.model)
        for form in forms:
            with atomic_folder(staging / FORM_FOLDERS[form]) as folder:
                write_form(form, folder, main, written, config, model)
        if config.export.onnx:
            from bgetune.export.onnx import write_onnx  # needs packages that are an extra

            write_onnx(main, written, config.export.onnx)  # of the weights as they were rounded
        readers = (_before_it_was_written(encoder), *READERS)
        verified = verify(main, written, texts, LIMITS[config.export.dtype], readers)
        _say(verified)
        write_json(main / RECORD, recorded(verified))
        _put_in_place(staging, run)
    log.info(
        "export: %s", ", ".join(str(run.root / name) for name in ("export", *map(FORM_FOLDERS.__getitem__, forms)))
    )


def _before_it_was_written(encoder: Encoder) -> Reader:
    """The checkpoint itself, so that nothing is lost between it and the folder."""
    return Reader(
        "bgetune, before it was written",
        "bgetune",
        lambda folder, written: True,
        lambda folder, written, texts: our_read(encoder.to("cpu"), texts),
    )


def _say(verified: Verified) -> None:
    """Log the table; refuse where a reader gives something else."""
    log.info("export: largest difference from what we give, over %d texts\n%s", verified.texts, table_text(verified))
    for sentence in verified.left_out:
        log.info("export: %s", sentence)
    if verified.failed:
        first, count = verified.failed[0], len(verified.failed)
        more = f" ({count - 1} more failed)" if count > 1 else ""
        line = f"export: {told(first)}{more}"
        if first.by_cosine:
            raise UserError(f"{line}; leave int8 out of export.onnx")
        raise UserError(f"{line}; another version of it may read the folder right")


def _restored(folder: Path, run: Run) -> Path:
    """`folder` again, when what a start that was killed had moved aside into it is back in its place."""
    for old in folder.glob("old-*"):
        if not (run.root / old.name.removeprefix("old-")).exists():
            os.replace(old, run.root / old.name.removeprefix("old-"))
    return folder


def _put_in_place(staging: Path, run: Run) -> None:
    """All of it, and nothing of an earlier export. A kill in between leaves what no manifest fits: it is done again."""
    try:
        for name in (run.export.name, *FORM_FOLDERS.values()):
            if (run.root / name).exists():
                os.replace(run.root / name, staging / f"old-{name}")
            if (staging / name).exists():
                os.replace(staging / name, run.root / name)
    except BaseException:
        _restored(staging, run)
        raise
