"""Packing texts of unequal length into batches by token count, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# What one more batch costs besides its tokens, in tokens: the fixed price of a forward and backward pass.
_BATCH_OVERHEAD_TOKENS = 128
# Small batches of very unequal texts come out with more padding than this; the price is then halved, down to the least.
_MOST_PADDING = 0.10
_LEAST_OVERHEAD_TOKENS = 16


def by_length(lengths: Sequence[int]) -> list[int]:
    """Positions from the longest text to the shortest; ties by position, so that the order is one and only."""
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split texts into batches of at most `budget` tokens, padding included, at the least total cost.

    Texts are sorted by length; the cut into consecutive runs that minimises padded tokens plus a fixed
    price a batch is found exactly, by dynamic programming. Where a tenth of that or more is padding, the price is
    halved until it is less. A text longer than the budget is a batch alone.

    Args:
        lengths: tokens of each text.
        budget: most tokens of a batch, counted as texts times the longest of them.

    Returns:
        Positions in `lengths`, batch by batch, longest texts first (so memory peaks at once).

    >>> pack([2, 100, 3, 90], budget=1000)
    [[1, 3], [2, 0]]
    >>> pack([4, 4, 4, 4], budget=8)
    [[0, 1], [2, 3]]
    """
    overhead = _BATCH_OVERHEAD_TOKENS
    batches = _cheapest(lengths, budget, overhead)
    while padding_share(lengths, batches) >= _MOST_PADDING and overhead > _LEAST_OVERHEAD_TOKENS:
        overhead //= 2
        batches = _cheapest(lengths, budget, overhead)
    return batches


def _cheapest(lengths: Sequence[int], budget: int, overhead: int) -> list[list[int]]:
    """The cut of the sorted texts into batches within the budget that costs least, `overhead` tokens a batch."""
    order = by_length(lengths)
    sizes = np.array([lengths[i] for i in order], dtype=np.int64)
    count = len(order)
    best = np.full(count + 1, np.iinfo(np.int64).max, dtype=np.int64)
    best[0] = 0
    cut = np.zeros(count + 1, dtype=np.int64)
    for start in range(count):
        longest = max(int(sizes[start]), 1)
        most = min(max(budget // longest, 1), count - start)
        ends = np.arange(start + 1, start + most + 1)
        cost = best[start] + (ends - start) * longest + overhead
        better = cost < best[ends]
        best[ends[better]] = cost[better]
        cut[ends[better]] = start
    batches: list[list[int]] = []
    end = count
    while end > 0:
        start = int(cut[end])
        batches.append(order[start:end])
        end = start
    return batches[::-1]


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the tokens computed that are padding.

    >>> padding_share([4, 2], [[0, 1]])
    0.25
    """
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1.0 - sum(lengths) / padded if padded else 0.0
