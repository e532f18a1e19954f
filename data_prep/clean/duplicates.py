"""Passages that say the same: which of them to keep, exactly for small sets, by MinHash and LSH for large ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from bgetune.data import normalised
from bgetune.progress import progress

from ..neardup import near_duplicates, words_of
from .clusters import Clusters

EXACT_UP_TO = 20_000
"""Different texts. Exact search takes 18 s for medquad's 14,743 passages at a threshold of 0.8 and 119 s at 0.5, and
its time grows with the square; LSH takes 7 s and 37 s, and 20 s for 157,301 windows of 30 words."""
_SLOTS = 256
_TEXTS_AT_ONCE = 10_000
_PAIRS_AT_ONCE = 1 << 16


def exact_duplicates(texts: Iterable[str]) -> np.ndarray:
    """For each text the number of the first one that is the same but for case and white space.

    >>> exact_duplicates(["A  b", "c", "a b "]).tolist()
    [0, 1, 0]
    """
    return _first_with_key(texts, normalised)


def near_duplicate_clusters(texts: Sequence[str], threshold: float) -> np.ndarray:
    """For each text the number of the first one of its cluster; near-duplicates are connected.

    Two texts are near-duplicates when their word sets have a Jaccard similarity of at least `threshold`. Up to
    EXACT_UP_TO different texts every such pair counts. Above, the pairs come from MinHash and LSH (Broder 1997; Indyk &
    Motwani, STOC 1998), and each one is checked exactly: nothing is joined that is not near, while one near pair in a
    thousand at most goes unseen, and it is often connected by others.

    Returns:
        [len(texts)] int64; a text without a near-duplicate has its own number.

    >>> near_duplicate_clusters(["a b c d e", "x", "a b c d", "E D C B A!"], 0.8).tolist()
    [0, 1, 0, 0]
    """
    same_words = _first_with_key(texts, lambda text: " ".join(sorted(words_of(text))))
    different = np.unique(same_words)
    chosen = [texts[i] for i in different]
    clusters = Clusters(len(chosen))
    if len(chosen) <= EXACT_UP_TO:
        for i, j in near_duplicates(chosen, chosen, threshold):
            if i < j:
                clusters.join(i, j)
    else:
        _join_by_lsh(chosen, threshold, clusters)
    first = different[clusters.firsts()]
    return first[np.searchsorted(different, same_words)]


def _first_with_key(texts: Iterable[str], key: Callable[[str], str]) -> np.ndarray:
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(key(text).encode(), digest_size=16).digest() for text in texts)
    return np.array([seen.setdefault(digest, i) for i, digest in enumerate(digests)], dtype=np.int64)


def rows_per_band(threshold: float, slots: int = _SLOTS) -> int:
    """How many slots a band has: as many as still find 999 of 1,000 pairs at the threshold.

    A pair with similarity s shares a band of r slots with probability s^r, one of its slots // r bands with
    1 - (1 - s^r)^(slots // r).

    >>> [rows_per_band(threshold) for threshold in (0.5, 0.8, 0.9, 1.0)]
    [3, 7, 12, 128]
    """
    fitting = [r for r in range(1, slots // 2 + 1) if (1 - threshold**r) ** (slots // r) <= 1e-3]
    return max(fitting, default=1)


def _join_by_lsh(texts: Sequence[str], threshold: float, clusters: Clusters) -> None:
    keys, low_bytes = _sketch(texts, rows_per_band(threshold))
    is_near = _near_test(texts, threshold)
    with progress(keys.shape[1], "duplicates", "band") as bar:
        for band in range(keys.shape[1]):
            _join_band(keys, band, low_bytes, threshold, clusters, is_near)
            bar.update()


def _sketch(texts: Sequence[str], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A 64-bit key for each band, [N, bands], and the low byte of each slot, [N, _SLOTS]: 0.5 KB a text."""
    from rensa import RMinHash

    bands = _SLOTS // rows
    mixer = np.random.default_rng(0).integers(0, 1 << 63, rows, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.empty((len(texts), bands), dtype=np.uint64)
    low_bytes = np.empty((len(texts), _SLOTS), dtype=np.uint8)
    with progress(len(texts), "sketch", "passage") as bar:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            words = [sorted(words_of(text)) for text in texts[start : start + _TEXTS_AT_ONCE]]
            slots = np.array(RMinHash.digest_matrix_from_token_sets(words, _SLOTS, 0).to_rows(), dtype=np.uint64)
            here = slice(start, start + len(words))
            keys[here] = (slots[:, : bands * rows].reshape(len(words), bands, rows) * mixer).sum(axis=2)
            low_bytes[here] = slots & np.uint64(0xFF)
            bar.update(len(words))
    return keys, low_bytes


def _near_test(texts: Sequence[str], threshold: float) -> Callable[[int, int], bool]:
    words = lru_cache(maxsize=1 << 14)(lambda i: words_of(texts[i]))

    def is_near(i: int, j: int) -> bool:
        a, b = words(i), words(j)
        common = len(a & b)
        return common / (len(a) + len(b) - common) >= threshold

    return is_near


def _join_band(
    keys: np.ndarray,
    band: int,
    low_bytes: np.ndarray,
    threshold: float,
    clusters: Clusters,
    is_near: Callable[[int, int], bool],
) -> None:
    """Join the near ones among texts with equal keys: neighbours in sorted order, then the next but one, and so on.

    A group of equal keys is left as soon as it is one cluster: ten thousand copies of a template cost as many checks,
    not fifty million.
    """
    order = np.argsort(keys[:, band], kind="stable")
    key = keys[order, band]
    group = np.concatenate([[0], np.cumsum(key[1:] != key[:-1])])
    least = threshold - 4 * math.sqrt(threshold * (1 - threshold) / _SLOTS)  # four standard deviations of the estimate
    apart = 1
    while True:
        order, group = _unfinished(order, group, clusters)
        same = np.flatnonzero(group[apart:] == group[:-apart]) if apart < len(group) else np.empty(0, dtype=np.int64)
        if not len(same):
            return
        for start in range(0, len(same), _PAIRS_AT_ONCE):
            at = same[start : start + _PAIRS_AT_ONCE]
            i, j = order[at], order[at + apart]
            new = clusters.first_of(i) != clusters.first_of(j)
            i, j = i[new], j[new]
            likely = (low_bytes[i] == low_bytes[j]).mean(axis=1) >= least
            i, j = i[likely], j[likely]
            checked = (keys[i, :band] == keys[j, :band]).any(axis=1)  # they met in an earlier band
            for a, b in zip(i[~checked].tolist(), j[~checked].tolist(), strict=True):
                if is_near(a, b):
                    clusters.join(a, b)
        apart += 1


def _unfinished(order: np.ndarray, group: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Without the groups that are one cluster."""
    if not len(order):
        return order, group
    first = clusters.first_of(order)
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    split = np.minimum.reduceat(first, starts) != np.maximum.reduceat(first, starts)
    stay = np.repeat(split, np.diff(np.concatenate([starts, [len(group)]])))
    return order[stay], group[stay]
