"""What ranks exchange in a step, with gradients, so that N of them compute exactly what one would.

Each rank encodes its share of the texts. Queries' representations are gathered, passages never travel: a rank scores
every query against its own passages, and the columns of scores are gathered. The loss is then computed by every
rank alike, on all of the scores. Shapes: Q queries, P passages, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bgetune.batching import by_length
from bgetune.representations import Representations, SparseRows, TokenVectors, offsets_of, take

_BUCKET_ELEMENTS = 2**24


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def shares(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Texts dealt to ranks so that each has about as many tokens: the longest first, to whoever has the least.

    >>> shares([5, 9, 4, 1], ranks=2)
    [[1, 3], [0, 2]]
    """
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for text in by_length(lengths):
        least = min(range(ranks), key=lambda r: (tokens[r], len(dealt[r]), r))
        dealt[least].append(text)
        tokens[least] += lengths[text]
    return dealt


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks, one rank after the other; the gradient of one's own rows is the sum of all ranks'."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _all_rows(own, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        start = sum(ctx.counts[: rank()])
        return summed[start : start + ctx.counts[rank()]], None


class _GatherColumns(torch.autograd.Function):
    """Columns of all ranks. What follows is computed by every rank alike, so one's own gradient is whole."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _all_rows(own.T.contiguous(), counts).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        start = sum(ctx.counts[: rank()])
        return gradients[0][:, start : start + ctx.counts[rank()]], None


def _all_rows(own: Tensor, counts: list[int]) -> Tensor:
    """all_gather of unequal parts: each is padded to the longest."""
    padded = own.new_zeros((max(counts), *own.shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _counts(own: int, device: torch.device) -> list[int]:
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[rank()] = own
    dist.all_reduce(counts)
    return counts.tolist()


def gather(own: Representations, dealt: Sequence[Sequence[int]]) -> Representations:
    """Every rank's representations, in the order of the texts, with gradients to the ranks they came from.

    Args:
        own: of this rank's texts, `dealt[rank()]`, in that order.
        dealt: the texts of each rank.
    """
    if world_size() == 1:
        return own
    order = [text for texts in dealt for text in texts]
    texts = [len(part) for part in dealt]
    dense = sparse = multi_vector = None
    if own.dense is not None:
        dense = _GatherRows.apply(own.dense, texts)
    if own.sparse is not None:
        device = own.sparse.weights.device
        counts = _counts(len(own.sparse.weights), device)
        weights = _GatherRows.apply(own.sparse.weights, counts)
        ids = _all_rows(own.sparse.ids, counts)
        sparse = SparseRows(ids, weights, _all_offsets(own.sparse.offsets, texts, device))
    if own.multi_vector is not None:
        device = own.multi_vector.vectors.device
        vectors = _GatherRows.apply(own.multi_vector.vectors, _counts(len(own.multi_vector.vectors), device))
        multi_vector = TokenVectors(vectors, _all_offsets(own.multi_vector.offsets, texts, device))
    return take(Representations(dense, sparse, multi_vector), _inverse(order))


def _all_offsets(own: Tensor, texts: list[int], device: torch.device) -> Tensor:
    return offsets_of(_all_rows(own.diff().to(device), texts).cpu())


def gather_columns(own: Tensor, dealt: Sequence[Sequence[int]]) -> Tensor:
    """Scores [Q, P] from each rank's [Q, its passages], columns in the order of the passages."""
    if world_size() == 1:
        return own
    order = [text for texts in dealt for text in texts]
    columns = _GatherColumns.apply(own, [len(part) for part in dealt])
    return columns[:, torch.tensor(_inverse(order), device=own.device)]


def _inverse(order: Sequence[int]) -> list[int]:
    places = [0] * len(order)
    for place, text in enumerate(order):
        places[text] = place
    return places


def sum_gradients(shared: Iterable[torch.nn.Parameter], replicated: Iterable[torch.nn.Parameter]) -> None:
    """Make every rank's gradients those of the whole step.

    Args:
        shared: parameters of the encoder and its heads, of which each rank has the part of its own texts.
        replicated: parameters used in the loss, which every rank computes alike: their gradients are averaged, against
            drift only.
    """
    if world_size() == 1:
        return
    for parameters, scale in ((list(shared), 1.0), (list(replicated), 1.0 / world_size())):
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        # one that no rank used keeps None, as with one process: AdamW would let its weight decay
        used = [p for p, anywhere in zip(learning, _used_anywhere(learning), strict=True) if anywhere]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(used):
            _sum_bucket([parameter.grad for parameter in bucket if parameter.grad is not None], scale)


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Parameters in runs of about _BUCKET_ELEMENTS: a call for each of hundreds of small ones would be all waiting."""
    bucket: list[torch.nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > _BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _sum_bucket(gradients: list[Tensor], scale: float) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients]) if len(gradients) > 1 else gradients[0].flatten()
    dist.all_reduce(flat)
    flat.mul_(scale)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _used_anywhere(parameters: Sequence[torch.nn.Parameter]) -> list[bool]:
    if not parameters:
        return []
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    used = used.to(parameters[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    return used.bool().tolist()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def from_main(value: float) -> float:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    told = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(told, src=0)
    return told.item()


def wait_for_all() -> None:
    if world_size() > 1:
        from_main(0.0)
