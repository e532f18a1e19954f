"""Union-find over the numbers 0 to N-1."""

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
        self._parent = list(range(count))

    def root(self, item: int) -> int:
        """The smallest number of its cluster."""
        while (above := self._parent[item]) != item:
            self._parent[item] = self._parent[above]
            item = above
        return item

    def join(self, a: int, b: int) -> None:
        """Put the clusters of two numbers together."""
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low

    def firsts(self) -> np.ndarray:
        """For every number the smallest of its cluster, [N] int64."""
        return np.array([self.root(item) for item in range(len(self._parent))], dtype=np.int64)
