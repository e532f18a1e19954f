"""Scores of queries against passages, as pure functions of tensors. Q queries, P passages, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from bgetune.config import Similarity


def dense_scores(queries: Tensor, passages: Tensor, similarity: Similarity) -> Tensor:
    """Scores [Q, P] of vectors [Q, D] and [P, D]; higher is nearer.

    >>> q, p = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    >>> [dense_scores(q, p, s).tolist() for s in ("cosine", "dot", "euclidean")]
    [[[1.0, 0.0]], [[25.0, 0.0]], [[-0.0, -5.0]]]
    """
    if similarity == "euclidean":
        # not cdist: its gradient at distance 0 is undefined; the clamp gives 0 there
        squared = (queries.unsqueeze(1) - passages.unsqueeze(0)).square().sum(dim=-1)
        return -torch.where(squared > 0, squared.clamp(min=1e-12).sqrt(), torch.zeros_like(squared))
    if similarity == "cosine":
        queries = torch.nn.functional.normalize(queries, dim=-1)
        passages = torch.nn.functional.normalize(passages, dim=-1)
    return queries @ passages.T
