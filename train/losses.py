"""Losses: functions of tensors, never of models. Q queries, P passages."""

from __future__ import annotations

import torch
from torch import Tensor


def info_nce(scores: Tensor, target: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """InfoNCE over in-batch and hard negatives in one softmax (arXiv 1807.03748; BGE-M3, 2402.03216, eq. 1).

    Args:
        scores: [Q, P].
        target: [Q], the column of each query's positive.
        allowed: bool [Q, P]; False takes a passage out of the query's softmax (a false negative).
        temperature: scores are divided by it.

    Returns:
        The mean over the queries, a scalar.

    >>> scores = torch.tensor([[1.0, 0.0, 1.0]])
    >>> allowed = torch.tensor([[True, True, False]])
    >>> round(info_nce(scores, torch.tensor([0]), allowed, temperature=1.0).item(), 4)  # log(1 + e^-1)
    0.3133
    """
    logits = (scores / temperature).masked_fill(~allowed, float("-inf"))
    return torch.nn.functional.cross_entropy(logits, target)
