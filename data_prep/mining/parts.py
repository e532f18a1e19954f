"""The corpus in parts: each is searched by itself, so that memory is bounded, processes share the work, and a killed
search goes on from its last part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

    Args:
        starts: the first row of each shard, and the number of all rows.

    >>> [(part.first, part.last) for part in cut_parts([0, 4, 8, 12, 13], most_rows=8)]
    [(0, 8), (8, 13)]
    """
    parts: list[Part] = []
    first = 0
    for shard in range(1, len(starts)):
        last = shard == len(starts) - 1
        if last or starts[shard + 1] - starts[first] > most_rows:
            parts.append(Part(len(parts), first, shard, starts[first], starts[shard]))
            first = shard
    return parts


class PartWork:
    """What was computed for each part, kept in a folder under a name that says what it was computed from."""

    def __init__(self, folder: Path, parts: list[Part], label: str) -> None:
        self.parts = parts
        self._folder, self._label = folder, label

    def each(self, name: str, made_from: object, compute: Callable[[Part], Arrays]) -> Iterator[tuple[Part, Arrays]]:
        """Every part with its arrays. Each process computes its share of what is missing and waits for the others.

        Args:
            name: for file names and the progress bar.
            made_from: everything that decides the arrays, as plain values.
        """
        key = sha256_json(made_from)[:16]
        files = {part: self._folder / f"{name}-{key}-{part.number:05d}.npz" for part in self.parts}
        missing = [part for part in self.parts if not files[part].is_file()]
        if missing:
            with progress(len(self.parts), f"{self._label}: {name}", "part", len(self.parts) - len(missing)) as bar:
                for part in missing:
                    if part.number % world_size() == rank():
                        with atomic_file(files[part], "wb") as file:
                            np.savez(file, **compute(part))  # type: ignore[arg-type]
                    bar.update(1)
        wait_for_all()
        for part in self.parts:
            with np.load(files[part]) as arrays:
                yield part, dict(arrays)


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
