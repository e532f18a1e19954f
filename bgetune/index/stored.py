"""A dense index on disk, with a note beside it: either both are whole and what was asked for, or there is none."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bgetune.config import Similarity
from bgetune.errors import UserError
from bgetune.files import atomic_file, read_json, sha256_file, write_json
from bgetune.index.dense import DenseIndex
from bgetune.index.tune import Tuned, set_parameter

log = logging.getLogger("bgetune")


def save_index(path: Path, index: DenseIndex, key: str, tuned: Tuned | None = None) -> None:
    """Write `path` and `path`.json. A kill leaves the old ones, or a pair that `load_index` calls absent.

    Args:
        key: what it was built from, for example a hash of vectors, factory string and seed.

    Raises:
        OSError: the disk is full.
    """
    assert not index.on_gpu, "save before it is moved"
    digest = hashlib.sha256()
    with atomic_file(path, "wb") as file:

        def write(block: bytes) -> int:
            digest.update(block)  # of what was meant, so that a write that went wrong unnoticed is found out
            return file.write(block)

        writer: Any = getattr(faiss, "PyCallbackIOWriter")  # noqa: B009 - FAISS's own stubs lack it
        faiss.write_index(index.faiss_index, writer(write))
    # latency is a measurement: it differs from run to run, and these files do not
    note = {k: v for k, v in asdict(tuned).items() if k != "milliseconds"} if tuned else None
    write_json(_note(path), {**_identity(index, key), "sha256": digest.hexdigest(), "tuned": note})


def load_index(
    path: Path, vectors: np.ndarray, similarity: Similarity, key: str, option: str = "index"
) -> DenseIndex | None:
    """The index as it was saved, mapped from disk, with the parameter it was tuned to.

    Args:
        vectors: [N, D] it was built over; an index of codes re-scores with them.
        key: as it was saved.

    Returns:
        None when there is none, or it is torn, damaged or was built from something else; the log says which.

    Raises:
        UserError: it is whole and FAISS cannot read it, so that another FAISS has written it.
    """
    note = _read_note(path)
    if note is None:
        return None
    wanted = {"key": key, "similarity": similarity, "rows": len(vectors), "width": int(vectors.shape[1])}
    reason = "is not what was asked for" if any(note.get(k) != v for k, v in wanted.items()) else ""
    if not reason and (not path.is_file() or sha256_file(path) != note.get("sha256")):
        reason = "is not whole"
    if reason:
        log.info("%s: the index %s and counts as absent", path, reason)
        return None
    try:
        read = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        raise UserError(
            f"{path}: this FAISS ({faiss.__version__}) cannot read it; remove it, it is built again"
        ) from None
    index = DenseIndex(read, similarity, vectors, option)
    if tuned := note.get("tuned"):
        index.wider = tuned["wider"]
        if tuned["parameter"]:
            set_parameter(index, tuned["parameter"], tuned["value"])
    return index


def _identity(index: DenseIndex, key: str) -> dict[str, Any]:
    return {"key": key, "similarity": index.similarity, "rows": len(index), "width": int(index.vectors.shape[1])}


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_note(path: Path) -> dict[str, Any] | None:
    try:
        note = read_json(_note(path))
    except (FileNotFoundError, ValueError):
        return None
    return note if isinstance(note, dict) else None
