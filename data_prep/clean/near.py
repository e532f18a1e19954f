"""Near-duplicates that speak of the same numbers, looked up one after the other: exact, and fast for templates too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bgetune.progress import progress

from ..neardup import words_of
from .clusters import Clusters

_BAR_FROM = 5_000
"""Texts; fewer take a second or two."""


def numbers_of(words: frozenset[str]) -> frozenset[str]:
    """The words that hold a digit. Texts that differ in them speak of different things, however alike they are.

    >>> sorted(numbers_of(words_of("Pump 7a has 3.5 bar")))
    ['3', '5', '7a']
    """
    return frozenset(word for word in words if any(map(str.isdigit, word)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Share of common elements.

    >>> jaccard(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def counted(count: int, label: str) -> Iterator[int]:
    """0 to count - 1, with a bar where it takes more than a second or two."""
    if count < _BAR_FROM:
        yield from range(count)
        return
    with progress(count, label, "text") as bar:
        for i in range(count):
            yield i
            bar.update()


class NearIndex:
    """Texts of a list that were added, to be asked for the near ones of another text of that list.

    Near are word sets with a Jaccard similarity of at least `threshold`, and with the same numbers if numbers matter.
    Candidates come from prefix filtering (Bayardo, Ma & Srikant, WWW 2007) with positions (Xiao et al., WWW 2008): with
    the words of each set sorted, the rarest first, near sets share a word so early in both that enough words are left
    in each. Words that all texts of a template have in common are too late in them, unless the texts are near.

    Args:
        texts: all that will be added or asked for.
        threshold: above 0, at most 1.

    >>> index = NearIndex(["a b c d e", "x", "a b c d"], 0.8)
    >>> index.add(0), index.add(1), list(index.candidates(2)), index.is_near(0, 2)
    (None, None, [[0]], True)
    """

    def __init__(self, texts: Sequence[str], threshold: float, numbers_matter: bool = True) -> None:
        assert 0 < threshold <= 1
        self._threshold = threshold
        self._words = [words_of(text) for text in texts]
        none: frozenset[str] = frozenset()
        self._numbers = [numbers_of(words) if numbers_matter else none for words in self._words]
        count: dict[str, int] = {}
        for words in self._words:
            for word in words:
                count[word] = count.get(word, 0) + 1
        rank = {word: i for i, word in enumerate(sorted(count, key=lambda word: (count[word], word)))}
        # a set is asked for with the words that may be the first in common with any near one, [:size - least + 1]
        self._prefix = [
            sorted(rank[word] for word in words)[: len(words) - self._least(len(words)) + 1] for words in self._words
        ]
        # (numbers, word) -> (words from this one on, size of the set) -> who, in the order of adding
        self._found: dict[tuple[frozenset[str], int], dict[tuple[int, int], list[int]]] = {}

    def _least(self, size: int) -> int:
        """The smallest size that is near: threshold * size, rounded up."""
        return int(np.ceil(self._threshold * size - 1e-9))

    def add(self, i: int) -> None:
        """From now on text i may be found."""
        size = len(self._words[i])
        for position, word in enumerate(self._prefix[i]):
            places = self._found.setdefault((self._numbers[i], word), {})
            places.setdefault((size - position, size), []).append(i)

    def candidates(self, i: int) -> Iterator[list[int]]:
        """Lists of added texts that hold every near one of text i, each in the order of adding; do not change them."""
        size = len(self._words[i])
        for position, word in enumerate(self._prefix[i]):
            for (left, other), added in self._found.get((self._numbers[i], word), {}).items():
                # near sets have threshold / (1 + threshold) of both sizes in common, and this is their first word
                if min(size - position, left) * (1 + self._threshold) >= self._threshold * (size + other) - 1e-9:
                    yield added

    def is_near(self, i: int, j: int) -> bool:
        """Exactly; both may be any text of the list."""
        return self._numbers[i] == self._numbers[j] and jaccard(self._words[i], self._words[j]) >= self._threshold

    def first_near(self, i: int) -> int | None:
        """The smallest added text that is near text i, where texts were added in ascending order."""
        best: int | None = None
        failed: set[int] = set()
        for added in self.candidates(i):
            for j in added:
                if best is not None and j >= best:
                    break
                if j not in failed and self.is_near(i, j):
                    best = j
                    break
                failed.add(j)
        return best


def leaders(texts: Sequence[str], threshold: float) -> np.ndarray:
    """For each text the first one before it that is near and stays; one that finds none stays, with its own number.

    >>> leaders(["a b c d", "a b c d e", "a b c d e f"], 0.8).tolist()  # the third is near the second only
    [0, 0, 2]
    """
    index = NearIndex(texts, threshold)
    first = np.arange(len(texts), dtype=np.int64)
    for i in counted(len(texts), "duplicates"):
        found = index.first_near(i)
        if found is None:
            index.add(i)
        else:
            first[i] = found
    return first


def connected(texts: Sequence[str], threshold: float) -> np.ndarray:
    """For each text the smallest one that a chain of near texts leads to.

    >>> connected(["a b c d", "a b c d e", "x", "a b c d e f"], 0.8).tolist()
    [0, 0, 2, 0]
    """
    index = NearIndex(texts, threshold)
    clusters = Clusters(len(texts))
    # of a list of candidates those of one cluster together: after the first near one the others need no look;
    # by the list's id, which lives as long as the index
    by_list: dict[int, _ByCluster] = {}
    for i in counted(len(texts), "alike"):
        for added in index.candidates(i):
            of_list = by_list.setdefault(id(added), _ByCluster(added))
            for members in of_list.lists(clusters, without=clusters.root(i)):
                if any(index.is_near(i, j) for j in members):
                    clusters.join(i, members[0])
        index.add(i)
    return clusters.firsts()


class _ByCluster:
    """A growing list of texts, by cluster."""

    def __init__(self, added: list[int]) -> None:
        self._added, self._seen = added, 0
        self._lists: dict[int, list[int]] = {}

    def lists(self, clusters: Clusters, without: int) -> list[list[int]]:
        """One list for each cluster but the one named."""
        for j in self._added[self._seen :]:
            self._lists.setdefault(clusters.root(j), []).append(j)
        self._seen = len(self._added)
        for old in [first for first in self._lists if clusters.root(first) != first]:
            members = self._lists.pop(old)
            self._lists.setdefault(clusters.root(old), []).extend(members)
        return [members for first, members in self._lists.items() if first != without]
