"""Encoding a step's texts with gradients: in one graph where it fits, else by gradient caching over all heads.

Gradient caching (GradCache, arXiv 2101.06983): encode without a graph, let the loss give the gradients of the
representations, encode again micro-batch by micro-batch and send these gradients through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bgetune.batching import pack
from bgetune.config import HEADS, Head
from bgetune.encoder import Encoder
from bgetune.heads import TokenPlan
from bgetune.representations import Representations, SparseRows, TokenVectors, join

from .dropout import quick_dropout

# Texts are packed by length into buckets of so many tokens even where a step is one graph: padding costs more
_BUCKET_TOKENS = 8192

Precision = Callable[[], contextlib.AbstractContextManager]


@dataclass(frozen=True)
class MicroBatch:
    """Some of the texts, padded. ids, mask: int64 [n, L] on the CPU."""

    ids: Tensor
    mask: Tensor
    plan: TokenPlan


class StepEncoding:
    """The texts of one rank in one step, encoded by some of the heads; `representations`, then `backward`."""

    def __init__(
        self,
        encoder: Encoder,
        token_ids: Sequence[Sequence[int]],
        heads: Sequence[Head],
        micro_batch_tokens: int,
        seed: int,
        precision: Precision,
    ) -> None:
        self._encoder, self._heads, self._seed, self._precision = encoder, heads, seed, precision
        self.lengths = lengths = [len(ids) for ids in token_ids]
        self.packed = pack(lengths, min(micro_batch_tokens, _BUCKET_TOKENS))
        in_one_graph = sum(len(rows) * max(lengths[row] for row in rows) for rows in self.packed)
        self.cached = in_one_graph > micro_batch_tokens and len(self.packed) > 1
        self._batches = [self._padded(rows, token_ids) for rows in self.packed]
        self.places = torch.argsort(torch.tensor([row for rows in self.packed for row in rows])).tolist()
        """Where each text stands in what `representations` gives."""
        self._leaves: Representations | None = None
        self._counts: list[tuple[int, int, int]] = []

    def _padded(self, rows: list[int], token_ids: Sequence[Sequence[int]]) -> MicroBatch:
        ids, mask = self._encoder.pad([token_ids[row] for row in rows])
        return MicroBatch(ids, mask, self._encoder.plan(ids, mask))

    def representations(self) -> Representations:
        """Of all texts, text i at `places[i]`; what the loss says about them reaches the weights by `backward`."""
        pieces = self._encode_all()
        joined = join(pieces)
        if self.cached:
            self._counts = [_sizes(piece) for piece in pieces]
            encoder_learns = any(parameter.requires_grad for parameter in self._encoder.backbone.parameters())
            joined = self._leaves = _as_leaves(joined, encoder_learns)
        return joined

    def _encode_all(self) -> list[Representations]:
        with torch.set_grad_enabled(not self.cached), self._precision():
            vocabulary, table = self._lookup()
            return [self._encode(number, vocabulary, table) for number in range(len(self._batches))]

    def _lookup(self) -> tuple[Tensor, Tensor]:
        """The distinct token ids of the step and their input embeddings.

        Looked up once: each lookup in the whole table costs a gradient of the table's size (V x H) in the backward
        pass, so that one a micro-batch would cost more than the encoder.
        """
        vocabulary = torch.unique(torch.cat([batch.ids.flatten() for batch in self._batches]))
        return vocabulary, self._encoder.backbone.get_input_embeddings()(vocabulary.to(self._encoder.device))

    def _encode(self, number: int, vocabulary: Tensor, table: Tensor) -> Representations:
        """One micro-batch. Its dropout masks depend on the step's seed and its number alone: they can be replayed."""
        torch.manual_seed(self._seed + number)
        batch, device = self._batches[number], self._encoder.device
        embedded = torch.nn.functional.embedding(torch.searchsorted(vocabulary, batch.ids).to(device), table)
        with quick_dropout(device):
            return self._encoder(batch.ids.to(device), batch.mask.to(device), self._heads, embedded, batch.plan)

    def backward(self, loss: Tensor) -> None:
        """From the loss to the gradients of all weights."""
        loss.backward()
        if self.cached:
            self._replay()

    def _replay(self) -> None:
        """The second pass: each micro-batch again, with a graph, and the representations' gradients through it."""
        assert self._leaves is not None
        # a block of its own: autocast would hand out weights cast in the first pass, which have no graph
        with self._precision():
            vocabulary, table = self._lookup()
            looked_up = table.detach().requires_grad_(table.requires_grad)
            start = (0, 0, 0)
            for number, sizes in enumerate(self._counts):
                found = self._encode(number, vocabulary, looked_up)
                end = (start[0] + sizes[0], start[1] + sizes[1], start[2] + sizes[2])
                tensors, gradients = _with_gradients(found, self._leaves, start, end)
                torch.autograd.backward(tensors, gradients)
                start = end
            if looked_up.grad is not None:
                table.backward(looked_up.grad)


def tensors_of(found: Representations) -> dict[Head, Tensor]:
    """The tensor of each head that gradients flow through."""
    tensors: dict[Head, Tensor] = {}
    if found.dense is not None:
        tensors["dense"] = found.dense
    if found.sparse is not None:
        tensors["sparse"] = found.sparse.weights
    if found.multi_vector is not None:
        tensors["multi_vector"] = found.multi_vector.vectors
    return tensors


def _sizes(found: Representations) -> tuple[int, int, int]:
    tensors = tensors_of(found)
    dense, sparse, multi = (len(tensors[head]) if head in tensors else 0 for head in HEADS)
    return dense, sparse, multi


def _as_leaves(found: Representations, encoder_learns: bool) -> Representations:
    """They have a gradient where they would have one in a graph: else ranks that cache would await it from others."""
    dense, sparse, multi = found.dense, found.sparse, found.multi_vector
    return Representations(
        None if dense is None else dense.detach().requires_grad_(encoder_learns),
        None if sparse is None else SparseRows(sparse.ids, sparse.weights.detach().requires_grad_(), sparse.offsets),
        None if multi is None else TokenVectors(multi.vectors.detach().requires_grad_(), multi.offsets),
    )


def _with_gradients(
    found: Representations, leaves: Representations, start: tuple[int, int, int], end: tuple[int, int, int]
) -> tuple[list[Tensor], list[Tensor]]:
    """A micro-batch's tensors, and the part of the cached gradients that is theirs."""
    tensors, gradients = [], []
    cached = tensors_of(leaves)
    for place, head in enumerate(HEADS):
        tensor = tensors_of(found).get(head)
        if tensor is None or not tensor.requires_grad:
            continue
        gradient = cached[head].grad
        if gradient is not None:
            tensors.append(tensor)
            gradients.append(gradient[start[place] : end[place]])
    return tensors, gradients
