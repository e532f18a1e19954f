"""Latencies are told of one core, so that machines can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS and torch with one thread each."""
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before[0])
        torch.set_num_threads(before[1])
