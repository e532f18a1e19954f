"""Hidden states to representations (BGE-M3, arXiv 2402.03216, 3.2).

Shapes: N texts, L tokens with padding, H hidden size, M width of a token's vector, T tokens that count of all texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bgetune.config import Head
from bgetune.layout import Pooling
from bgetune.representations import Representations, SparseRows, TokenVectors, offsets_of

MCLS_EVERY = 256
"""With pooling `mcls`, a CLS token stands before every so many tokens (BGE-M3, appendix on long texts)."""


@dataclass(frozen=True)
class TokenPlan:
    """Which tokens count for which head: known from the ids, before the encoder has run. All on the CPU.

    A position is row * L + column of the padded batch.
    """

    cls_at: Tensor
    """bool [N, L]: the CLS tokens."""
    multi_at: Tensor
    """int64 [T]: positions with a vector of their own: every token but CLS and padding."""
    multi_offsets: Tensor
    """int64 [N + 1]."""
    sparse_at: Tensor
    """int64 [K]: positions of the tokens that are not special."""
    sparse_entry: Tensor
    """int64 [K]: where such a token's weight goes; repeated tokens of a text share an entry."""
    sparse_ids: Tensor
    """int64 [T]: the token id of each entry."""
    sparse_offsets: Tensor
    """int64 [N + 1]."""


def plan_tokens(input_ids: Tensor, mask: Tensor, special: Tensor, cls_id: int | None) -> TokenPlan:
    """Plan a padded batch.

    Args:
        input_ids, mask: int64 [N, L], on the CPU.
        special: int64, ids that are no words: they have no lexical weight.
        cls_id: the id of CLS, where the tokenizer has one.
    """
    real = mask.bool()
    cls_at = (input_ids == cls_id) & real if cls_id is not None else torch.zeros_like(real)
    multi = real & ~cls_at
    words = real & ~torch.isin(input_ids, special)
    rows, _ = words.nonzero(as_tuple=True)
    width = int(input_ids.max()) + 1
    keys, entry = torch.unique(rows * width + input_ids[words], return_inverse=True)
    return TokenPlan(
        cls_at=cls_at,
        multi_at=multi.flatten().nonzero().squeeze(1),
        multi_offsets=offsets_of(multi.sum(dim=1)),
        sparse_at=words.flatten().nonzero().squeeze(1),
        sparse_entry=entry,
        sparse_ids=keys % width,
        sparse_offsets=offsets_of(torch.bincount(keys // width, minlength=len(input_ids))),
    )


def pool(hidden: Tensor, mask: Tensor, how: Pooling, cls_at: Tensor | None = None) -> Tensor:
    """Token states [N, L, H] and mask [N, L] (1: a token, 0: padding) to one vector a text [N, H].

    Computed in float32 whatever the states are, since a mean over many bfloat16 values loses digits. `cls_at`,
    bool [N, L], is for `mcls`: the mean over a text's CLS tokens.

    >>> hidden = torch.tensor([[[1.0, 4.0], [3.0, 2.0], [9.0, 9.0]]])
    >>> mask = torch.tensor([[1, 1, 0]])
    >>> [pool(hidden, mask, how).tolist() for how in ("cls", "mean", "max")]
    [[[1.0, 4.0]], [[2.0, 3.0]], [[3.0, 4.0]]]
    """
    if how == "cls":
        return _full(hidden[:, 0])
    hidden = _full(hidden)
    if how == "mcls":
        assert cls_at is not None
        mask = cls_at
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    if how == "max":
        return hidden.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def dense(hidden: Tensor, mask: Tensor, pooling: Pooling, normalize: bool, cls_at: Tensor | None = None) -> Tensor:
    """The dense representation [N, H]: pooled, and of length 1 where `normalize`."""
    vectors = pool(hidden, mask, pooling, cls_at)
    return nn.functional.normalize(vectors, dim=-1) if normalize else vectors


def sparse(hidden: Tensor, linear: nn.Linear, plan: TokenPlan) -> SparseRows:
    """Lexical weights ReLU(W h + b), the largest over repeated tokens; special tokens have none."""
    weights = _full(torch.relu(linear(hidden))).flatten()[plan.sparse_at.to(hidden.device)]
    largest = weights.new_zeros(len(plan.sparse_ids))
    largest = largest.scatter_reduce(0, plan.sparse_entry.to(hidden.device), weights, reduce="amax")
    return SparseRows(plan.sparse_ids.to(hidden.device), largest, plan.sparse_offsets)


def multi_vector(hidden: Tensor, linear: nn.Linear, plan: TokenPlan, normalize: bool) -> TokenVectors:
    """A vector W h + b a token, of length 1 where `normalize`; CLS and padding have none."""
    states = hidden.flatten(0, 1)[plan.multi_at.to(hidden.device)]
    vectors = _full(linear(states))
    return TokenVectors(nn.functional.normalize(vectors, dim=-1) if normalize else vectors, plan.multi_offsets)


def _full(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class HeadLayers(nn.Module):
    """The layers behind the sparse and multi-vector heads, named as in BGE-M3's files; absent ones are None."""

    def __init__(self, sparse_linear: nn.Linear | None = None, colbert_linear: nn.Linear | None = None) -> None:
        super().__init__()
        self.sparse_linear = sparse_linear
        self.colbert_linear = colbert_linear

    def has(self, head: Head) -> bool:
        layer = {"sparse": self.sparse_linear, "multi_vector": self.colbert_linear}
        return head == "dense" or layer[head] is not None

    def fill_in(self, others: HeadLayers) -> None:
        """Take the heads that are absent here."""
        self.sparse_linear = self.sparse_linear or others.sparse_linear
        self.colbert_linear = self.colbert_linear or others.colbert_linear

    def represent(
        self,
        hidden: Tensor,
        mask: Tensor,
        plan: TokenPlan | None,
        heads: Sequence[Head],
        pooling: Pooling,
        normalize: bool,
    ) -> Representations:
        """What `heads` make of token states [N, L, H]; the dense head needs a plan for `mcls` alone."""
        found: dict[str, Tensor | SparseRows | TokenVectors] = {}
        if "dense" in heads:
            cls_at = None if plan is None else plan.cls_at.to(hidden.device)
            found["dense"] = dense(hidden, mask, pooling, normalize, cls_at)
        if "sparse" in heads:
            assert plan is not None
            assert self.sparse_linear is not None, "the encoder has no sparse head"
            found["sparse"] = sparse(hidden, self.sparse_linear, plan)
        if "multi_vector" in heads:
            assert plan is not None
            assert self.colbert_linear is not None, "the encoder has no multi-vector head"
            found["multi_vector"] = multi_vector(hidden, self.colbert_linear, plan, normalize)
        return Representations(**found)  # type: ignore[arg-type]
