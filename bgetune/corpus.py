"""A corpus that stays on disk: passages by their row, whatever their number, in a few bytes of memory each.

Shapes: N passages.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from bgetune.data import Texts, normalised
from bgetune.files import atomic_folder, read_json, sha256_file, write_json
from bgetune.progress import progress

_ARRAYS = ("starts", "ids", "texts")
_SUMS = "sha256.json"


class Corpus:
    """The passages of a corpus.jsonl that has been validated; lines are read when they are asked for."""

    def __init__(self, source: Path, index: Path) -> None:
        self.source = source
        starts, ids, texts = (np.load(index / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
        self._starts: np.ndarray = starts
        self._id_hashes: np.ndarray = ids
        self.text_hashes: np.ndarray = texts
        """uint64 [N]: the `text_hash` of each passage, title included."""
        self._bytes = np.memmap(source, dtype=np.uint8, mode="r")
        self.ids = _Ids(self)

    @classmethod
    def open(cls, source: Path, cache: Path) -> Corpus:
        """The corpus of a `corpus.jsonl`; where its lines begin is noted in `cache`, once."""
        index = cache / f"corpus-{sha256_file(source)[:32]}"
        if not _is_whole(index):
            with atomic_folder(index) as partial:
                for name, values in zip(_ARRAYS, _scan(source), strict=True):
                    np.save(partial / f"{name}.npy", values)
                write_json(partial / _SUMS, {name: sha256_file(partial / f"{name}.npy") for name in _ARRAYS})
        return cls(source, index)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def take(self, rows: Sequence[int]) -> Texts:
        """The passages at `rows`, in that order."""
        read = [self._row(int(row)) for row in rows]
        return Texts(
            [row["_id"] for row in read],
            [row["text"] for row in read],
            [row.get("title") or "" for row in read],
            self.source,
            [int(row) + 1 for row in rows],
        )

    def text(self, row: int) -> str:
        """Title and text of one passage, as it is encoded."""
        return self.take([row]).full_texts()[0]

    def metadata(self, row: int) -> dict[str, Any]:
        """Where a passage came from, such as document and section; empty where nothing is known."""
        return self._row(row).get("metadata") or {}

    def rows_of(self, ids: Sequence[str]) -> list[int]:
        """The rows of passages by their ids, all of which are there."""
        rows = [self.row_of(text_id) for text_id in ids]
        assert None not in rows, "qrels name passages of the corpus alone"
        return [row for row in rows if row is not None]

    def row_of(self, text_id: str) -> int | None:
        """The row of one passage by its id. Two ids may have one hash, so the line itself decides."""
        order, sought = self._by_hash(), _hash(text_id)
        place = int(np.searchsorted(self._id_hashes, np.uint64(sought), sorter=order))
        while place < len(self) and int(self._id_hashes[order[place]]) == sought:
            if self.ids[int(order[place])] == text_id:
                return int(order[place])
            place += 1
        return None

    @lru_cache(maxsize=1)  # noqa: B019 - one corpus a process
    def _by_hash(self) -> np.ndarray:
        return np.argsort(self._id_hashes, kind="stable")

    def _row(self, row: int) -> dict[str, Any]:
        return json.loads(self._bytes[self._starts[row] : self._starts[row + 1]].tobytes())


def _is_whole(index: Path) -> bool:
    """Whether an index is there and is what was written."""
    try:
        return read_json(index / _SUMS) == {name: sha256_file(index / f"{name}.npy") for name in _ARRAYS}
    except (OSError, ValueError):
        return False


class _Ids(Sequence[str]):
    """The ids of a corpus, each read when it is asked for."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def __len__(self) -> int:
        return len(self._corpus)

    def __contains__(self, text_id: object) -> bool:
        return isinstance(text_id, str) and self._corpus.row_of(text_id) is not None

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return self._corpus._row(at)["_id"]


def text_hash(text: str) -> int:
    """64 bits that are equal for texts that are equal but for case and white space.

    >>> text_hash("A  b") == text_hash("a b\\n") != text_hash("ab")
    True
    """
    return _hash(normalised(text))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _scan(source: Path) -> Iterator[np.ndarray]:
    """Where each line begins, int64 [N + 1]; hashes of ids and of texts, uint64 [N]."""
    starts, ids, texts = array("q", [0]), array("Q"), array("Q")
    with open(source, "rb") as file, progress(source.stat().st_size, f"reading {source.name}", "B") as bar:
        for line in file:
            row = json.loads(line)
            ids.append(_hash(row["_id"]))
            texts.append(text_hash(f"{row.get('title') or ''} {row['text']}"))
            starts.append(starts[-1] + len(line))
            bar.update(len(line))
    yield np.frombuffer(starts, dtype=np.int64)
    yield np.frombuffer(ids, dtype=np.uint64)
    yield np.frombuffer(texts, dtype=np.uint64)
