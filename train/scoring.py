"""Representations to scores: what one rank computes, gathered to the whole matrix. Q queries, P passages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bgetune.config import Head, Similarity
from bgetune.maxsim import max_sim
from bgetune.representations import Representations
from bgetune.scores import dense_scores, sparse_scores

from .ranks import gather, gather_columns


def all_scores(
    queries: Representations,
    passages: Representations,
    dealt_queries: Sequence[Sequence[int]],
    dealt_passages: Sequence[Sequence[int]],
    similarity: Similarity,
    matryoshka_dims: Sequence[int],
    search_dtype: torch.dtype | None,
) -> tuple[dict[Head, Tensor], list[Tensor]]:
    """Scores [Q, P] of each head, and of the dense head at each shorter length.

    Args:
        queries, passages: of this rank's texts.
        dealt_queries, dealt_passages: the texts of each rank.
        search_dtype: in which MaxSim looks for the best token; the scores themselves are exact.
    """
    everyone = gather(queries, dealt_queries)
    own: dict[Head, Tensor] = {}
    shortened = []
    if everyone.dense is not None and passages.dense is not None:
        own["dense"] = dense_scores(everyone.dense, passages.dense, similarity)
        # a shorter vector is not of length 1 any more, so it is scored as a cosine where the whole one is
        shortened = [
            dense_scores(everyone.dense[:, :dim], passages.dense[:, :dim], similarity) for dim in matryoshka_dims
        ]
    if everyone.sparse is not None and passages.sparse is not None:
        own["sparse"] = sparse_scores(everyone.sparse, passages.sparse)
    if everyone.multi_vector is not None and passages.multi_vector is not None:
        own["multi_vector"] = max_sim(everyone.multi_vector, passages.multi_vector, search_dtype)
    whole = {head: gather_columns(part, dealt_passages) for head, part in own.items()}
    return whole, [gather_columns(part, dealt_passages) for part in shortened]
