"""The round-trip filter: a good query finds the passage that it was written for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def keep_found(queries: Sequence[str], passage_rows: Sequence[int], rows: np.ndarray, rank: int) -> list[bool]:
    """Which queries find their passage within the first `rank` results (Promptagator, arXiv 2209.11755, 3.2).

    Args:
        queries: Q texts.
        passage_rows: the corpus row of the passage that each was written for.
        rows: int64 [Q, K], the corpus rows that a search found for each query, best first; -1 where it found fewer.
        rank: from 1.

    >>> keep_found(["a", "b", "c"], [7, 7, 2], np.array([[7, 1, 2], [1, 7, 2], [1, 7, -1]]), rank=1)
    [True, False, False]
    >>> keep_found(["a", "b", "c"], [7, 7, 2], np.array([[7, 1, 2], [1, 7, 2], [1, 7, -1]]), rank=2)
    [True, True, False]
    """
    assert rank >= 1
    assert len(queries) == len(passage_rows) == len(rows)
    wanted = np.asarray(passage_rows, dtype=np.int64).reshape(-1, 1)
    return (rows[:, :rank] == wanted).any(axis=1).tolist()
