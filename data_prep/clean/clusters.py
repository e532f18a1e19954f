"""Union-find over the numbers 0 to N-1, for whole arrays at once."""

from __future__ import annotations

import numpy as np


class Clusters:
    """Which numbers belong together; a cluster goes by its smallest number.

    >>> clusters = Clusters(4)
    >>> clusters.join(3, 1)
    >>> clusters.firsts().tolist()
    [0, 1, 2, 1]
    """

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def first_of(self, items: np.ndarray) -> np.ndarray:
        """The smallest number of each item's cluster; same shape as `items`."""
        found = self._parent[items]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parent[items] = found
        return found

    def join(self, a: int, b: int) -> None:
        """Put the clusters of two numbers together."""
        low, high = sorted((self._root(a), self._root(b)))
        self._parent[high] = low

    def firsts(self) -> np.ndarray:
        """For every number the smallest of its cluster, [N]."""
        return self.first_of(np.arange(len(self._parent)))

    def _root(self, item: int) -> int:
        while (above := int(self._parent[item])) != item:
            self._parent[item] = self._parent[above]
            item = above
        return item
