"""The corpus in parts: each is searched by itself, so that memory is bounded, processes share the work, and a killed
search goes on from its last part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from bgetune.files import atomic_file, sha256_json
from bgetune.fusion import best
from bgetune.processes import rank, wait_for_all, world_size
from bgetune.progress import progress
from bgetune.search import Ranking

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """The passages of some consecutive shards: rows `first` to `last`, the latter not included."""

    number: int
    first_shard: int
    last_shard: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def cut_parts(starts: list[int], most_rows: int) -> list[Part]:
    """Whole shards to parts of at most `most_rows` rows; a larger shard is a part of its own.

    All have nearly as many shards: a short last part would have too few vectors to train an index of the others' kind.

    Args:
        starts: the first row of each shard, and the number of all rows; shards are of one size but for the last.

    >>> [(part.first, part.last) for part in cut_parts([0, 4, 8, 12, 16, 17], most_rows=8)]
    [(0, 4), (4, 12), (12, 17)]
    """
    shards = len(starts) - 1
    count = -(-shards // max(most_rows // (starts[1] - starts[0]), 1))
    borders = [shards * number // count for number in range(count + 1)]
    return [Part(i, a, b, starts[a], starts[b]) for i, (a, b) in enumerate(pairwise(borders))]


def fair_rows(starts: list[int]) -> int:
    """Rows of a part where memory does not ask for fewer.

    Enough parts that processes share the work; at most 64, for each keeps results of its own; 8 shards at least.

    >>> fair_rows([0, 100, 200]), fair_rows(list(range(0, 100_001, 100)))
    (800, 1563)
    """
    return max(8 * (starts[1] - starts[0]), -(-starts[-1] // 64))


class PartWork:
    """What was computed for each part, kept in a folder under a name that says what it was computed from."""

    def __init__(self, folder: Path, parts: list[Part], label: str) -> None:
        self.parts = parts
        self._folder, self._label = folder, label

    def each(
        self, name: str, made_from: object, compute: Callable[[Part], Arrays], label: str = ""
    ) -> Iterator[tuple[Part, Arrays]]:
        """Every part with its arrays. Each process computes its share of what is missing and waits for the others.

        Args:
            name: for file names.
            made_from: everything that decides the arrays, as plain values.
            label: what the progress bar calls it; the name where it is empty.
        """
        files = {part: self._file(name, made_from, part) for part in self.parts}
        missing = [part for part in self.parts if not files[part].is_file()]
        if missing:
            said, done = f"{self._label}: {label or name}", len(self.parts) - len(missing)
            with progress(len(self.parts), said, "part", done) as bar:
                for part in missing:
                    if part.number % world_size() == rank():
                        with atomic_file(files[part], "wb") as file:
                            np.savez(file, **compute(part))  # type: ignore[arg-type]
                    bar.update(1)
        wait_for_all()
        for part in self.parts:
            yield part, self.read(name, made_from, part)

    def read(self, name: str, made_from: object, part: Part) -> Arrays:
        """The arrays of one part, once `each` has gone through all."""
        with np.load(self._file(name, made_from, part)) as arrays:
            return dict(arrays)

    def _file(self, name: str, made_from: object, part: Part) -> Path:
        cuts = [(each.first, each.last) for each in self.parts]  # with another memory the corpus has other parts
        return self._folder / f"{name}-{sha256_json([made_from, cuts])[:16]}-{part.number:05d}.npz"


def merged(
    work: PartWork,
    name: str,
    made_from: object,
    search: Callable[[Part], Arrays],
    depth: int,
    also: Callable[[Arrays], None] = lambda arrays: None,
) -> Ranking:
    """The best of all parts: scores float32 [Q, K] and rows int64 [Q, K], best first, equal scores by row.

    Args:
        also: sees what `search` gave for each part, besides scores and rows.
    """
    found: Ranking | None = None
    for _, arrays in work.each(name, made_from, search):
        also({key: value for key, value in arrays.items() if key not in ("scores", "rows")})
        if found is None:
            found = arrays["scores"], arrays["rows"]
        else:
            scores = np.concatenate([found[0], arrays["scores"]], axis=1)
            found = best(scores, np.concatenate([found[1], arrays["rows"]], axis=1), depth)
    assert found is not None, "a corpus has a part"
    return found
