"""Encoded texts as arrays, in memory or in a folder of .npy files that are mapped when they are read.

Shapes: N texts, T tokens of all texts together, D width of a dense vector, M width of a token's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgetune.config import Head
from bgetune.encoder import Encoder
from bgetune.files import read_json, sha256_file, sha256_json, write_json
from bgetune.index.multi_vector import TokenMatrix
from bgetune.index.sparse import SparseMatrix
from bgetune.representations import Representations


class RowPieces:
    """Rows [T, M] that lie in several arrays, one after the other; taken as from one array, and never joined."""

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        self._pieces = pieces
        self._starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])
        self.shape = (int(self._starts[-1]), pieces[0].shape[1])
        self.dtype = pieces[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        """The rows at positions int64 [N], or of a slice: [N, M], read into memory.

        >>> rows = RowPieces([np.array([[1.0], [2.0]]), np.array([[3.0]])])
        >>> rows[np.array([2, 0])].tolist(), rows[1:].tolist()
        ([[3.0], [1.0]], [[2.0], [3.0]])
        """
        if isinstance(at, slice):
            at = np.arange(*at.indices(len(self)))
        found = np.empty((len(at), self.shape[1]), dtype=self.dtype)
        of_piece = np.searchsorted(self._starts, at, side="right") - 1
        for piece in np.unique(of_piece):
            here = of_piece == piece
            found[here] = self._pieces[piece][at[here] - self._starts[piece]]
        return found


@dataclass(frozen=True)
class Encoded:
    """N texts as each head sees them; None for a head that was not asked for.

    dense: float32 or float16 [N, D], in memory or mapped.
    """

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
        """What a `Writer` has written. Vectors are mapped and not read."""
        heads = read_json(folder / "heads.json")

        def array(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        sparse = multi = None
        if "sparse" in heads:
            sparse = SparseMatrix(
                array("sparse_indptr"), array("sparse_ids"), array("sparse_weights"), heads["sparse"]["width"]
            )
        if "multi_vector" in heads:
            multi = TokenMatrix(array("multi_vectors"), array("multi_offsets"))
        return cls(array("dense") if "dense" in heads else None, sparse, multi)

    @classmethod
    def join(cls, pieces: Sequence[Encoded]) -> Encoded:
        """The texts of all pieces, one piece after the other. Token vectors stay where they are."""
        if len(pieces) == 1:
            return pieces[0]
        dense = [piece.dense for piece in pieces if piece.dense is not None]
        sparse = [piece.sparse for piece in pieces if piece.sparse is not None]
        multi = [piece.multi_vector for piece in pieces if piece.multi_vector is not None]
        return cls(
            np.concatenate(dense) if dense else None,
            SparseMatrix(
                _joined_offsets([piece.indptr for piece in sparse]),
                np.concatenate([piece.ids for piece in sparse]),
                np.concatenate([piece.weights for piece in sparse]),
                sparse[0].width,
            )
            if sparse
            else None,
            TokenMatrix(
                RowPieces([np.asarray(piece.vectors) for piece in multi]),
                _joined_offsets([piece.offsets for piece in multi]),
            )
            if multi
            else None,
        )


def _joined_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray:
    """
    >>> _joined_offsets([np.array([0, 2]), np.array([0, 1, 4])]).tolist()
    [0, 2, 3, 6]
    """
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(each) for each in offsets]), dtype=np.int64)])


class Writer:
    """Takes representations batch by batch, in any order of the texts, and ends as `Encoded`.

    With a folder the arrays are written there, with their checksums, and the token vectors never stand in memory. Token
    vectors are kept in half precision, dense vectors as `dtype` says.
    """

    def __init__(
        self,
        encoder: Encoder,
        token_ids: Sequence[Sequence[int]],
        heads: Sequence[Head],
        folder: Path | None,
        dtype: str = "fp32",
    ) -> None:
        self._folder, self._heads, self._width = folder, heads, len(encoder.tokenizer)
        kept = np.float16 if dtype == "fp16" else np.float32
        self._dense = np.empty((len(token_ids), encoder.width), dtype=kept) if "dense" in heads else None
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
        sums = {path.name: sha256_file(path) for path in sorted(folder.glob("*.npy"))}
        note = {**heads, "texts": len(self._sparse_lengths), "sha256": sums}
        write_json(folder / "heads.json", {**note, "note": sha256_json(note)})
