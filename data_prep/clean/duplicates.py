"""Passages that say the same: which of them to keep, exactly for small sets, by MinHash and LSH for large ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from bgetune.data import normalised
from bgetune.progress import progress

from ..neardup import words_of
from .near import counted, jaccard, leaders, numbers_of

EXACT_UP_TO = 20_000
"""Different texts. Exact search takes 13 s for medquad's 14,743 passages at a threshold of 0.8 and 36 s at 0.5, LSH 10
and 8 s; for 100,196 windows of 30 words 40 s and 27 s. For long passages exact search grows with the square."""
_SLOTS = 256
_TEXTS_AT_ONCE = 10_000


def exact_duplicates(texts: Iterable[str]) -> np.ndarray:
    """For each text the number of the first one that is the same but for case and white space.

    >>> exact_duplicates(["A  b", "c", "a b "]).tolist()
    [0, 1, 0]
    """
    return _first_with_key(texts, normalised)


def near_duplicate_leaders(texts: Sequence[str], threshold: float) -> np.ndarray:
    """For each text the number of the one that stays for it: the first kept one that is near, or itself.

    Two texts are near when their word sets have a Jaccard similarity of at least `threshold`, and the words that hold a
    digit are the same: a table's rows, or a fact on each of thirty pumps, say different things in the same words. In
    the order of the list a text goes if it is near one that stays; near to one that goes is not enough, or chains
    would join texts that have little in common.

    Up to EXACT_UP_TO different texts every near pair is found. Above, the pairs come from MinHash and LSH (Broder 1997;
    Indyk & Motwani, STOC 1998), and each one is checked exactly: no text goes that is not near to one that stays, and
    of the near pairs one in a thousand at most goes unseen.

    Returns:
        [len(texts)] int64; a text that stays has its own number.

    >>> near_duplicate_leaders(["a b c d e", "x", "a b c d", "E D C B A!", "a b c d 5"], 0.8).tolist()
    [0, 1, 0, 0, 4]
    """
    same_words = _first_with_key(texts, lambda text: " ".join(sorted(words_of(text))))
    different = np.unique(same_words)
    chosen = [texts[i] for i in different]
    found = leaders(chosen, threshold) if len(chosen) <= EXACT_UP_TO else _leaders_by_lsh(chosen, threshold)
    return different[found][np.searchsorted(different, same_words)]


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


def _leaders_by_lsh(texts: Sequence[str], threshold: float) -> np.ndarray:
    keys, low_bytes = _sketch(texts, rows_per_band(threshold))
    rows, groups = _groups(keys)
    bounds = np.searchsorted(rows, np.arange(len(texts) + 1))
    words = lru_cache(maxsize=1 << 14)(lambda i: words_of(texts[i]))
    least = threshold - 4 * math.sqrt(threshold * (1 - threshold) / _SLOTS)  # four standard deviations of the estimate
    staying: dict[int, list[int]] = {}
    first = np.arange(len(texts), dtype=np.int64)
    for i in counted(len(texts), "duplicates"):
        mine = groups[bounds[i] : bounds[i + 1]].tolist()
        met = sorted({j for group in mine for j in staying.get(group, ())})
        if met:
            likely = (low_bytes[met] == low_bytes[i]).mean(axis=1) >= least
            near = (
                j
                for j, worth_it in zip(met, likely.tolist(), strict=True)
                if worth_it
                and numbers_of(words(j)) == numbers_of(words(i))
                and jaccard(words(i), words(j)) >= threshold
            )
            first[i] = next(near, i)
        if first[i] == i:
            for group in mine:
                staying.setdefault(group, []).append(i)
    return first


def _groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (text, group) pairs of texts that share a band's key with another one, sorted by text.

    >>> [part.tolist() for part in _groups(np.array([[7, 1], [7, 2], [8, 2]], dtype=np.uint64))]
    [[0, 1, 1, 2], [0, 0, 3, 3]]
    """
    rows, groups = [], []
    for band in range(keys.shape[1]):
        _, group, count = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        shared = np.flatnonzero(count[group] > 1)
        rows.append(shared)
        groups.append(group[shared] * keys.shape[1] + band)
    row, group = np.concatenate(rows), np.concatenate(groups)
    order = np.argsort(row, kind="stable")
    return row[order], group[order]


def _number_keys(words: Sequence[Sequence[str]]) -> np.ndarray:
    """For each text a 64-bit hash of its sorted numbers, [len(words)]."""
    numbers = [" ".join(sorted(numbers_of(frozenset(of)))).encode() for of in words]
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in numbers)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


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
            keys[here] ^= _number_keys(words)[:, None]  # texts with other numbers shall not even meet
            low_bytes[here] = slots & np.uint64(0xFF)
            bar.update(len(words))
    return keys, low_bytes
