"""MaxSim scores of multi-vectors with exact gradients, in memory that does not grow with Lq * Lp.

Shapes: Q queries with Tq tokens together, P passages with Tp, of which K have tokens; M width of a token's vector.
A chunk is p passages of at most L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from bgetune.representations import TokenVectors, rows_of

# Most elements of a chunk's similarities, and of its copy of the passages' vectors. 16 MB in float32: the arg-max
# then reads from the processor's cache, yet the matmul is large enough to run at full speed.
CHUNK_ELEMENTS = 2**22
# With more query tokens than this, a chunk takes more passages and fewer query tokens: thin matmuls are slow.
WIDE = 4096
# Passages of a chunk are padded to its longest one by at most this share of their tokens.
PADDING = 1 / 8


def max_sim(queries: TokenVectors, passages: TokenVectors, search_dtype: torch.dtype | None = None) -> Tensor:
    """MaxSim scores [Q, P]: mean over a query's tokens of the largest dot product over the passage's tokens.

    The multi-vector score of BGE-M3 (arXiv 2402.03216, section 3.2). A text without tokens scores 0 and gets no
    gradient; of equal products the first token wins. bf16 and fp16 vectors are scored in float32, autocast or not.
    search_dtype: find the winning tokens with products in this type, then score them in the vectors' own;
    worth it where the hardware multiplies that type faster. Not differentiable twice.

    >>> query = TokenVectors(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 2]))
    >>> passages = TokenVectors(torch.tensor([[3.0, 4.0], [5.0, 0.0]]), torch.tensor([0, 1, 2, 2]))
    >>> max_sim(query, passages).tolist()
    [[3.5, 2.5, 0.0]]
    """
    with torch.autocast(queries.vectors.device.type, enabled=False):
        q, p = _full(queries.vectors), _full(passages.vectors)
        keep = torch.is_grad_enabled() and (q.requires_grad or p.requires_grad)
        return _MaxSim.apply(q, p, queries.offsets, passages.offsets, search_dtype, keep)


class _MaxSim(torch.autograd.Function):
    """Keeps, for its gradients, the inputs and which passage token won for each query token: int32 [K, Tq]."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        p: Tensor,
        q_offsets: Tensor,
        p_offsets: Tensor,
        search_dtype: torch.dtype | None,
        keep: bool,
    ) -> Tensor:
        kept, lengths = _with_tokens(p_offsets)
        scores = q.new_zeros(len(p_offsets) - 1, len(q_offsets) - 1)  # [P, Q]
        winners = torch.zeros(len(kept) if keep else 0, len(q), dtype=torch.int32, device=q.device)  # [K, Tq]
        if len(q) and len(kept):
            exact = search_dtype is None or search_dtype == q.dtype
            sought = q if exact else q.to(search_dtype)
            tokens, starts, texts = torch.arange(len(q), device=q.device), q_offsets.to(q.device), kept.to(q.device)
            for chunk in _chunks(p, p_offsets[:-1][kept], lengths, len(q)):
                best, won = _search(sought, chunk, find=keep or not exact)
                if not exact:
                    best = _products(q, p, won)
                if keep:
                    winners[chunk.at] = won
                # a mean over the query's tokens that is 0 where there are none, and the same bytes every time
                mean = embedding_bag(tokens, best.T.contiguous(), starts, mode="mean", include_last_offset=True)
                scores[texts[chunk.at]] = mean.T
        if keep:
            ctx.save_for_backward(q, p, winners, q_offsets, kept)
        return scores.T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        q, p, winners, q_offsets, kept = ctx.saved_tensors
        if not winners.numel():
            return q.new_zeros(q.shape), p.new_zeros(p.shape), None, None, None, None
        with torch.autocast(q.device.type, enabled=False):
            lengths = q_offsets.diff().clamp(min=1).to(q.device).unsqueeze(1)
            shares = grad.index_select(1, kept.to(q.device)) / lengths  # [Q, K]
            shares = shares.index_select(0, rows_of(q_offsets).to(q.device))  # [Tq, K]
            grad_q = _grad_of_queries(p, winners, shares) if ctx.needs_input_grad[0] else None
            grad_p = _grad_of_passages(q, winners, shares, len(p)) if ctx.needs_input_grad[1] else None
        return grad_q, grad_p, None, None, None, None


# Both gradients are weighted sums of rows. Measured on 2 cores against torch.sparse CSR products, index_add_ and
# one-hot matmuls, embedding_bag was the fastest, builds no [Tq, K, M] and adds up in a fixed order.


def _grad_of_queries(p: Tensor, winners: Tensor, shares: Tensor) -> Tensor:
    """Each query token gets the passage tokens that it chose: [Tq, M]."""
    return embedding_bag(winners.T.contiguous(), p, mode="sum", per_sample_weights=shares)


def _grad_of_passages(q: Tensor, winners: Tensor, shares: Tensor, tokens: int) -> Tensor:
    """Each passage token gets the query tokens that chose it: [Tp, M]."""
    # a later passage's tokens come later, so that sorting each row sorts everything
    won, order = winners.sort(dim=1, stable=True)
    bounds = torch.arange(tokens + 1, dtype=won.dtype, device=won.device)
    starts = torch.searchsorted(won.flatten(), bounds)  # int64 [Tp + 1]
    weights = shares.T.gather(1, order).flatten()
    return embedding_bag(order.flatten(), q, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


@dataclass(frozen=True)
class _Chunk:
    """Passages of similar length. at, starts, lengths: int64 [p]; vectors: [p * L, M]."""

    at: Tensor  # which of the K passages
    starts: Tensor
    lengths: Tensor
    vectors: Tensor


def _chunks(p: Tensor, starts: Tensor, lengths: Tensor, width: int) -> Iterator[_Chunk]:
    """The K passages, by length, in chunks that fit CHUNK_ELEMENTS (or of one passage), for `width` query tokens."""
    lengths, order = lengths.sort(stable=True)
    starts = starts[order]
    sizes, firsts = lengths.tolist(), starts.tolist()
    most = CHUNK_ELEMENTS // max(p.shape[1], min(width, WIDE), 1)
    lengths, order, starts = lengths.to(p.device), order.to(p.device), starts.to(p.device)
    for a, b in _cuts(sizes, most):
        if b - a == 1:
            vectors = p[firsts[a] : firsts[a] + sizes[a]]
        else:
            # padded with the passage's last token: that changes no maximum, so nothing needs a mask
            places = torch.arange(sizes[b - 1], device=p.device)
            places = torch.minimum(places, lengths[a:b].unsqueeze(1) - 1) + starts[a:b].unsqueeze(1)
            vectors = p.index_select(0, places.flatten())
        yield _Chunk(order[a:b], starts[a:b], lengths[a:b], vectors)


def _cuts(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Where to cut ascending sizes: runs of at most `most` tokens after padding, with little padding."""
    start, tokens = 0, 0
    for end, size in enumerate(sizes):
        padded = size * (end - start + 1)
        if end > start and (padded > most or padded > (1 + PADDING) * (tokens + size)):
            yield start, end
            start, tokens = end, 0
        tokens += size
    yield start, len(sizes)


def _search(q: Tensor, chunk: _Chunk, find: bool) -> tuple[Tensor, Tensor]:
    """The largest products [p, Tq] and, if asked to find them, which of all passage tokens they are with: int32."""
    vectors, count = chunk.vectors.to(q.dtype), len(chunk.at)
    best = q.new_zeros(count, len(q))
    won = torch.zeros(count, len(q), dtype=torch.int32, device=q.device) if find else torch.empty(0)
    step = max(1, CHUNK_ELEMENTS // len(vectors))
    for start in range(0, len(q), step):
        some = slice(start, start + step)
        # passage tokens first: a maximum over the middle axis runs along contiguous query tokens
        products = (vectors @ q[some].T).view(count, len(vectors) // count, -1)  # [p, L, tq]
        if find:
            best[:, some], place = products.max(dim=1)
            # the copies at the end may differ from their original in the last bit, and win
            place = torch.minimum(place, chunk.lengths.unsqueeze(1) - 1)
            won[:, some] = place + chunk.starts.unsqueeze(1)
        else:
            best[:, some] = products.amax(dim=1)
    return best, won


def _products(q: Tensor, p: Tensor, won: Tensor) -> Tensor:
    """Products [p, Tq] of each query token with the passage tokens `won` [p, Tq]."""
    # the derivative of a weighted sum by its weights: row by row dot products, without a copy of the rows
    rows = torch.arange(len(q), dtype=won.dtype, device=won.device).repeat(len(won))
    starts = rows[:0]  # unused where each index's row is given
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(q, p, won.flatten(), starts, rows, 0)
    return flat.view(won.shape)


def _with_tokens(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Which texts have tokens, and how many: int64 [K] each, on the CPU."""
    lengths = offsets.diff()
    kept = lengths.nonzero().squeeze(1)
    return kept, lengths[kept]


def _full(vectors: Tensor) -> Tensor:
    return vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors
