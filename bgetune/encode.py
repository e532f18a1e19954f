"""Text to dense vectors at scale: sorted by length, packed by token count, never encoded twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bgetune.batching import by_length, pack
from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.encoder import Encoder, autocast_dtype
from bgetune.errors import UserError
from bgetune.files import atomic_file
from bgetune.progress import progress

log = logging.getLogger("bgetune")

# Texts are sorted and packed within blocks of this many: packing is quadratic in the worst case.
_BLOCK = 8192


def encode(encoder: Encoder, texts: Texts, role: str, config: JobConfig, label: str) -> np.ndarray:
    """Vectors of all texts.

    Args:
        texts: N texts; titles are joined before them.
        role: "query" or "passage"; decides instruction and maximum length.
        label: for the progress bar.

    Returns:
        float32 [N, D], row i for text i.

    Raises:
        UserError: a text is longer than the maximum and `model.overlong` is `error`.
    """
    token_ids, cut = encoder.tokenize(texts.full_texts(), role)
    _report_cut(texts, cut, role, encoder, config)
    lengths = [len(ids) for ids in token_ids]
    vectors = np.empty((len(texts), encoder.width), dtype=np.float32)
    dtype = autocast_dtype(config.encode_precision, encoder.device)
    was_training = encoder.training
    encoder.eval()
    with torch.inference_mode(), _autocast(encoder.device, dtype), progress(sum(lengths), label, "tok") as bar:
        for batch in _batches(lengths, config.encode_batch_tokens):
            ids, mask = encoder.pad([token_ids[i] for i in batch])
            vectors[batch] = encoder(ids.to(encoder.device), mask.to(encoder.device)).float().cpu().numpy()
            bar.update(sum(lengths[i] for i in batch))
    encoder.train(was_training)
    return vectors


def _batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    order = by_length(lengths)
    batches: list[list[int]] = []
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        batches += [[block[i] for i in batch] for batch in pack([lengths[i] for i in block], budget)]
    return batches


def _autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


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
    encoder: Encoder, texts: Texts, role: str, config: JobConfig, label: str, cache: Path, keep: bool = True
) -> np.ndarray:
    """`encode`, kept in `cache` under the hash of the weights, the texts and the settings.

    The name is the content: changed weights or texts can never be served from an older file. With `keep`
    off, what is there is used and nothing is added: for weights that the next step overwrites.
    """
    if config.model.overlong == "error":
        # before the cache: another configuration may have cut and kept them
        _report_cut(texts, encoder.tokenize(texts.full_texts(), role)[1], role, encoder, config)
    path = cache / f"{_key(encoder, texts, role, config)}.npy"
    if path.is_file():
        return np.load(path)
    vectors = encode(encoder, texts, role, config, label)
    if not keep:
        return vectors
    with atomic_file(path, "wb") as file:
        np.save(file, vectors)
    return vectors


def _key(encoder: Encoder, texts: Texts, role: str, config: JobConfig) -> str:
    dtype = autocast_dtype(config.encode_precision, encoder.device)
    settings = [
        encoder.weights_hash(),
        role,
        str(dtype),
        encoder.device.type,
        encoder.attention,
        config.encode_batch_tokens,
    ]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for text in texts.full_texts():
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:32]
