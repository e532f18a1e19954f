"""Does a folder that came back from the Hub give our vectors?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bgetune.config import HEADS, JobConfig
from bgetune.encoder import Encoder
from bgetune.export.push_failures import PushFailed

TEXTS = ("What is the capital of France?", "東京は日本の首都です。", "🙂 Müller's 3 rules: a, b and c.", "a")
_TOLERANCE = 1e-5
"""Of the same weights: what the order of a sum may change."""


def compared(ours: Path, theirs: Path, config: JobConfig) -> str:
    """Load both folders and encode a few texts with every head; what to say of it.

    Raises:
        PushFailed: their numbers differ.
    """
    before, after = (_numbers(Encoder.load_folder(folder, config.model)) for folder in (ours, theirs))
    alike = before.shape == after.shape
    difference = float(np.abs(before - after).max(initial=0.0)) if alike else float("inf")
    largest = max(1.0, float(np.abs(before).max(initial=0.0)))
    if not difference / largest <= _TOLERANCE:
        raise PushFailed(f"push: the model that the Hub gives back has other vectors than {ours}, by {difference:.1e}")
    return f", its vectors of {len(TEXTS)} texts differ by {difference:.1e}"


def _numbers(encoder: Encoder) -> np.ndarray:
    """What every head gives for each text, one after the other: dense vectors, sparse weights, token vectors."""
    encoder = encoder.to("cpu").eval()
    heads = [head for head in HEADS if encoder.layers.has(head)]
    parts = []
    with torch.inference_mode():
        for text in TEXTS:
            given = encoder(*encoder.pad(encoder.tokenize([text], "passage")[0]), heads)
            parts += [given.dense] if given.dense is not None else []
            parts += [given.sparse.weights] if given.sparse is not None else []
            parts += [given.multi_vector.vectors] if given.multi_vector is not None else []
    return np.concatenate([part.float().flatten().numpy() for part in parts])
