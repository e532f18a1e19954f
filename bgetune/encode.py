"""Text to representations at scale: sorted by length, packed by token count, never encoded twice.

A corpus is encoded shard by shard. A shard is a folder that is whole or absent, named by the hash of the weights, its
texts and the settings, so that a killed encoding goes on, processes share the shards, and nothing stale is ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from bgetune.batching import by_length, pack
from bgetune.config import Head, JobConfig
from bgetune.data import Texts
from bgetune.device import autocast_dtype
from bgetune.encoded import Encoded, RowPieces, Writer
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from bgetune.processes import rank, wait_for_all, world_size
from bgetune.progress import progress

log = logging.getLogger("bgetune")

# Texts are sorted and packed within blocks of this many: packing is quadratic in the worst case.
_BLOCK = 8192


class TextSource(Protocol):
    """Texts in memory (`Texts`) or on disk (`Corpus`)."""

    @property
    def source(self) -> Path: ...

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> Texts: ...


@dataclass(frozen=True)
class EncodedShards:
    """Encoded texts in shards; shard i holds the texts `starts[i]` to `starts[i + 1]`."""

    folders: list[Path]
    starts: list[int]

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, first: int = 0, last: int | None = None) -> Encoded:
        """The shards `first` to `last`, the latter not included; all of them by default."""
        return Encoded.join([Encoded.read(folder) for folder in self.folders[first:last]])

    def dense(self, first: int = 0, last: int | None = None) -> RowPieces:
        """Only their dense vectors, which stay on disk until they are taken."""
        return RowPieces([Encoded.read(folder).vectors for folder in self.folders[first:last]])


def encode(
    encoder: Encoder, texts: Texts, role: str, config: JobConfig, label: str, heads: Sequence[Head] = ("dense",)
) -> Encoded:
    """What the heads make of all texts, in memory.

    Args:
        texts: N texts; titles are joined before them.
        role: "query" or "passage"; decides instruction and maximum length.
        label: for the progress bar.

    Raises:
        UserError: a text is longer than the maximum and `model.overlong` is `error`.
    """
    with progress(len(texts), label, "text") as bar:
        found, cut = _encode(encoder, texts, role, config, heads, None, bar)
    _report_cut(texts.source, len(cut), len(texts), role, encoder)
    return found


def encode_once(
    encoder: Encoder,
    texts: Texts,
    role: str,
    config: JobConfig,
    label: str,
    cache: Path,
    heads: Sequence[Head] = ("dense",),
) -> Encoded:
    """`encode`, kept in `cache`; see `encode_shards`."""
    return encode_shards(encoder, texts, role, config, label, cache, heads).read()


def encode_shards(
    encoder: Encoder,
    texts: TextSource,
    role: str,
    config: JobConfig,
    label: str,
    cache: Path,
    heads: Sequence[Head] = ("dense",),
    shared: bool = False,
) -> EncodedShards:
    """What the heads make of all texts, in shards of `encode_shard_texts` in `cache`.

    Shards that are missing, or whose checksums are wrong, are encoded. A shard's bytes depend on its own texts alone.

    Args and errors: as `encode`, and
        shared: every process of the launch is here: each encodes its share, and comes back when all shards are there.
            Else this process does it all by itself, whatever the others do.
    """
    number, of = (rank(), world_size()) if shared else (0, 1)
    starts = [*range(0, len(texts), config.encode_shard_texts), len(texts)]
    spans = [range(start, stop) for start, stop in pairwise(starts)]
    settings = _settings(encoder, role, config, heads)
    folders: list[Path] = []
    cut = new = 0
    with progress(len(texts), label, "text") as bar:
        for span in spans:
            some = texts.take(span)
            folder = cache / _key(settings, some)
            if config.model.overlong == "error":
                # before the cache: another configuration may have cut and kept them
                _refuse_overlong(some, encoder.tokenize(some.full_texts(), role)[1], role, encoder)
            # two shards of the same texts are one folder, and one process's work
            ours = folder not in folders and len(folders) % of == number
            folders.append(folder)
            if not ours or _whole(folder):
                bar.update(len(span))
                continue
            with atomic_folder(folder) as partial:
                cut += len(_encode(encoder, some, role, config, heads, partial, bar)[1])
            new += len(span)
    _report_cut(texts.source, cut, new, role, encoder)
    if shared:
        wait_for_all()
    if number == 0:
        listed = {"settings": settings, "texts": len(texts), "shards": [folder.name for folder in folders]}
        write_json(cache / f"{_digest(listed)}.json", listed)
    return EncodedShards(folders, starts)


def _encode(
    encoder: Encoder, texts: Texts, role: str, config: JobConfig, heads: Sequence[Head], folder: Path | None, bar: tqdm
) -> tuple[Encoded, list[int]]:
    """The texts encoded, and which of them were cut."""
    token_ids, cut = encoder.tokenize(texts.full_texts(), role)
    if config.model.overlong == "error":
        _refuse_overlong(texts, cut, role, encoder)
    lengths = [len(ids) for ids in token_ids]
    writer = Writer(encoder, token_ids, heads, folder, config.encode_dtype)
    was_training = encoder.training
    encoder.eval()
    with torch.inference_mode(), autocast(encoder, config):
        for batch in _batches(lengths, config.encode_batch_tokens):
            ids, mask = encoder.pad([token_ids[i] for i in batch])
            writer.put(batch, encoder(ids.to(encoder.device), mask.to(encoder.device), heads))
            bar.update(len(batch))
    encoder.train(was_training)
    return writer.close(), cut


def _batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    order = by_length(lengths)
    batches: list[list[int]] = []
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        batches += [[block[i] for i in batch] for batch in pack([lengths[i] for i in block], budget)]
    return batches


def autocast(encoder: Encoder, config: JobConfig) -> contextlib.AbstractContextManager:
    """The precision of encoding outside of training, as `encode_precision` has it."""
    dtype = autocast_dtype(config.encode_precision, encoder.device)
    return contextlib.nullcontext() if dtype is None else torch.autocast(encoder.device.type, dtype=dtype)


def _refuse_overlong(texts: Texts, cut: list[int], role: str, encoder: Encoder) -> None:
    if cut:
        limit, option = encoder.spec.max_length(role), f"model.{role}_max_length"
        raise UserError(
            f"{texts.where(cut[0])}: the text is longer than {option} ({limit} tokens); raise it, or set model.overlong"
        )


def _report_cut(source: Path, cut: int, of: int, role: str, encoder: Encoder) -> None:
    # once for each file, not at every retrieval on dev
    if not cut or (source, role) in encoder.reported:
        return
    encoder.reported.add((source, role))
    message = "%s: %d of %d texts (%.1f %%) are longer than %s (%d tokens) and are cut"
    limit, option = encoder.spec.max_length(role), f"model.{role}_max_length"
    log.info(message, source, cut, of, 100 * cut / of, option, limit)


def _whole(folder: Path) -> bool:
    """Whether a shard is there and is what was written."""
    if not (folder / "heads.json").is_file():
        return False
    try:
        note = read_json(folder / "heads.json")
        wrong = [] if note.pop("note") == sha256_json(note) else ["heads.json"]
        wrong += [name for name, digest in note["sha256"].items() if not _same(folder / name, digest)]
    except (ValueError, KeyError, TypeError, AttributeError):  # the note itself is damaged
        wrong = ["heads.json"]
    if wrong:
        log.warning("%s: %s is not what was written there; encoding its texts again", folder, wrong[0])
        shutil.rmtree(folder)
    return not wrong


def _same(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _settings(encoder: Encoder, role: str, config: JobConfig, heads: Sequence[Head]) -> dict[str, object]:
    """All that decides a vector besides the text."""
    return {
        "weights": encoder.weights_hash(),
        "role": role,
        "autocast": str(autocast_dtype(config.encode_precision, encoder.device)),
        "device": encoder.device.type,
        "attention": encoder.attention,
        "batch_tokens": config.encode_batch_tokens,
        "dtype": config.encode_dtype,
        "heads": list(heads),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _key(settings: dict[str, object], texts: Texts) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for text in texts.full_texts():
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:32]
