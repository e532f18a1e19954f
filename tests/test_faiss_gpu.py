"""The GPU's checks, with a FAISS that plays the GPU."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from bgetune.errors import UserError
from bgetune.index.dense import DenseIndex
from bgetune.index.exact import exact_search
from bgetune.index.faiss_gpu import check_alike, require_gpu, to_gpu
from bgetune.index.tune import recall, tune

VECTORS = np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32)
QUERIES = VECTORS[:30] + 0.1
_, EXACT = exact_search(QUERIES, VECTORS, "cosine", 10)


class Broken:
    """An index whose answers are spoilt."""

    def __init__(self, index, spoil):
        self._index, self._spoil, self.ntotal = index, spoil, index.ntotal

    def search(self, queries, depth):
        return self._spoil(*self._index.search(queries, depth))


@pytest.fixture
def gpu(monkeypatch):
    """FAISS with one GPU, which is the processor; returns what moves an index, to be replaced."""
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "GpuParameterSpace", faiss.ParameterSpace, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)

    def play(spoil=None):
        def move(resources, device, index):
            assert (resources, device) == ("resources", 0)
            copy = faiss.clone_index(index)
            return Broken(copy, spoil) if spoil else copy

        monkeypatch.setattr(faiss, "index_cpu_to_gpu", move, raising=False)

    play()
    return play


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "IVF8,PQ4", "IVF8,SQ8", "PCA4,IVF8,Flat"])
def test_a_sound_gpu_is_trusted_and_tuned(gpu, factory):
    index = DenseIndex.build(VECTORS, "cosine", factory)
    moved = to_gpu(index, QUERIES, EXACT)
    assert moved.on_gpu
    assert moved.exact_scores == index.exact_scores
    tuned = tune(moved, QUERIES, EXACT, 10, 0.3)
    assert recall(moved.search(QUERIES, 10)[1], EXACT) == tuned.recall >= 0.3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda scores, rows: (scores, np.roll(rows, 1, axis=0)), r"finds 0\.\d+ of exact search's nearest"),
        (lambda scores, rows: (scores, np.full_like(rows, -1)), r"finds 0\.000 of exact search's nearest"),
        (lambda scores, rows: (scores * 1.01, rows), "scores a passage"),
        (lambda scores, rows: (scores * np.nan, rows), "scores a passage nan"),
    ],
)
def test_a_gpu_that_answers_otherwise_is_refused(gpu, spoil, message):
    gpu(spoil)
    with pytest.raises(UserError, match=rf"^mine\.index_device: the GPU {message}.*set it to cpu"):
        to_gpu(DenseIndex.build(VECTORS, "cosine"), QUERIES, EXACT)


def test_rounding_is_no_mismatch():
    scores, rows = exact_search(QUERIES, VECTORS, "cosine", 10)
    check_alike((scores, rows), (scores * (1 + 1e-5), rows), EXACT, "option")


@pytest.mark.parametrize("factory", ["HNSW8", "IVF8,PQ4x4fs", "SQ8", "Flat,RFlat"])
def test_types_without_a_gpu_version_are_named(gpu, factory):
    with pytest.raises(
        UserError, match=r"^mine\.index: FAISS has no Index\w+ for a GPU; use Flat, .* mine\.index_device: cpu"
    ):
        to_gpu(DenseIndex.build(VECTORS, "cosine", factory), QUERIES, EXACT)


def test_a_faiss_without_gpus_names_what_to_install():
    with pytest.raises(UserError, match=r"^mine\.index_device: gpu, but .*`pip install faiss-gpu-cu12`"):
        to_gpu(DenseIndex.build(VECTORS, "cosine"), QUERIES, EXACT)


def test_no_gpu_in_sight(gpu, monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(UserError, match="FAISS sees no GPU; check nvidia-smi"):
        require_gpu()


def test_no_room_on_the_gpu_is_one_line(gpu, monkeypatch):
    def move(*_):
        raise RuntimeError("Error in void f() at /a/b.cu:1: Error: 'err == cudaSuccess' failed: out of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", move)
    with pytest.raises(UserError, match=r"^mine\.index_device: FAISS cannot move the index to the GPU: out of memory$"):
        to_gpu(DenseIndex.build(VECTORS, "cosine"), QUERIES, EXACT)
