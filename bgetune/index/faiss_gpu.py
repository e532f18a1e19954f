"""FAISS on a GPU: an explicit choice, compared with the processor before it is trusted, never given up in silence."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from bgetune.errors import UserError
from bgetune.index.dense import DenseIndex, faiss_reason
from bgetune.index.tune import recall, set_parameter

# What FAISS's GPU part holds. Handed another type, FAISS hands back a copy on the processor and says nothing.
_ON_GPU = ("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexIVFFlat", "IndexIVFPQ", "IndexIVFScalarQuantizer")
_RECALL_LOST = 0.01
_SCORE_OFF = 1e-3  # of the score, or of 1 where that is more
_PROBES = 16


def to_gpu(
    index: DenseIndex,
    queries: np.ndarray,
    exact_rows: np.ndarray,
    option: str = "mine.index_device",
    index_option: str = "mine.index",
) -> DenseIndex:
    """The same index on the first GPU, after both were asked the same and answered alike.

    Args:
        queries: float [Q, D], the sample that is compared.
        exact_rows: int64 [Q, K], what `exact_search` finds for them.
        option, index_option: named in messages.

    Raises:
        UserError: this FAISS has no GPU, the GPU has no index of this type or no room for it, or it answers otherwise
            than the processor.
    """
    require_gpu(option)
    kind = _kind(index.faiss_index)
    if kind not in _ON_GPU:
        raise UserError(
            f"{index_option}: FAISS has no {kind} for a GPU; use Flat, IVFn,Flat, IVFn,PQm or IVFn,SQ8, or "
            f"{option}: cpu"
        )
    try:
        resources = faiss.StandardGpuResources()
        moved = DenseIndex(
            faiss.index_cpu_to_gpu(resources, 0, index.faiss_index),
            index.similarity, index.vectors, option, on_gpu=True, exact_scores=index.exact_scores, owner=resources,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"{option}: FAISS cannot move the index to the GPU: {faiss_reason(error)}") from None
    moved.wider = index.wider
    if "IVF" in kind:
        lists: Any = faiss.try_extract_index_ivf(index.faiss_index)
        for each in (index, moved):
            set_parameter(each, "nprobe", min(_PROBES, int(lists.nlist)))
    depth = exact_rows.shape[1]
    check_alike(index.search(queries, depth), moved.search(queries, depth), exact_rows, option)
    return moved


def require_gpu(option: str = "mine.index_device") -> None:
    """Raise UserError unless this FAISS was built for GPUs and sees one; cheap, so that a job can ask it first."""
    if not hasattr(faiss, "StandardGpuResources"):
        raise UserError(
            f"{option}: gpu, but the installed FAISS is for processors; `pip uninstall faiss-cpu`, then "
            "`pip install faiss-gpu-cu12` (Linux, CUDA 12), or set it to cpu"
        )
    if faiss.get_num_gpus() < 1:
        raise UserError(
            f"{option}: gpu, but FAISS sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, or set it to cpu"
        )


def check_alike(
    cpu: tuple[np.ndarray, np.ndarray], gpu: tuple[np.ndarray, np.ndarray], exact_rows: np.ndarray, option: str
) -> None:
    """Compare two answers, scores [Q, K] and rows [Q, K] each, with each other and with exact search's rows.

    Raises:
        UserError: the GPU finds less of the exact rows than the processor does (by more than 0.01), or scores a row
            that both found differently (by more than 0.001 of the score, or of 1).
    """
    least, found = recall(cpu[1], exact_rows) - _RECALL_LOST, recall(gpu[1], exact_rows)
    if found < least:
        raise UserError(
            f"{option}: the GPU finds {found:.3f} of exact search's nearest, the processor at least {least:.3f}; "
            "this GPU or its FAISS cannot be trusted, set it to cpu"
        )
    for ours, ours_at, theirs, theirs_at in zip(*cpu, *gpu, strict=True):
        shared, here, there = np.intersect1d(ours_at, theirs_at, return_indices=True)
        both = shared >= 0
        a, b = ours[here[both]], theirs[there[both]]
        off = np.abs(a - b) / np.maximum(np.abs(a), 1.0)
        if not (off <= _SCORE_OFF).all():  # NaN is not
            raise UserError(
                f"{option}: the GPU scores a passage {b[off.argmax()]:.6g}, the processor {a[off.argmax()]:.6g}; "
                "this GPU or its FAISS cannot be trusted, set it to cpu"
            )


def _kind(index: Any) -> str:
    """Name of the type behind what transforms vectors first."""
    while type(index).__name__ == "IndexPreTransform":
        index = faiss.downcast_index(index.index)
    return type(index).__name__
