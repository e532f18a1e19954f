"""Encoded texts as arrays, in memory or in a folder of .npy files that are mapped when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgetune.config import Head
from bgetune.encoder import Encoder
from bgetune.files import read_json, write_json
from bgetune.index.multi_vector import TokenMatrix
from bgetune.index.sparse import SparseMatrix
from bgetune.representations import Representations


@dataclass(frozen=True)
class Encoded:
    """N texts as each head sees them; None for a head that was not asked for. dense: float32 [N, D]."""

    dense: np.ndarray | None = None
    sparse: SparseMatrix | None = None
    multi_vector: TokenMatrix | None = None

    @property
    def vectors(self) -> np.ndarray:
        """The dense vectors, where they were asked for."""
        assert self.dense is not None
        return self.dense

    @classmethod
    def read(cls, folder: Path) -> Encoded:
        """What a `Store` has written. The token vectors, which are many, are mapped and not read."""
        heads = read_json(folder / "heads.json")

        def array(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", mmap_mode="r" if name == "multi_vectors" else None)

        sparse = multi = None
        if "sparse" in heads:
            sparse = SparseMatrix(
                array("sparse_indptr"), array("sparse_ids"), array("sparse_weights"), heads["sparse"]["width"]
            )
        if "multi_vector" in heads:
            multi = TokenMatrix(array("multi_vectors"), array("multi_offsets"))
        return cls(array("dense") if "dense" in heads else None, sparse, multi)


class Store:
    """Takes representations batch by batch, in any order of the texts, and ends as `Encoded`.

    With a folder the arrays are written there, and the token vectors never stand in memory. Token vectors are kept in
    half precision.
    """

    def __init__(
        self, encoder: Encoder, token_ids: Sequence[Sequence[int]], heads: Sequence[Head], folder: Path | None
    ) -> None:
        self._folder, self._heads, self._width = folder, heads, len(encoder.tokenizer)
        self._dense = np.empty((len(token_ids), encoder.width), dtype=np.float32) if "dense" in heads else None
        self._sparse: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._sparse_lengths = np.zeros(len(token_ids), dtype=np.int64)
        if "multi_vector" in heads:
            cls_id, layer = encoder.tokenizer.cls_token_id, encoder.layers.colbert_linear
            assert layer is not None, "the encoder has no multi-vector head"
            counts = [sum(token != cls_id for token in ids) for ids in token_ids]
            self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
            self._multi = self._empty("multi_vectors", (int(self._offsets[-1]), layer.out_features))

    def _empty(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        if self._folder is None or shape[0] == 0:
            return np.empty(shape, dtype=np.float16)
        return np.lib.format.open_memmap(self._folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape)

    def put(self, texts: Sequence[int], found: Representations) -> None:
        """The representations of `texts`, in that order."""
        if found.dense is not None and self._dense is not None:
            self._dense[list(texts)] = found.dense.float().cpu().numpy()
        if found.sparse is not None:
            weights = found.sparse.weights.float().cpu().numpy()
            of_text = np.repeat(np.asarray(texts), found.sparse.offsets.diff().numpy())
            there = weights > 0
            ids = found.sparse.ids.cpu().numpy().astype(np.int32)
            self._sparse.append((of_text[there], ids[there], weights[there]))
        if found.multi_vector is not None:
            vectors = found.multi_vector.vectors.half().cpu().numpy()
            starts = found.multi_vector.offsets.tolist()
            for place, text in enumerate(texts):
                low, high = self._offsets[text], self._offsets[text + 1]
                self._multi[low:high] = vectors[starts[place] : starts[place + 1]]

    def close(self) -> Encoded:
        """Everything that was put, text after text."""
        done = Encoded(self._dense, self._sparse_matrix(), self._token_matrix())
        if self._folder is not None:
            self._write(self._folder, done)
        return done

    def _sparse_matrix(self) -> SparseMatrix | None:
        if "sparse" not in self._heads:
            return None
        of_text, ids, weights = (np.concatenate(column) for column in zip(*self._sparse, strict=True))
        order = np.lexsort((ids, of_text))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(of_text, minlength=len(self._sparse_lengths)))])
        return SparseMatrix(indptr.astype(np.int64), ids[order], weights[order], self._width)

    def _token_matrix(self) -> TokenMatrix | None:
        return TokenMatrix(self._multi, self._offsets) if "multi_vector" in self._heads else None

    def _write(self, folder: Path, done: Encoded) -> None:
        heads: dict[str, dict[str, int]] = {}
        if done.dense is not None:
            np.save(folder / "dense.npy", done.dense)
            heads["dense"] = {}
        if done.sparse is not None:
            for name in ("indptr", "ids", "weights"):
                np.save(folder / f"sparse_{name}.npy", getattr(done.sparse, name))
            heads["sparse"] = {"width": self._width}
        if done.multi_vector is not None:
            np.save(folder / "multi_offsets.npy", done.multi_vector.offsets)
            if isinstance(self._multi, np.memmap):
                self._multi.flush()
            else:
                np.save(folder / "multi_vectors.npy", self._multi)
            heads["multi_vector"] = {}
        write_json(folder / "heads.json", heads)
