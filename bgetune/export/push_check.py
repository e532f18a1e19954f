"""Does a folder that came back from the Hub give our vectors?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgetune.config import JobConfig
from bgetune.encoder import Encoder
from bgetune.export.push_failures import PushFailed
from bgetune.export.reading import differences, our_read

TEXTS = ("What is the capital of France?", "東京は日本の首都です。", "🙂 Müller's 3 rules: a, b and c.", "a")
_TOLERANCE = 1e-5
"""Of the same weights: what the order of a sum may change."""


def compared(ours: Path, theirs: Path, config: JobConfig) -> str:
    """Load both folders and encode a few texts with every head; what to say of it.

    Raises:
        PushFailed: their numbers differ.
    """
    before, after = (our_read(Encoder.load_folder(folder, config.model).to("cpu"), TEXTS) for folder in (ours, theirs))
    found = differences(after, before)
    difference = float(np.max(list(found.values()))) if after.heads == before.heads else float("inf")  # NaN stays NaN
    if not difference <= _TOLERANCE:
        raise PushFailed(f"push: the model that the Hub gives back has other vectors than {ours}, by {difference:.1e}")
    return f", its vectors of {len(TEXTS)} texts differ by {difference:.1e}"
