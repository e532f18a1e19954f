"""What a reader of our folder gives for some texts, and how far that is from what we give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bgetune.config import HEADS, Head
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

    @property
    def heads(self) -> tuple[Head, ...]:
        """Which were read."""
        return tuple(head for head in HEADS if getattr(self, head) is not None)

    def take(self, texts: Sequence[int]) -> Read:
        """Some of the texts, in the order given."""
        return Read(
            None if self.dense is None else self.dense[list(texts)],
            None if self.sparse is None else [self.sparse[i] for i in texts],
            None if self.multi_vector is None else [self.multi_vector[i] for i in texts],
        )


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
    """Judged by cosines (see `cosine_losses`), which must be .99."""
    needs: str = "files that the folder has not"
    """What is missing where it does not apply, for the table."""
    plain_texts: bool = False
    """It has its own way with special tokens that a text writes out, such as [MASK]; those texts are not compared."""


def longest(encoder: Encoder) -> int:
    """Tokens that a reader with one limit for queries and passages cuts at."""
    return max(encoder.spec.query_max_length, encoder.spec.passage_max_length)


def tokenized(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """Token ids as a reader with one limit has them."""
    batch = encoder.tokenizer(list(texts), truncation=True, max_length=longest(encoder), return_token_type_ids=False)
    return batch["input_ids"]


def our_read(encoder: Encoder, texts: Sequence[str], told: Callable[[int], object] = lambda texts: None) -> Read:
    """Every head there is, for each text without an instruction; one at a time, so that no padding is involved.

    Args:
        encoder: on the CPU, in float32.
        told: is called with the number of texts that are done more.
    """
    encoder.eval()
    heads = [head for head in HEADS if encoder.layers.has(head)]
    dense, sparse, multi_vector = [], [], []
    with torch.inference_mode():
        for ids in tokenized(encoder, texts):
            found = encoder(*encoder.pad([ids]), heads)
            dense.append(found.dense.float().numpy()[0])
            if found.sparse is not None:
                pairs = zip(found.sparse.ids.tolist(), found.sparse.weights.tolist(), strict=True)
                sparse.append({token: weight for token, weight in pairs if weight != 0})
            if found.multi_vector is not None:
                multi_vector.append(found.multi_vector.vectors.float().numpy())
            told(1)
    return Read(np.stack(dense), sparse or None, multi_vector or None)


def differences(theirs: Read, ours: Read) -> dict[Head, float]:
    """The largest difference of each head that both have.

    Absolute, or relative where there are numbers above 1, as in vectors that are not of length 1. Infinite where there
    is another number of vectors; NaN where either has NaN.
    """
    found: dict[Head, float] = {}
    if theirs.dense is not None and ours.dense is not None:
        found["dense"] = _largest(np.asarray(theirs.dense), ours.dense)
    if theirs.sparse is not None and ours.sparse is not None:
        found["sparse"] = _worst(theirs.sparse, ours.sparse, lambda *both: _largest(*_side_by_side(*both)))
    if theirs.multi_vector is not None and ours.multi_vector is not None:
        found["multi_vector"] = _worst(theirs.multi_vector, ours.multi_vector, _largest)
    return found


def cosine_losses(theirs: Read, ours: Read) -> dict[Head, float]:
    """1 less a cosine, of each head that both have; NaN and infinite as in `differences`.

    The smallest over the texts: of the dense vector, of all token vectors of a text one after the other. Of the sparse
    weights that of all texts one after the other: they are compared by dot products, in which a text of which hardly
    any weight is above 0 hardly counts, while its cosine may be anything.
    """
    found: dict[Head, float] = {}
    if theirs.dense is not None and ours.dense is not None:
        found["dense"] = _worst(theirs.dense, ours.dense, _cosine_loss)
    if theirs.sparse is not None and ours.sparse is not None:
        alike = len(theirs.sparse) == len(ours.sparse)
        pairs = [_side_by_side(one, other) for one, other in zip(theirs.sparse, ours.sparse, strict=alike)]
        one, other = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
        found["sparse"] = _cosine_loss(one, other) if alike else float("inf")
    if theirs.multi_vector is not None and ours.multi_vector is not None:
        found["multi_vector"] = _worst(theirs.multi_vector, ours.multi_vector, _cosine_loss)
    return found


def _worst(theirs: Any, ours: Any, of_text: Callable[[Any, Any], float]) -> float:
    """The largest over sequences of texts; NaN where one is."""
    if len(theirs) != len(ours):
        return float("inf")
    return float(np.max([of_text(one, other) for one, other in zip(theirs, ours, strict=True)]))


def _largest(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest difference, as a share of our largest number where that is above 1: float32 has seven digits.

    >>> _largest(np.array([0.5, 0.25]), np.array([0.5, 0.5])), _largest(np.array([15.0]), np.array([20.0]))
    (0.25, 0.25)
    """
    if theirs.shape != ours.shape:
        return float("inf")
    return float(np.abs(theirs - ours).max(initial=0.0)) / max(1.0, float(np.abs(ours).max(initial=0.0)))


def _cosine_loss(theirs: np.ndarray, ours: np.ndarray) -> float:
    """
    >>> _cosine_loss(np.array([2.0, 0.0]), np.array([1.0, 0.0])), _cosine_loss(np.array([0.0]), np.array([0.0]))
    (0.0, 0.0)
    """
    if theirs.shape != ours.shape:
        return float("inf")
    one, other = theirs.astype(np.float64).ravel(), ours.astype(np.float64).ravel()
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    if lengths == 0:
        return 0.0 if np.array_equal(one, other) else 1.0
    return float(np.maximum(0.0, 1 - one @ other / lengths))  # Python's max would take 0 over NaN


def _side_by_side(theirs: Mapping[int, float], ours: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the tokens that either has; a token that is left out weighs 0.

    >>> _side_by_side({7: 0.5}, {7: 0.25, 9: 1.0})
    (array([0.5, 0. ]), array([0.25, 1.  ]))
    """
    tokens = sorted({*theirs, *ours})
    return tuple(np.array([row.get(token, 0.0) for token in tokens]) for row in (theirs, ours))  # type: ignore[return-value]
