"""What the heads make of texts, ragged and without padding.

Shapes: N texts, T tokens of all texts together, D width of a dense vector, M width of a token's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseRows:
    """N sparse vectors. Text i has the token ids and weights at `offsets[i]:offsets[i + 1]`.

    ids: int64 [T], ascending and distinct within a text; weights: float [T], 0 or more; offsets: int64 [N + 1], CPU.
    """

    ids: Tensor
    weights: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class TokenVectors:
    """N multi-vectors. Text i has the rows `offsets[i]:offsets[i + 1]` of `vectors`; it may have none.

    vectors: float [T, M]; offsets: int64 [N + 1], on the CPU.
    """

    vectors: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Representations:
    """N texts as each head sees them; None for a head that was not asked for. dense: float [N, D]."""

    dense: Tensor | None = None
    sparse: SparseRows | None = None
    multi_vector: TokenVectors | None = None


def rows_of(offsets: Tensor) -> Tensor:
    """The text of each token: int64 [T] from offsets [N + 1].

    >>> rows_of(torch.tensor([0, 2, 2, 3])).tolist()
    [0, 0, 2]
    """
    return torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())


def offsets_of(lengths: Sequence[int] | Tensor) -> Tensor:
    """Offsets int64 [N + 1] of texts with so many tokens each.

    >>> offsets_of([2, 0, 1]).tolist()
    [0, 2, 2, 3]
    """
    counts = torch.as_tensor(lengths, dtype=torch.int64)
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])


def tokens_at(offsets: Tensor, texts: Sequence[int]) -> Tensor:
    """Positions of all tokens of the texts, text after text: int64.

    >>> tokens_at(torch.tensor([0, 2, 2, 5]), [2, 0]).tolist()
    [2, 3, 4, 0, 1]
    """
    chosen = torch.as_tensor(texts, dtype=torch.int64)
    lengths = offsets.diff()[chosen]
    starts = torch.repeat_interleave(offsets[chosen], lengths)
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(offsets_of(lengths)[:-1], lengths)
    return starts + within


def take(found: Representations, texts: Sequence[int]) -> Representations:
    """The representations of some of the texts, in the order given; gradients flow through."""
    dense, sparse, multi_vector = found.dense, found.sparse, found.multi_vector
    if dense is not None:
        dense = dense[torch.as_tensor(texts, dtype=torch.int64, device=dense.device)]
    if sparse is not None:
        at = tokens_at(sparse.offsets, texts).to(sparse.weights.device)
        sparse = SparseRows(sparse.ids[at], sparse.weights[at], _offsets_at(sparse.offsets, texts))
    if multi_vector is not None:
        at = tokens_at(multi_vector.offsets, texts).to(multi_vector.vectors.device)
        multi_vector = TokenVectors(multi_vector.vectors[at], _offsets_at(multi_vector.offsets, texts))
    return Representations(dense, sparse, multi_vector)


def join(pieces: Sequence[Representations]) -> Representations:
    """The texts of all pieces, one piece after the other. Every piece has the same heads."""
    dense = [piece.dense for piece in pieces if piece.dense is not None]
    sparse = [piece.sparse for piece in pieces if piece.sparse is not None]
    multi_vector = [piece.multi_vector for piece in pieces if piece.multi_vector is not None]
    return Representations(
        torch.cat(dense) if dense else None,
        SparseRows(
            torch.cat([piece.ids for piece in sparse]),
            torch.cat([piece.weights for piece in sparse]),
            _offsets_joined([piece.offsets for piece in sparse]),
        )
        if sparse
        else None,
        TokenVectors(
            torch.cat([piece.vectors for piece in multi_vector]),
            _offsets_joined([piece.offsets for piece in multi_vector]),
        )
        if multi_vector
        else None,
    )


def _offsets_at(offsets: Tensor, texts: Sequence[int]) -> Tensor:
    return offsets_of(offsets.diff()[torch.as_tensor(texts, dtype=torch.int64)])


def _offsets_joined(offsets: Sequence[Tensor]) -> Tensor:
    return offsets_of(torch.cat([each.diff() for each in offsets]))
