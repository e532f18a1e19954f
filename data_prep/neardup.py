"""Near-duplicates: pairs of texts that share most of their words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from scipy import sparse

_ROWS_AT_ONCE = 512
_PAIRS_AT_ONCE = 1 << 16


def words_of(text: str) -> frozenset[str]:
    """The set of lower-cased words; a text without any is its own only word, so that it equals itself.

    >>> sorted(words_of("Return the x, the Y."))
    ['return', 'the', 'x', 'y']
    """
    lowered = text.lower()
    return frozenset(re.findall(r"\w+", lowered)) or frozenset([lowered.strip()])


def near_duplicates(a: Sequence[str], b: Sequence[str], threshold: float = 0.8) -> list[tuple[int, int]]:
    """Every (i, j) where the word sets of a[i] and b[j] have a Jaccard similarity of at least `threshold`.

    Exact. Candidates come from prefix filtering (Chaudhuri, Ganti & Kaushik, ICDE 2006; Bayardo, Ma & Srikant,
    WWW 2007): two sets that similar share at least one of their few rarest words, so that frequent words
    never meet. Blocks of `a` keep the memory bounded.

    Args:
        a, b: texts; may be the same list (then (i, i) and both directions are in the result).
        threshold: above 0, at most 1.

    Returns:
        Sorted pairs of indices.

    >>> near_duplicates(["a b c d e"], ["a b c d", "a b c", "E D C B A!"])  # 4/5, 3/5 and 5/5 words in common
    [(0, 0), (0, 2)]
    """
    assert 0 < threshold <= 1
    if not a or not b:
        return []
    sets_a, sets_b = [words_of(text) for text in a], [words_of(text) for text in b]
    column = _columns_by_rarity([*sets_a, *sets_b])
    rows_a = [np.sort(np.array([column[word] for word in words])) for words in sets_a]
    rows_b = [np.sort(np.array([column[word] for word in words])) for words in sets_b]
    whole_a, whole_b = _binary(rows_a, len(column)), _binary(rows_b, len(column))
    prefix_a = _binary([_prefix(row, threshold) for row in rows_a], len(column))
    prefix_b = _binary([_prefix(row, threshold) for row in rows_b], len(column)).T.tocsc()
    size_a, size_b = (np.diff(matrix.indptr) for matrix in (whole_a, whole_b))
    found: list[tuple[int, int]] = []
    for start in range(0, len(a), _ROWS_AT_ONCE):
        candidates = (prefix_a[start : start + _ROWS_AT_ONCE] @ prefix_b).tocoo()
        i, j = candidates.row.astype(np.int64) + start, candidates.col.astype(np.int64)
        # the smaller set can hold at most its own size in common
        small, large = np.minimum(size_a[i], size_b[j]), np.maximum(size_a[i], size_b[j])
        i, j = i[small / large >= threshold], j[small / large >= threshold]
        for k in range(0, len(i), _PAIRS_AT_ONCE):
            rows, cols = i[k : k + _PAIRS_AT_ONCE], j[k : k + _PAIRS_AT_ONCE]
            common = np.asarray(whole_a[rows].multiply(whole_b[cols]).sum(axis=1)).ravel()
            near = common / (size_a[rows] + size_b[cols] - common) >= threshold
            found.extend(zip(rows[near].tolist(), cols[near].tolist(), strict=True))
    return sorted(found)


def _columns_by_rarity(sets: Sequence[frozenset[str]]) -> dict[str, int]:
    """Words to column numbers, the rarest word first."""
    count: dict[str, int] = {}
    for words in sets:
        for word in words:
            count[word] = count.get(word, 0) + 1
    return {word: i for i, word in enumerate(sorted(count, key=lambda word: (count[word], word)))}


def _prefix(row: np.ndarray, threshold: float) -> np.ndarray:
    """The rarest words of a set, as many as must hold one of any similar set's rarest."""
    return row[: len(row) - math.ceil(threshold * len(row) - 1e-9) + 1]


def _binary(rows: Sequence[np.ndarray], width: int) -> sparse.csr_matrix:
    """Rows of column numbers as a sparse matrix of ones, [len(rows), width]."""
    ends = np.cumsum([0, *(len(row) for row in rows)])
    return sparse.csr_matrix((np.ones(ends[-1], dtype=np.int32), np.concatenate(rows), ends), shape=(len(rows), width))
