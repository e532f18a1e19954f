"""Scores of queries against passages, as pure functions of tensors. MaxSim is in maxsim.py.

Shapes: Q queries, P passages, D width of a dense vector, U distinct tokens of all queries, T tokens of all texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bgetune.config import Similarity
from bgetune.representations import SparseRows, rows_of


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


def sparse_scores(queries: SparseRows, passages: SparseRows) -> Tensor:
    """Lexical scores [Q, P]: the sum of w_q * w_p over the tokens that both texts have.

    The lexical score of BGE-M3 (arXiv 2402.03216, section 3.2). Nothing is as wide as the vocabulary: a token that no
    query has adds nothing. bf16 and fp16 weights are multiplied in float32, autocast or not.

    >>> query = SparseRows(torch.tensor([3, 7]), torch.tensor([0.5, 2.0]), torch.tensor([0, 2]))
    >>> ids, weights = torch.tensor([3, 7, 9, 3, 4]), torch.tensor([1.0, 3.0, 8.0, 4.0, 8.0])
    >>> sparse_scores(query, SparseRows(ids, weights, torch.tensor([0, 3, 5, 5]))).tolist()
    [[6.5, 2.0, 0.0]]
    """
    with torch.autocast(queries.weights.device.type, enabled=False):
        vocabulary = queries.ids.unique()  # ascending, [U]
        return _on(vocabulary, queries) @ _on(vocabulary, passages).T


def _on(vocabulary: Tensor, texts: SparseRows) -> Tensor:
    """The texts' weights of the vocabulary's tokens [N, U], in float32 or float64; other tokens are left out."""
    weights = texts.weights.float() if texts.weights.dtype in (torch.bfloat16, torch.float16) else texts.weights
    columns = torch.searchsorted(vocabulary, texts.ids)
    # one further from the right exactly where the token is in the vocabulary, which may be empty
    known = (torch.searchsorted(vocabulary, texts.ids, right=True) > columns).nonzero().squeeze(1)
    rows = rows_of(texts.offsets).to(weights.device)
    return weights.new_zeros(len(texts), len(vocabulary)).index_put((rows[known], columns[known]), weights[known])
