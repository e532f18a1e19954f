"""Hidden states to representations. Shapes: N texts, L tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from bgetune.layout import Pooling


def pool(hidden: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """Token states [N, L, D] and mask [N, L] (1: a token, 0: padding) to one vector a text [N, D].

    Computed in float32 whatever the states are, since a mean over many bfloat16 values loses digits.

    >>> hidden = torch.tensor([[[1.0, 4.0], [3.0, 2.0], [9.0, 9.0]]])
    >>> mask = torch.tensor([[1, 1, 0]])
    >>> [pool(hidden, mask, how).tolist() for how in ("cls", "mean", "max")]
    [[[1.0, 4.0]], [[2.0, 3.0]], [[3.0, 4.0]]]
    """
    if hidden.dtype in (torch.bfloat16, torch.float16):
        hidden = hidden.float()
    if how == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    if how == "mean":
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
    return hidden.masked_fill(weights == 0, float("-inf")).amax(dim=1)


def dense(hidden: Tensor, mask: Tensor, pooling: Pooling, normalize: bool) -> Tensor:
    """The dense representation [N, D]: pooled, and of length 1 where `normalize` (BGE-M3, arXiv 2402.03216, 3.2)."""
    vectors = pool(hidden, mask, pooling)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors
