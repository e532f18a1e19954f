"""How many tokens fit: measured on the longest texts before the first step, so that no run dies in the middle."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bgetune.config import Head
from bgetune.encoder import Encoder

from .dropout import quick_dropout
from .encoding import Precision, tensors_of

log = logging.getLogger("bgetune")

# Of the memory there is: the rest is for scores, for what other programs do, and for what a probe does not see.
_SHARE_OF_HOST, _SHARE_OF_CARD = 0.4, 0.8
# Weights, gradients, and AdamW's two moments, in float32; and under autocast a copy in half precision.
_BYTES_A_TRAINED_WEIGHT, _BYTES_A_FROZEN_WEIGHT = 18, 6
_PROBE_TOKENS, _LEAST_TOKENS = 2048, 256


def probe_micro_batch_tokens(
    encoder: Encoder, heads: Sequence[Head], precision: Precision, longest: int, step_tokens: int, ranks_here: int
) -> int:
    """Tokens whose graph fits this process's memory; says so in the log.

    Args:
        longest: tokens of the longest text; attention makes long texts dearer a token than short ones.
        step_tokens: tokens of the largest step, whose token vectors stay in memory whatever is cached.
        ranks_here: processes that share this host's memory; each has a card of its own.
    """
    bytes_a_token = _bytes_a_token(encoder, heads, precision, longest)
    on_card = encoder.device.type == "cuda"
    if on_card:
        total, share = torch.cuda.get_device_properties(encoder.device).total_memory, _SHARE_OF_CARD
    else:
        total, share = host_memory() // ranks_here, _SHARE_OF_HOST
    parameters = list(encoder.parameters())
    weights = sum(
        p.numel() * (_BYTES_A_TRAINED_WEIGHT if p.requires_grad else _BYTES_A_FROZEN_WEIGHT) for p in parameters
    )
    vectors = step_tokens * _vector_bytes(encoder, heads)
    fitting = max((share * total - weights - vectors) / bytes_a_token, 1.0)
    if fitting < longest:
        log.warning(
            "train: the longest text, %d tokens, may not fit: weights and a step's vectors take %.1f of %.1f GB; lower "
            "model.passage_max_length or train.batch_size, or set train.gradient_checkpointing: true",
            longest, (weights + vectors) / 1e9, total / 1e9,
        )  # fmt: skip
    # two digits: a measurement that differs a little from run to run still gives the same number
    chosen = max(_rounded_down(fitting), _LEAST_TOKENS, longest)
    log.info(
        "train: micro_batch_tokens auto: %s tokens (%.0f KB each; %.0f %% of the %.1f GB %s, less %.1f GB for weights "
        "and vectors; steps with more use gradient caching)",
        f"{chosen:,}", bytes_a_token / 1e3, 100 * share, total / 1e9, "on the card" if on_card else "for this process",
        (weights + vectors) / 1e9,
    )  # fmt: skip
    return chosen


def _vector_bytes(encoder: Encoder, heads: Sequence[Head]) -> int:
    """A step's bytes a token outside of the encoder: its vector, a copy in the texts' order, and both gradients."""
    layer = encoder.layers.colbert_linear
    return 4 * 4 * layer.out_features if "multi_vector" in heads and layer is not None else 0


def _rounded_down(value: float) -> int:
    """
    >>> _rounded_down(58731.4), _rounded_down(300)
    (58000, 300)
    """
    unit = 10 ** max(int(math.log10(value)) - 1, 0)
    return int(value // unit * unit)


def _bytes_a_token(encoder: Encoder, heads: Sequence[Head], precision: Precision, longest: int) -> float:
    """What the other texts add to one text's graph: what comes once, such as the weights' gradients, is not in it."""
    texts = max(2, min(_PROBE_TOKENS, 4 * longest) // longest)
    several = _bytes_of(texts, encoder, heads, precision, longest)
    one = _bytes_of(1, encoder, heads, precision, longest)
    # of small probes the card's peak is where the gradients are, and tells nothing; what the graph keeps always counts
    needed = max(more - less for more, less in zip(several, one, strict=True))
    return max(needed, 1) / ((texts - 1) * longest)


def _bytes_of(
    texts: int, encoder: Encoder, heads: Sequence[Head], precision: Precision, longest: int
) -> tuple[int, int]:
    """What a graph of so many texts keeps, and what it takes of the card at its peak (0 without a card)."""
    words = [i for i in range(len(encoder.tokenizer)) if i not in encoder.tokenizer.all_special_ids] or [0]
    ids, mask = encoder.pad([[words[(row + at) % len(words)] for at in range(longest)] for row in range(texts)])
    mask[:, max(longest - 1, 1) :] = 0  # batches are padded; without a mask attention needs much less
    kept = _Kept({parameter.data_ptr() for parameter in encoder.parameters()})
    device = encoder.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    keep = torch.autograd.graph.saved_tensors_hooks(kept.see, lambda tensor: tensor)
    with precision(), quick_dropout(device), keep:
        found = encoder(ids.to(device), mask.to(device), heads)
    loss = torch.stack([tensor.sum() for tensor in tensors_of(found).values()]).sum()
    if device.type != "cuda" or not loss.requires_grad:
        return kept.total, 0
    loss.backward()
    encoder.zero_grad(set_to_none=True)
    return kept.total, torch.cuda.max_memory_allocated(device) - before


class _Kept:
    """Counts the bytes a graph keeps for its backward pass, each storage once, weights left out."""

    def __init__(self, weights: set[int]) -> None:
        self._seen, self.total = weights, 0

    def see(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in self._seen and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


def host_memory() -> int:
    """Bytes this process may use: the machine's, or less where a container has a limit."""
    machine: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits: list[Any] = [machine]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text(encoding="utf-8").strip() if Path(path).is_file() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
