"""What a reader of our folder gives for some texts, and how far that is from what we give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgetune.encoder import Encoder


@dataclass(frozen=True)
class Read:
    """Of N texts, as passages without an instruction; None for a head that is not read."""

    dense: np.ndarray | None = None
    """float32 [N, D]."""
    sparse: Sequence[Mapping[int, float]] | None = None
    """N times token id -> weight above 0; special tokens have none."""
    multi_vector: Sequence[np.ndarray] | None = None
    """N times float32 [tokens, M]: every token but CLS and padding."""


@dataclass(frozen=True)
class Reader:
    """One way to load an export."""

    name: str
    """As in the table of differences: `sentence-transformers`, `onnxruntime int8`."""
    package: str
    """Module that must be installed."""
    applies: Callable[[Path, Encoder], bool]
    """Whether the folder (and what lies beside it) can be read so: needed files are there, pooling is known to it."""
    read: Callable[[Path, Encoder, Sequence[str]], Read]
    """Load and encode, on the CPU; `encoder` is ours, for its spec and its tokenizer's limits."""
    tolerance: float | None = None
    """Largest difference that will do; None: what the precision of the weights allows."""
    by_cosine: bool = False
    """Judged by the smallest cosine (of a text's dense vector, sparse weights, token vectors), which must be .99."""
