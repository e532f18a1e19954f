"""Text to representations at scale: sorted by length, packed by token count, never encoded twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from bgetune.batching import by_length, pack
from bgetune.config import Head, JobConfig
from bgetune.data import Texts
from bgetune.device import autocast_dtype
from bgetune.encoded import Encoded, Store
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.files import atomic_folder
from bgetune.progress import progress

log = logging.getLogger("bgetune")

# Texts are sorted and packed within blocks of this many: packing is quadratic in the worst case.
_BLOCK = 8192


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
    return _encode(encoder, texts, role, config, label, heads, folder=None)


def _encode(
    encoder: Encoder,
    texts: Texts,
    role: str,
    config: JobConfig,
    label: str,
    heads: Sequence[Head],
    folder: Path | None,
) -> Encoded:
    token_ids, cut = encoder.tokenize(texts.full_texts(), role)
    _report_cut(texts, cut, role, encoder, config)
    lengths = [len(ids) for ids in token_ids]
    store = Store(encoder, token_ids, heads, folder)
    was_training = encoder.training
    encoder.eval()
    with torch.inference_mode(), autocast(encoder, config), progress(sum(lengths), label, "tok") as bar:
        for batch in _batches(lengths, config.encode_batch_tokens):
            ids, mask = encoder.pad([token_ids[i] for i in batch])
            plan = encoder.plan(ids, mask)
            found = encoder(ids.to(encoder.device), mask.to(encoder.device), heads, plan=plan)
            store.put(batch, found)
            bar.update(sum(lengths[i] for i in batch))
    encoder.train(was_training)
    return store.close()


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


def _report_cut(texts: Texts, cut: list[int], role: str, encoder: Encoder, config: JobConfig) -> None:
    if not cut:
        return
    limit, option = encoder.spec.max_length(role), f"model.{role}_max_length"
    if config.model.overlong == "error":
        raise UserError(
            f"{texts.where(cut[0])}: the text is longer than {option} ({limit} tokens); raise it, or set model.overlong"
        )
    # once for each file, not at every retrieval on dev
    if (texts.source, role) in encoder.reported:
        return
    encoder.reported.add((texts.source, role))
    share = 100 * len(cut) / len(texts)
    message = "%s: %d of %d texts (%.1f %%) are longer than %s (%d tokens) and are cut"
    log.info(message, texts.source, len(cut), len(texts), share, option, limit)


def encode_once(
    encoder: Encoder,
    texts: Texts,
    role: str,
    config: JobConfig,
    label: str,
    cache: Path,
    heads: Sequence[Head] = ("dense",),
) -> Encoded:
    """`encode`, kept in `cache` under the hash of the weights, the texts and the settings.

    The name is the content: changed weights or texts can never be served from an older folder.
    """
    if config.model.overlong == "error":
        # before the cache: another configuration may have cut and kept them
        _report_cut(texts, encoder.tokenize(texts.full_texts(), role)[1], role, encoder, config)
    folder = cache / _key(encoder, texts, role, config, heads)
    if not folder.is_dir():
        with atomic_folder(folder) as partial:
            _encode(encoder, texts, role, config, label, heads, partial)
    return Encoded.read(folder)


def _key(encoder: Encoder, texts: Texts, role: str, config: JobConfig, heads: Sequence[Head]) -> str:
    dtype = autocast_dtype(config.encode_precision, encoder.device)
    settings = [
        encoder.weights_hash(),
        role,
        str(dtype),
        encoder.device.type,
        encoder.attention,
        config.encode_batch_tokens,
        list(heads),
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for text in texts.full_texts():
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:32]
