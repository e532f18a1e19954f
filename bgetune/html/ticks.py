"""Round numbers to cut an axis at."""

from __future__ import annotations

import math


def nice_step(span: float, pieces: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that covers `span` in at most `pieces` steps.

    >>> nice_step(1.0, 10), nice_step(37.0, 5), nice_step(0.013, 4)
    (0.1, 10.0, 0.005)
    """
    least = span / pieces
    power = 10.0 ** math.floor(math.log10(least))
    return next(float(f"{m * power:.6g}") for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
