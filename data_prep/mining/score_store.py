"""Scores of millions of pairs in blocks on disk: shared over processes, kept over a kill, checked when read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgetune.errors import UserError
from bgetune.files import atomic_file, sha256_json
from bgetune.progress import progress

from .teacher import Scorer

_BLOCK = 1024
"""Pairs of a block: what a kill costs at most, and within which a scorer may sort by length."""
_SEAL = hashlib.sha256().digest_size


@dataclass(frozen=True)
class PairSource:
    """N pairs to score; texts are asked for block by block."""

    queries: np.ndarray
    """int64 [N]: what `query_text` takes."""
    passages: np.ndarray
    """int64 [N]: what `passage_text` takes."""
    query_text: Callable[[int], str]
    passage_text: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.queries)

    def texts(self, start: int, end: int) -> list[tuple[str, str]]:
        """The texts of pairs `start` to `end`."""
        rows = zip(self.queries[start:end].tolist(), self.passages[start:end].tolist(), strict=True)
        return [(self.query_text(query), self.passage_text(passage)) for query, passage in rows]


def score_blocks(
    scorer: Scorer, pairs: PairSource, folder: Path, key: str, label: str, rank: int = 0, world: int = 1
) -> None:
    """Score this process's blocks, every `world`th one, that `folder` does not hold yet.

    Blocks are the same however many processes there are and wherever an earlier start was killed; a scorer sees
    one whole block at a time. `read_scores` reads them, when every process has done its own.

    Args:
        key: hash of what decides the scores: the scorer and the texts. The pairs' numbers and the size of a block
            are added here.
        label: for the progress bar.

    Raises:
        UserError: a score is not finite.
    """
    place = _place(pairs, folder, key)
    mine = _blocks(pairs)[rank::world]
    missing = [block for block in mine if _read(place, block) is None]
    total, to_do = (sum(end - start for _, start, end in blocks) for blocks in (mine, missing))
    with progress(total, label, "pair", initial=total - to_do) as bar:
        for block in missing:
            _, start, end = block
            scores = scorer(pairs.texts(start, end))
            assert scores.shape == (end - start,), f"{end - start} pairs, scores of shape {scores.shape}"
            _refuse_infinite(scores, pairs, start)
            _write(place, block, scores.astype(np.float32))
            bar.update(end - start)


def read_scores(pairs: PairSource, folder: Path, key: str) -> np.ndarray:
    """The scores of all pairs, float32 [N], once every block is there.

    Raises:
        UserError: a block is missing or damaged.
    """
    place = _place(pairs, folder, key)
    scores = np.empty(len(pairs), dtype=np.float32)
    for block in _blocks(pairs):
        number, start, end = block
        found = _read(place, block)
        if found is None:
            raise UserError(
                f"{_file(place, number)}: missing or damaged; run the same command again, it goes on from here"
            )
        scores[start:end] = found
    return scores


_Block = tuple[int, int, int]
"""Number, first pair, one after the last pair."""


def _blocks(pairs: PairSource) -> list[_Block]:
    starts = range(0, len(pairs), _BLOCK)
    return [(number, start, min(start + _BLOCK, len(pairs))) for number, start in enumerate(starts)]


def _place(pairs: PairSource, folder: Path, key: str) -> Path:
    """The folder of these pairs' blocks: its name is a hash, so that other pairs' scores are never taken for them."""
    columns = (np.asarray(column, dtype="<i8").tobytes() for column in (pairs.queries, pairs.passages))
    return folder / sha256_json([key, _BLOCK, *(hashlib.sha256(column).hexdigest() for column in columns)])[:32]


def _file(place: Path, number: int) -> Path:
    return place / f"{number:06d}.npy"


def _write(place: Path, block: _Block, scores: np.ndarray) -> None:
    """An .npy file with its SHA-256 behind the numbers, where `np.load` does not look: one file, whole or absent."""
    buffer = io.BytesIO()
    np.save(buffer, scores)
    content = buffer.getvalue()
    with atomic_file(_file(place, block[0]), "wb") as file:
        file.write(content + hashlib.sha256(content).digest())


def _read(place: Path, block: _Block) -> np.ndarray | None:
    """The scores of a block; None where there are none, or not the ones that were written."""
    number, start, end = block
    try:
        sealed = _file(place, number).read_bytes()
    except FileNotFoundError:
        return None
    content, seal = sealed[:-_SEAL], sealed[-_SEAL:]
    if hashlib.sha256(content).digest() != seal:
        return None
    scores = np.load(io.BytesIO(content), allow_pickle=False)
    return scores if scores.shape == (end - start,) else None


def _refuse_infinite(scores: np.ndarray, pairs: PairSource, start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query, passage = pairs.texts(start + int(bad[0]), start + int(bad[0]) + 1)[0]
        raise UserError(
            f"mine.teacher: the score of {query[:40]!r} with {passage[:40]!r} is {scores[bad[0]]}, no finite number; "
            "choose another teacher"
        )
