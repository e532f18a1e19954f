"""Every reader asked for every text, and a verdict for each head."""

from __future__ import annotations

import importlib.util
import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, Literal

from bgetune.config import Head
from bgetune.encoder import Encoder
from bgetune.export.forms_read import ADAPTER, MULTI_VECTOR_ENCODER, SPARSE_ENCODER
from bgetune.export.onnx_read import ONNX, ONNX_INT8
from bgetune.export.readers import OF_THE_FOLDER
from bgetune.export.reading import Read, Reader, cosine_losses, differences, our_read, tokenized
from bgetune.heads import MCLS_EVERY
from bgetune.progress import progress, without_logs

READERS: tuple[Reader, ...] = (*OF_THE_FOLDER, ONNX, ONNX_INT8, MULTI_VECTOR_ENCODER, SPARSE_ENCODER, ADAPTER)
LIMITS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}
"""Largest difference by the precision of the weights: some readers compute in half precision where they are in it."""
COSINE_LIMIT = 0.01
"""1 less the cosine, of a reader that is judged by it: it must be .99."""


@dataclass(frozen=True)
class Row:
    """What became of one head in one reader, or of the reader."""

    reader: str
    package: str
    version: str | None
    verdict: Literal["ok", "FAILED", "not installed", "does not apply"]
    head: Head | None = None
    difference: float | None = None
    """Largest; of a reader that is judged by cosine, 1 less the smallest."""
    limit: float | None = None
    by_cosine: bool = False
    why: str = ""


@dataclass(frozen=True)
class Verified:
    """All rows, and how many texts they are of."""

    rows: list[Row]
    texts: int
    left_out: tuple[str, ...] = ()
    """Which texts no reader was asked for, and why; a sentence each."""

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.verdict == "FAILED"]


def verify(
    folder: Path,
    encoder: Encoder,
    texts: Sequence[str],
    limit: float,
    readers: Sequence[Reader] = READERS,
    ours: Read | None = None,
) -> Verified:
    """Ask every reader for every text.

    Args:
        folder: the main folder of an export; forms lie beside it.
        encoder: ours, loaded from that folder.
        limit: largest difference that will do, where the reader has no tolerance of its own.
        ours: what we gave for these very texts before, perhaps in another environment; None: it is made now.
    """
    encoder = encoder.to("cpu")
    texts, left_out = _comparable(encoder, texts)
    asked = [reader for reader in readers if _version(reader.package) and reader.applies(folder, encoder)]
    with progress(len(texts) * (len(asked) + (ours is None)), "verify", "texts") as bar:
        ours = our_read(encoder, texts, bar.update) if ours is None else ours
        plain = _plain(encoder, texts)
        rows = []
        for reader in readers:
            rows += _rows(reader, folder, encoder, texts, plain, ours, limit)
            bar.update(len(texts) if reader in asked else 0)
    return Verified(rows, len(texts), left_out)


def _without(aside: int) -> str:
    """
    >>> _without(0), _without(1), _without(2)
    ('', 'without 1 text that spells out special tokens', 'without 2 texts that spell out special tokens')
    """
    texts, spell = ("text", "spells") if aside == 1 else ("texts", "spell")
    return f"without {aside} {texts} that {spell} out special tokens" if aside else ""


def _rows(
    reader: Reader, folder: Path, encoder: Encoder, texts: Sequence[str], plain: Sequence[int], ours: Read, limit: float
) -> list[Row]:
    found = _version(reader.package)
    row = Row(reader.name, reader.package, found, "FAILED", limit=reader.tolerance or limit, by_cosine=reader.by_cosine)
    if found is None:
        return [replace(row, verdict="not installed", why=f"pip install {reader.package.replace('_', '-')}")]
    if not reader.applies(folder, encoder):
        return [replace(row, verdict="does not apply", why=f"it needs {reader.needs}")]
    some = plain if reader.plain_texts else range(len(texts))
    note = _without(len(texts) - len(some))
    try:
        # no warnings of what is loaded, and no bars: FlagEmbedding draws two for a few texts; the numbers show the rest
        with without_logs(logging.ERROR), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            theirs = reader.read(folder, encoder, [texts[i] for i in some])
    except Exception as error:  # whatever another library raises is its answer, and a line of the table
        return [replace(row, why=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")]
    if reader.by_cosine:
        row, measured = replace(row, limit=COSINE_LIMIT), cosine_losses(theirs, ours.take(some))
    else:
        measured = differences(theirs, ours.take(some))
    if not measured:
        return [replace(row, why="it gave no head that we have")]
    rows = []
    for head, value in measured.items():
        holds = value <= (row.limit or 0)  # NaN is no match either
        rows.append(replace(row, head=head, difference=value, verdict="ok" if holds else "FAILED", why=note))
    return rows


def _comparable(encoder: Encoder, texts: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The texts that every reader gives the tokens that we do, and why the others are left out.

    A tokenizer without special tokens makes nothing of an empty text; with mcls we insert CLS tokens into long ones.
    """
    lengths = dict(zip(texts, map(len, tokenized(encoder, texts)), strict=True))
    longest = MCLS_EVERY + 1 if encoder.spec.pooling == "mcls" else max(lengths.values())
    empty = sum(not length for length in lengths.values())
    long = sum(length > longest for length in lengths.values())
    told = []
    if empty:
        told.append(f"{empty} of {len(lengths)} texts left out: the tokenizer makes no token of them")
    if long:
        told.append(f"{long} of {len(lengths)} texts left out: mcls puts CLS tokens into those over {longest} tokens")
    return [text for text, length in lengths.items() if 0 < length <= longest], tuple(told)


def _plain(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    """Positions of the texts that write out no special token; an unknown word is none."""
    special = {*encoder.tokenizer.all_special_ids} - {encoder.tokenizer.unk_token_id}
    bare = encoder.tokenizer(list(texts), add_special_tokens=False, return_token_type_ids=False)["input_ids"]
    return [i for i, ids in enumerate(bare) if special.isdisjoint(ids)]


def _version(package: str) -> str | None:
    """Of the module's distribution; None where it is not installed."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return version(package)
    except PackageNotFoundError:  # such as onnxruntime-gpu
        return version(packages_distributions()[package][0])


RECORD = "bgetune.json"
"""In an export: what each reader gave when it was written."""


def recorded(verified: Verified) -> dict[str, Any]:
    """For bgetune.json: reader -> version, and head -> difference with the digits that mean something."""
    found: dict[str, dict[str, Any]] = {}
    for row in verified.rows:
        if row.head is not None and row.difference is not None:
            reader = found.setdefault(row.reader, {"version": row.version, "limit": row.limit})
            reader["measure"] = "1 - cosine" if row.by_cosine else "largest difference"
            reader.setdefault("heads", {})[row.head] = float(f"{row.difference:.1e}")
    return {"texts": verified.texts, "readers": found}


def told(row: Row) -> str:
    """A failed row in words."""
    head = f" ({row.head.replace('_', '-')})" if row.head else ""
    if row.difference is None:
        return f"{row.reader}{head} cannot read the folder: {row.why}"
    if row.by_cosine:
        return f"what {row.reader}{head} gives has a cosine of {1 - row.difference:.4f} to ours, under .99"
    return f"what {row.reader}{head} gives differs from ours by {row.difference:.2e}, over {row.limit:.0e}"
