"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from bgetune.config import TrainConfig


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Rate of step `step` (from 0) of `total`: linear warm-up from 0, then linear or cosine decay to 0.

    >>> config = TrainConfig(learning_rate=1.0, warmup_share=0.5, schedule="linear")
    >>> [learning_rate(step, 4, config) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = math.ceil(total * config.warmup_share)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    decayed = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * decayed
