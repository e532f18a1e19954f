"""Numbers in one byte each: per dimension, over the range that a sample has.

FAISS's scalar quantiser: it decodes to the middle of a code's range, and compares float queries with codes, as
production indexes do. sentence-transformers' `quantize_embeddings` has the same codes, but no decoding, and would
quantise the query as well.

Shapes: N rows, D width.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from bgetune.index.dense import sample_rows
from bgetune.index.exact import ROWS_AT_ONCE
from bgetune.index.multi_vector import Rows

CALIBRATION = 10_000
"""Rows that the ranges are taken from, at most."""


class Int8:
    """Ranges of D dimensions; values outside of them are clipped."""

    def __init__(self, sample: np.ndarray) -> None:
        """sample: float32 [N, D], N at least 1."""
        self._codec = faiss.IndexScalarQuantizer(sample.shape[1], faiss.ScalarQuantizer.QT_8bit)
        self._codec.train(np.ascontiguousarray(sample, dtype=np.float32))

    @classmethod
    def fit(cls, rows: Rows, seed: int) -> Int8:
        """Ranges of a seeded sample of rows [N, D]."""
        return cls(rows[sample_rows(len(rows), CALIBRATION, seed)])

    def encode(self, rows: Rows) -> np.ndarray:
        """Codes uint8 [N, D], made block by block.

        >>> codec = Int8(np.array([[0.0, -1.0], [255.0, 1.0]]))
        >>> codec.encode(np.array([[128.2, -1.0], [0.0, 9.0]])).tolist()
        [[128, 0], [0, 255]]
        """
        codes = np.empty(rows.shape, dtype=np.uint8)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = np.ascontiguousarray(rows[start : start + ROWS_AT_ONCE], dtype=np.float32)
            codes[start : start + len(block)] = self._codec.sa_encode(block)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """float32 [N, D].

        >>> codec = Int8(np.array([[0.0], [255.0]]))
        >>> codec.decode(np.array([[3]], dtype=np.uint8)).tolist()
        [[3.5]]
        """
        return self._codec.sa_decode(np.ascontiguousarray(codes))


class Decoded:
    """Codes [N, D] that are decoded when they are read."""

    def __init__(self, codes: np.ndarray, codec: Int8) -> None:
        self._codes, self._codec = codes, codec
        self.shape = codes.shape

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, at: Any, /) -> np.ndarray:
        return self._codec.decode(self._codes[at])
